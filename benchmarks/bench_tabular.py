"""Tabular control on the cliff: the course's loop over a table against loops over Gymnasium.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/bench_tabular.py [--seeds 30] [--repeats 3]

writes results/bench_tabular.json and results/bench_tabular.md, which chapter 4 includes. All do the same
work: Q-learning or SARSA on CliffWalking-v1, 500 episodes per seed, epsilon 0.1, alpha 0.5, gamma 1.
Times are CPU seconds of one thread; the contestants take turns within a repeat.

Equal learning curves are checked in two ways. The course's loop gives the same returns, episode by episode,
whether it runs on the table or on Gymnasium's environment. Implementations that draw their random numbers
differently are compared by a permutation test: the largest |t| over 20 blocks of 25 episodes, seeds permuted.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402

from rlcourse.envs.table_env import TableEnv  # noqa: E402
from solutions.ch04_value_methods import q_learning, sarsa  # noqa: E402

EPISODES, ALPHA, EPSILON, GAMMA = 500, 0.5, 0.1, 1.0
OURS = "this course: lists, table"
USUAL = "usual loop: NumPy table, Gymnasium"
LOCKSTEP = "lockstep: all seeds in NumPy arrays"


def course(env, algorithm, rng):
    learn = q_learning if algorithm == "Q-learning" else sarsa
    return learn(env, [[0.0] * 4 for _ in range(48)], EPISODES, ALPHA, EPSILON, GAMMA, rng)


def course_on_table(seeds, algorithm):
    table = gym.make("CliffWalking-v1").unwrapped.P
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return [course(TableEnv(table, 36, rng), algorithm, rng) for rng in rngs]


def course_on_gym(seeds, algorithm):
    env = gym.make("CliffWalking-v1")
    return [course(env, algorithm, np.random.default_rng(seed)) for seed in seeds]


def usual_loop(seeds, algorithm, ties="random"):
    """What one writes first: a NumPy table and Gymnasium's env.step."""
    env, curves = gym.make("CliffWalking-v1"), []

    def act(Q, s, rng):
        if rng.random() < EPSILON:
            return int(rng.integers(4))
        if ties == "first":
            return int(np.argmax(Q[s]))
        return int(rng.choice(np.flatnonzero(Q[s] == Q[s].max())))

    for seed in seeds:
        rng, Q, returns = np.random.default_rng(seed), np.zeros((48, 4)), []
        for _ in range(EPISODES):
            s, _ = env.reset()
            a, total, done = act(Q, s, rng), 0.0, False
            while not done:
                s_next, r, terminated, truncated, _ = env.step(a)
                if algorithm == "SARSA":
                    a_next = act(Q, s_next, rng)
                    target = r + GAMMA * Q[s_next, a_next] * (not terminated)
                else:
                    target = r + GAMMA * np.max(Q[s_next]) * (not terminated)
                Q[s, a] += ALPHA * (target - Q[s, a])
                if algorithm == "Q-learning":
                    a_next = act(Q, s_next, rng)
                s, a, total, done = s_next, a_next, total + r, terminated or truncated
            returns.append(total)
        curves.append(returns)
    return curves


def usual_loop_first(seeds, algorithm):
    return usual_loop(seeds, algorithm, ties="first")


def lockstep(seeds, algorithm):
    """All seeds play episode e together; those that have arrived wait. One generator for all."""
    table = gym.make("CliffWalking-v1").unwrapped.P
    nxt, rew, end = (np.array([[table[s][a][0][i] for a in range(4)] for s in range(48)]) for i in (1, 2, 3))
    rng, K = np.random.default_rng(seeds[0]), len(seeds)
    Q, returns = np.zeros((K, 48, 4)), np.zeros((K, EPISODES))

    def act(k, s):
        q = Q[k, s]
        best = (q + 1e-9 * rng.random(q.shape)).argmax(1)  # ties at random
        return np.where(rng.random(len(k)) < EPSILON, rng.integers(4, size=len(k)), best)

    for e in range(EPISODES):
        k, s = np.arange(K), np.full(K, 36)
        a = act(k, s)
        while len(k):
            s_next, r, done = nxt[s, a], rew[s, a], end[s, a]
            if algorithm == "SARSA":
                a_next = act(k, s_next)
                value = Q[k, s_next, a_next]
            else:
                value = Q[k, s_next].max(1)
            Q[k, s, a] += ALPHA * (r + GAMMA * value * ~done - Q[k, s, a])
            if algorithm == "Q-learning":
                a_next = act(k, s_next)
            returns[k, e] += r
            k, s, a = k[~done], s_next[~done], a_next[~done]
    return returns


