"""DPO (chapter 8) against reward model and PPO (chapter 7) on the same preference pairs, sort-6.

    python benchmarks/bench_dpo_ppo.py [--seeds 3] [--prompts 4000]

Both start from models/sort6. Writes results/bench_dpo_ppo.json and the table results/bench_dpo_ppo.md.
Seconds are CPU seconds on one thread.
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
from rlcourse.lm.worlds import Sort  # noqa: E402
from solutions.ch07_rlhf import reply_scores, sample_pairs, train_ppo, train_reward_model  # noqa: E402
from solutions.ch08_dpo import train_dpo  # noqa: E402


def by_dpo(world, base, pairs, generator):
    """Steps, step size and beta were chosen among five settings on seed 9."""
    model = copy.deepcopy(base)
    train_dpo(model, pairs, generator, steps=300, lr=3e-4, beta=1.0)
    return model


def by_ppo(world, base, pairs, generator):
    """Reward model from the pairs, then 24 steps of PPO with KL weight 0.3, the settings of lab 7."""
    reward_model, model = train_reward_model(base, pairs, generator), copy.deepcopy(base)

    def reward(prompts, tokens, mask):
        with torch.no_grad():
            return reply_scores(reward_model, prompts, tokens, mask)

    train_ppo(world, model, reward, generator)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    world, (base, _) = Sort(digits=6), load("sort6")
    before = evaluate(base, world, 512)
    rows = {"DPO": [], "reward model and PPO": []}
    for seed in range(options.seeds):
        pairs = sample_pairs(world, base, options.prompts, torch.Generator().manual_seed(seed))
        for name, train in (("DPO", by_dpo), ("reward model and PPO", by_ppo)):
            start = time.process_time()
            model = train(world, base, pairs, torch.Generator().manual_seed(100 + seed))
            seconds = time.process_time() - start
            sampled, greedy = evaluate(model, world, 512), evaluate(model, world, 512, greedy=True)
            row = {"seed": seed, "pairs": len(pairs.prompts), "cpu_seconds": seconds}
            row |= {"sampled": sampled.accuracy, "greedy": greedy.accuracy}
            rows[name].append(row)
            print(name, row, flush=True)
    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/bench_dpo_ppo.py --seeds {options.seeds} --prompts {options.prompts}",
        "device": "2-core x86-64 CPU, one thread",
        "versions": {"torch": torch.__version__},
        "base_sampled": before.accuracy,
        "rows": rows,
    }
    (ROOT / "results" / "bench_dpo_ppo.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "results" / "bench_dpo_ppo.md").write_text(table(result))


def table(result):
    lines = ["| | right, sampled, % | right, greedy, % | CPU seconds |", "|---|---|---|---|"]
    lines.append(f"| base | {100 * result['base_sampled']:.0f} | – | – |")
    for name, runs in result["rows"].items():
        cells = []
        for key, scale in (("sampled", 100), ("greedy", 100), ("cpu_seconds", 1)):
            values = [scale * r[key] for r in runs]
            cells.append(f"{np.mean(values):.0f} ({min(values):.0f}–{max(values):.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    runs = result["rows"]["DPO"]
    lines += [
        "",
        f"Mean and range over {len(runs)} seeds, {min(r['pairs'] for r in runs)} to "
        f"{max(r['pairs'] for r in runs)} pairs each. `{result['command']}`, {result['device']}, "
        f"{result['date']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
