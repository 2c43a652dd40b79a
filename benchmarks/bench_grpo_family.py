"""GRPO and its family on clock sums: same base, same budget, several seeds.

    python benchmarks/bench_grpo_family.py [--seeds 3] [--steps 30]

Writes results/bench_grpo_family.json and the table results/bench_grpo_family.md.
"""

import argparse
import copy
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.lm import evaluate, load  # noqa: E402
from rlcourse.lm.worlds import ClockSum  # noqa: E402
from solutions.ch09_grpo import Settings, train_grpo  # noqa: E402

FAMILY = {
    "GRPO, sequence mean": {"aggregation": "sequence"},
    "GRPO, token mean": {},
    "RLOO": {"advantage": "rloo"},
    "Dr. GRPO": {"advantage": "dr_grpo", "aggregation": "constant", "kl_coef": 0.0},
    "DAPO": {"clip_high": 0.28, "dynamic_sampling": True, "kl_coef": 0.0},
    "GSPO": {"loss": "gspo"},
    "CISPO": {"loss": "cispo", "clip_high": 4.0},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world, (base, _) = ClockSum(digits=6), load("clock_sum")
    rows = {}
    for name, changes in FAMILY.items():
        cfg, runs = Settings(steps=options.steps)._replace(**changes), []
        for seed in range(options.seeds):
            model, start = copy.deepcopy(base), time.process_time()
            history = np.array(train_grpo(world, model, torch.Generator().manual_seed(seed), cfg))
            seconds = time.process_time() - start
            e = evaluate(model, world, 512)
            runs.append(
                {
                    "seed": seed,
                    "sampled": e.accuracy,
                    "length": e.length,
                    "reward_step_10": float(history[8:11, 0].mean()),
                    "silent_last_5": float(history[-5:, 2].mean()),
                    "cpu_seconds_per_step": seconds / options.steps,
                }
            )
        rows[name] = runs
        print(name, [round(r["sampled"], 3) for r in runs], flush=True)
    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/bench_grpo_family.py --seeds {options.seeds} --steps {options.steps}",
        "device": "2-core x86-64 CPU, one thread",
        "torch": torch.__version__,
        "base": "models/clock_sum",
        "rows": rows,
    }
    (ROOT / "results" / "bench_grpo_family.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "results" / "bench_grpo_family.md").write_text(table(result))


def spread(runs, key, scale=1.0, digits=0):
    """Mean and range over seeds."""
    values = [scale * r[key] for r in runs]
    low, high = min(values), max(values)
    return f"{np.mean(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(result):
    lines = [
        "| member | right at step 10, % | right at the end, % | tokens | silent groups at the end, % |",
        "|---|---|---|---|---|",
    ]
    for name, runs in result["rows"].items():
        cells = (
            spread(runs, "reward_step_10", 100),
            spread(runs, "sampled", 100),
            spread(runs, "length", 1, 1),
            spread(runs, "silent_last_5", 100),
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    seeds = len(next(iter(result["rows"].values())))
    lines += [
        "",
        f"Mean and range over {seeds} seeds. `{result['command']}`, {result['device']}, {result['date']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