CONTESTANTS = {
    OURS: course_on_table,
    LOCKSTEP: lockstep,
    "this course's loop on Gymnasium": course_on_gym,
    "usual loop, ties to the first": usual_loop_first,
    USUAL: usual_loop,
}


def largest_t(a, b):
    se = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    return np.abs((a.mean(0) - b.mean(0)) / np.maximum(se, 1e-12)).max()


def permutation_p(a, b, draws=2000):
    """The largest |t| over 20 blocks, and the share of random relabellings of the seeds that reach it."""
    a, b = (np.reshape(x, (len(x), 20, -1)).mean(2) for x in (a, b))
    both, rng, seen = np.concatenate([a, b]), np.random.default_rng(0), largest_t(a, b)
    hits = 0
    for _ in range(draws):
        order = rng.permutation(len(both))
        hits += largest_t(both[order[: len(a)]], both[order[len(a) :]]) >= seen
    return float(seen), (hits + 1) / (draws + 1)


def measure(algorithm, seeds, repeats):
    rows = {name: {"seconds": []} for name in CONTESTANTS}
    curves = {}
    for _ in range(repeats):
        for name, run in CONTESTANTS.items():
            start = time.process_time()
            curves[name] = np.array(run(seeds, algorithm))
            rows[name]["seconds"].append(round(time.process_time() - start, 4))
    fresh = np.array(course_on_table([s + 10_000 for s in seeds], algorithm))  # independent of all others
    for name, row in rows.items():
        last = curves[name][:, -100:].mean(1)
        row["median_s"] = float(np.median(row["seconds"]))
        row["last_100"] = [
            round(float(last.mean()), 2),
            round(float(1.96 * last.std(ddof=1) / len(last) ** 0.5), 2),
        ]
        t, p = permutation_p(curves[name], fresh)
        row["largest_t_against_fresh_course_seeds"], row["permutation_p"] = round(t, 2), round(p, 3)
    same = bool((curves[OURS] == curves["this course's loop on Gymnasium"]).all())
    many = [10**6 + i for i in range(10 * len(seeds))]
    start = time.process_time()
    lockstep(many, algorithm)
    middle = time.process_time()
    course_on_table(many, algorithm)
    ten_times = {LOCKSTEP: round(middle - start, 3), OURS: round(time.process_time() - middle, 3)}
    return {
        "solvers": rows,
        "identical_on_table_and_gymnasium": same,
        "times_faster_than_usual_loop": round(rows[USUAL]["median_s"] / rows[OURS]["median_s"], 1),
        "times_faster_than_own_loop_on_gymnasium": round(
            rows["this course's loop on Gymnasium"]["median_s"] / rows[OURS]["median_s"], 1
        ),
        "ten_times_the_seeds_s": ten_times,
    }


def table(report):
    """The report as Markdown, for the book."""
    lines = [
        "| algorithm | implementation | CPU s | to ours | return, last 100 | $p$ |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for algorithm, case in report["cases"].items():
        ours = case["solvers"][OURS]["median_s"]
        for i, (name, row) in enumerate(case["solvers"].items()):
            mean, half = row["last_100"]
            lines.append(
                f"| {algorithm if i == 0 else ''} | {name} | {row['median_s']:.2f} | "
                f"{row['median_s'] / ours:.1f} | {mean:.1f} ± {half:.1f} | {row['permutation_p']:.2f} |"
            )
    versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    lines += [
        "",
        f"{report['seeds']} seeds × {EPISODES} episodes, medians of {report['repeats']} repeats "
        f"on {report['date']}; {report['device']}; {versions}.",
    ]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="2-core x86-64 CPU, one thread")
    options = parser.parse_args()
    report = {
        "date": datetime.date.today().isoformat(),
        "device": options.device,
        "command": "OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "
        f"python benchmarks/bench_tabular.py --seeds {options.seeds} --repeats {options.repeats}",
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "gymnasium": gym.__version__,
        },
        "seeds": options.seeds,
        "repeats": options.repeats,
        "settings": {"episodes": EPISODES, "alpha": ALPHA, "epsilon": EPSILON, "gamma": GAMMA},
        "cases": {
            a: measure(a, list(range(options.seeds)), options.repeats) for a in ("Q-learning", "SARSA")
        },
    }
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "bench_tabular.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (ROOT / "results" / "bench_tabular.md").write_text(table(report), encoding="utf-8")
    print(table(report))
    print({a: {k: v for k, v in c.items() if k != "solvers"} for a, c in report["cases"].items()})


if __name__ == "__main__":
    main()
