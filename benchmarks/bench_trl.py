"""GRPO of chapter 9 against TRL's GRPOTrainer: same base, task, batch, settings and number of updates.

    python benchmarks/bench_trl.py [--seeds 3] [--steps 20]

Writes results/bench_trl.json and the table results/bench_trl.md. One step is one batch of samples and two
updates. Seconds are CPU seconds on one thread, sampling and updates together, model loading left out.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.lm import evaluate, load  # noqa: E402
from rlcourse.lm.worlds import ClockSum  # noqa: E402
from solutions.ch09_grpo import Settings, train_grpo  # noqa: E402

PROMPTS, GROUP, UPDATES, LR, KL = 16, 16, 2, 3e-4, 0.02


def ours(seed, steps):
    """(rewards per step, CPU seconds per step, accuracy afterwards)."""
    world, (model, _) = ClockSum(digits=6), load("clock_sum")
    cfg = Settings(steps=steps, prompts=PROMPTS, group_size=GROUP, inner_steps=UPDATES, lr=LR, kl_coef=KL)
    start = time.process_time()
    history = train_grpo(world, model, torch.Generator().manual_seed(seed), cfg)
    seconds = (time.process_time() - start) / steps
    return [h[0] for h in history], seconds, evaluate(model, world, 512).accuracy


def theirs(seed, steps):
    """The same with trl.GRPOTrainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    world, (model, tokenizer) = ClockSum(digits=6), load("clock_sum")
    prompts = world.prompts(steps * PROMPTS, torch.Generator().manual_seed(seed))
    data = Dataset.from_dict({"prompt": world.text(prompts)})

    def reward(completion_ids, prompts, **_):
        ids = torch.tensor([tokenizer(p)["input_ids"] for p in prompts])
        width = world.max_new_tokens
        rows = [(list(row) + [world.pad] * width)[:width] for row in completion_ids]
        return world.reward(ids, torch.tensor(rows)).tolist()

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            out,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=world.max_new_tokens,
            max_steps=steps * UPDATES,
            num_iterations=UPDATES,
            beta=KL,
            use_bias_correction_kl=False,
            loss_type="bnpo",  # the mean over all tokens of the batch
            learning_rate=LR,
            lr_scheduler_type="constant",
            adam_beta2=0.95,
            weight_decay=0.0,
            max_grad_norm=1.0,
            temperature=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            gradient_checkpointing=False,
            seed=seed,
        )
        trainer = GRPOTrainer(
            model=model, reward_funcs=reward, args=config, train_dataset=data, processing_class=tokenizer
        )
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        seconds = (time.process_time() - start) / steps
    logged = [float(row["reward"]) for row in trainer.state.log_history if "reward" in row]
    return logged[::UPDATES], seconds, evaluate(model, world, 512).accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in range(options.seeds):
        row = {"seed": seed}
        for name, train in (("ours", ours), ("trl", theirs)):
            rewards, seconds, accuracy = train(seed, options.steps)
            row[name] = {"rewards": rewards, "cpu_seconds_per_step": seconds, "sampled": accuracy}
        row["ratio"] = row["ours"]["cpu_seconds_per_step"] / row["trl"]["cpu_seconds_per_step"]
        runs.append(row)
        print(
            seed, {k: (round(row[k]["cpu_seconds_per_step"], 3), row[k]["sampled"]) for k in ("ours", "trl")}
        )
    import transformers
    import trl

    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/bench_trl.py --seeds {options.seeds} --steps {options.steps}",
        "device": "2-core x86-64 CPU, one thread",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
        "runs": runs,
    }
    (ROOT / "results" / "bench_trl.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "results" / "bench_trl.md").write_text(table(result))


def table(result):
    """One row per implementation: mean and range over seeds."""
    lines = ["| | right at step 10, % | right at the end, % | CPU seconds per step |", "|---|---|---|---|"]
    for name, label in (("ours", "chapter 9"), ("trl", f"TRL {result['versions']['trl']}")):
        runs = [run[name] for run in result["runs"]]
        columns = (
            [100 * float(np.mean(r["rewards"][8:11])) for r in runs],
            [100 * r["sampled"] for r in runs],
            [r["cpu_seconds_per_step"] for r in runs],
        )
        cells = [
            f"{np.mean(c):.{d}f} ({min(c):.{d}f}–{max(c):.{d}f})"
            for c, d in zip(columns, (0, 0, 2), strict=True)
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    ratios = [run["ratio"] for run in result["runs"]]
    lines += [
        "",
        f"Mean and range over {len(ratios)} seeds. Ours takes {np.mean(ratios):.2f} times TRL's seconds "
        f"per step ({min(ratios):.2f}–{max(ratios):.2f}). `{result['command']}`, {result['device']}, "
        f"{result['date']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
