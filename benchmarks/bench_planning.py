"""Planning on large sparse MDPs: the course's `sparse_value_iteration` against two libraries.

In an environment of its own (numpy is all that the course's side needs):
    pip install numpy quantecon==0.11.4 pymdptoolbox==4.0b3
    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/bench_planning.py
writes results/bench_planning.json and results/bench_planning.md.

Times are CPU seconds. Solvers take turns within a repeat, so that a noisy moment hits all alike. What is
timed is the solver alone: each library gets the MDP in its own form, and numba has compiled before.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
import time
import warnings
from pathlib import Path

import mdptoolbox.mdp
import numpy as np
import scipy.sparse
from quantecon.markov import DiscreteDP

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.envs.garnet import garnet_lists  # noqa: E402
from solutions.ch03_bellman import sparse_value_iteration  # noqa: E402

TOL = 1e-8
OURS = "this course: span stop, midrange"


def slippery_grid(side):
    """A side x side grid, -1 a step, goal in a corner; a move slips to each side with probability 0.1."""
    row, col = np.divmod(np.arange(side * side), side)
    moves = [(-1, 0), (0, 1), (1, 0), (0, -1)]

    def land(a):
        d_row, d_col = moves[a % 4]
        return np.clip(row + d_row, 0, side - 1) * side + np.clip(col + d_col, 0, side - 1)

    next_states = np.stack([np.stack([land(a), land(a - 1), land(a + 1)], -1) for a in range(4)], 1)
    probs = np.broadcast_to([0.8, 0.1, 0.1], next_states.shape).copy()
    rewards = np.full(next_states.shape, -1.0)
    next_states[-1], rewards[-1] = side * side - 1, 0.0
    return next_states, probs, rewards


def sup_norm_value_iteration(next_states, probs, rewards, gamma, tol):
    """The same arithmetic with the plain stop, to show what the span stop is worth."""
    after, p = np.ascontiguousarray(next_states.T), np.ascontiguousarray(gamma * probs.T)
    r = np.ascontiguousarray((probs * rewards).sum(-1).T)
    V, change, k = np.zeros(len(next_states)), np.inf, 0
    while gamma * change > (1 - gamma) * tol:
        V_old, V, k = V, (r + (p * V[after]).sum(0)).max(0), k + 1
        change = np.abs(V - V_old).max()
    return V, k


def solvers_for(lists, gamma, with_toolbox):
    """Name to a function that solves the MDP and returns (V, sweeps)."""
    next_states, probs, rewards = lists
    S, A, b = next_states.shape
    starts = np.arange(0, S * A * b + 1, b)
    P = scipy.sparse.csr_matrix((probs.ravel(), next_states.ravel(), starts), shape=(S * A, S)).copy()
    P.sum_duplicates()  # sorts each row in place, hence the copy
    r = (probs * rewards).sum(-1)
    ddp = DiscreteDP(r.ravel(), P, gamma, np.repeat(np.arange(S), A), np.tile(np.arange(A), S))

    def quantecon(method):  # its promise is epsilon / 2
        result = ddp.solve(method=method, epsilon=2 * TOL, max_iter=10**6)
        return result.v, result.num_iter

    def toolbox():
        solver = mdptoolbox.mdp.ValueIteration(
            [P[np.arange(S) * A + a] for a in range(A)], r, gamma, epsilon=TOL, max_iter=10**6
        )
        solver.run()
        return solver.V, solver.iter

    solvers = {
        OURS: lambda: sparse_value_iteration(*lists, gamma, TOL),
        "this course's sweep, plain stop": lambda: sup_norm_value_iteration(*lists, gamma, TOL),
        "quantecon value iteration": lambda: quantecon("value_iteration"),
        "quantecon modified policy iteration": lambda: quantecon("modified_policy_iteration"),
    }
    if with_toolbox:
        solvers["pymdptoolbox value iteration"] = toolbox
    return solvers


def measure(name, lists, gamma, repeats, with_toolbox):
    """CPU seconds, sweeps and true error of each solver on one MDP."""
    solvers = solvers_for(lists, gamma, with_toolbox)
    V_star, _ = sup_norm_value_iteration(*lists, gamma, 1e-12)
    for solver in list(solvers.values())[2:4]:
        solver()  # lets numba compile
    rows = {key: {"seconds": []} for key in solvers}
    for repeat in range(repeats):
        for key, solver in solvers.items():
            if repeat >= 5 and key.startswith("pymdptoolbox"):
                continue  # half a minute each
            start = time.process_time()
            V, sweeps = solver()
            rows[key]["seconds"].append(round(time.process_time() - start, 6))
            rows[key]["true_error"] = float(np.abs(np.asarray(V) - V_star).max())
            rows[key]["sweeps"] = int(sweeps)
    for row in rows.values():
        row["median_s"] = float(np.median(row["seconds"]))
    return {"instance": name, "gamma": gamma, "states": len(lists[0]), "solvers": rows}


def table(report):
    """The report as Markdown, for the book."""
    lines = ["| MDP | solver | CPU ms | ours = 1 | sweeps | true error |", "|---|---|---:|---:|---:|---:|"]
    for case in report["cases"]:
        ours = case["solvers"][OURS]["median_s"]
        for i, (name, row) in enumerate(case["solvers"].items()):
            first = f"{case['instance']}, $\\gamma={case['gamma']}$" if i == 0 else ""
            ms, ratio = f"{1e3 * row['median_s']:,.0f}", f"{row['median_s'] / ours:.2g}"
            if row["median_s"] / ours >= 100:
                ratio = f"{row['median_s'] / ours:.0f}"
            lines.append(f"| {first} | {name} | {ms} | {ratio} | {row['sweeps']} | {row['true_error']:.0e} |")
    lines += [
        "",
        f"Medians over {report['repeats']} repeats (pymdptoolbox: 5), {report['date']}, {report['device']}; "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items())
        + ". A sweep of modified policy iteration holds many cheaper ones."
        + " pymdptoolbox promises a good policy, not values.",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="2-core x86-64 CPU, one thread")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # pymdptoolbox under a new numpy
    small = garnet_lists(np.random.default_rng(0), 1_000, 4, 5)
    large = garnet_lists(np.random.default_rng(0), 10_000, 4, 5)
    cases = [
        ("garnet, 1,000 states", small, 0.95, True),
        ("garnet, 10,000 states", large, 0.95, True),
        ("garnet, 10,000 states", large, 0.99, False),
        ("slippery grid, 10,000 states", slippery_grid(100), 0.95, False),
    ]
    packages = ("numpy", "scipy", "numba", "quantecon", "pymdptoolbox")
    report = {
        "date": datetime.date.today().isoformat(),
        "device": options.device,
        "command": "OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 "
        f"python benchmarks/bench_planning.py --repeats {options.repeats}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "repeats": options.repeats,
        "requested_error": TOL,
        "cases": [],
    }
    for name, lists, gamma, with_toolbox in cases:
        report["cases"].append(measure(name, lists, gamma, options.repeats, with_toolbox))
        print(
            name,
            gamma,
            {k: (v["median_s"], v["true_error"]) for k, v in report["cases"][-1]["solvers"].items()},
        )
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "bench_planning.json").write_text(
        json.dumps(report, indent=1) + "\n", encoding="utf-8"
    )
    (ROOT / "results" / "bench_planning.md").write_text(table(report), encoding="utf-8")
    print(table(report))


if __name__ == "__main__":
    main()
