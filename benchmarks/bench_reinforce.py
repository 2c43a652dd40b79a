"""REINFORCE of chapter 5 on CartPole-v1: environment steps until a training batch has mean return 475.

    python benchmarks/bench_reinforce.py [--seeds 5]

Seeds start at 20: settings were chosen on others. Writes results/bench_reinforce.json and the table
results/bench_reinforce.md. Seconds are CPU seconds on one thread.
"""

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path

import gymnasium
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from solutions.ch05_policy_gradients import reinforce  # noqa: E402

LIMIT = 500_000


def run(seed, baseline):
    start = time.process_time()
    curve = reinforce(seed, baseline, max_steps=LIMIT)
    steps, final = curve[-1]
    return {
        "seed": seed,
        "steps": int(steps),
        "solved": bool(final >= 475 and steps <= LIMIT),
        "final_batch_return": float(final),
        "cpu_seconds": time.process_time() - start,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(20, 20 + options.seeds)
    rows = {name: [run(seed, name) for seed in seeds] for name in ("value", "none")}
    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/bench_reinforce.py --seeds {options.seeds}",
        "device": "2-core x86-64 CPU, one thread",
        "versions": {m.__name__: m.__version__ for m in (torch, gymnasium)},
        "rows": rows,
    }
    (ROOT / "results" / "bench_reinforce.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "results" / "bench_reinforce.md").write_text(table(result))
    print(table(result))


def table(result):
    lines = [
        "| baseline | seeds that reach 475 in 500 k steps | thousand steps: median (range) | CPU seconds |",
        "|---|---|---|---|",
    ]
    for name, label in (("value", "learned value"), ("none", "none")):
        runs = result["rows"][name]
        steps = [r["steps"] / 1000 for r in runs]
        seconds = np.median([r["cpu_seconds"] for r in runs])
        lines.append(
            f"| {label} | {sum(r['solved'] for r in runs)} of {len(runs)} | {np.median(steps):.0f} "
            f"({min(steps):.0f}–{max(steps):.0f}) | {seconds:.1f} |"
        )
    lines += ["", f"`{result['command']}`, {result['device']}, {result['date']}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
