"""The agentic GRPO of chapter 10 against TRL's GRPOTrainer with `environment_factory`: same world, same base
model, same questions in the same order, same batch, settings and number of updates.

    python benchmarks/bench_agents_trl.py [--seeds 3] [--steps 20]

Writes results/bench_agents_trl.json and the table results/bench_agents_trl.md. One step is one batch of
episodes and two updates on it. Seconds are CPU seconds on one thread from the end of one step to the end of
the next, the first two steps left out; the two take turns, seed by seed, in one process.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRL_EXPERIMENTAL_SILENCE="1")
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.agents.database import DataWorld  # noqa: E402
from rlcourse.agents.evaluate import evaluate_agent  # noqa: E402
from rlcourse.agents.for_trl import Player, finish, trl_tokenizer  # noqa: E402
from rlcourse.lm.models import MODELS, load  # noqa: E402
from solutions.ch10_agentic_rl import Settings, train_agent  # noqa: E402

CFG = Settings()  # 16 questions x 8 episodes, 2 updates, lr 3e-4, success - 0.05 cost
WARM_UP = 2
PROMPT, TURN_ROOM, TURNS = 6, 8, 8  # tokens of a question; tokens of a turn and turns, at most


def base():
    """The shipped base model, or one made now by its recipe."""
    if (MODELS / "data_agent").is_dir():
        return load("data_agent")
    from rlcourse.agents.make_models import RECIPES, make

    return make(RECIPES["data_agent"])[:2]


def reward_of(env):
    return env.success - CFG.cost_weight * env.cost


class Log:
    """The CPU clock at the end of every step, and what the episodes of every step were like."""

    def __init__(self):
        self.ends, self.steps = [], []

    def add(self, envs, **more):
        means = {name: float(np.mean([getattr(env, name) for env in envs])) for name in ("success", "cost")}
        self.steps.append(means | {"turns": float(np.mean([len(env.calls) for env in envs]))} | more)

    def seconds(self):
        return np.diff(self.ends)[WARM_UP - 1 :].tolist()


def ours(model, words, seed, steps):
    """Chapter 10's training loop."""
    log, world, envs = Log(), DataWorld(), []
    make_env = world.env
    world.env = lambda task: envs.append(make_env(task)) or envs[-1]  # keeps them, to look at

    def after_step(step, model):
        log.ends.append(time.process_time())
        log.add(envs)
        envs.clear()

    train_agent(world, model, words, seed, CFG._replace(steps=steps), after_step=after_step)
    return log


def theirs(model, words, seed, steps):
    """The same with trl.GRPOTrainer."""
    world, log, rng = DataWorld(), Log(), random.Random(seed)
    tasks = [task for _ in range(steps) for task in world.tasks("train", CFG.questions, rng)]
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        trainer(model, words, world, tasks, seed, out, log).train()
    return log


def trainer(model, words, world, tasks, seed, out, log):
    """TRL's trainer for the tasks of all steps, in order."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    room = world.max_tokens - PROMPT

    def reward(completions, completion_ids, environments, **_):
        cut = [len(ids) >= room and ids[-1] != words.eos_token_id for ids in completion_ids]
        envs = [finish(*row) for row in zip(environments, completions, cut, strict=True)]
        log.add(envs, late_rows=sum(player.late > 0 for player in environments))
        return [reward_of(env) for env in envs]

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step % CFG.updates == 0:
                log.ends.append(time.process_time())

    config = GRPOConfig(
        out,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=CFG.questions * CFG.group_size,
        num_generations=CFG.group_size,
        num_iterations=CFG.updates,
        max_steps=len(tasks) // CFG.questions * CFG.updates,
        max_completion_length=room,
        max_tool_calling_iterations=TURNS - 1,
        generation_kwargs={"max_new_tokens": TURN_ROOM},  # per turn
        temperature=1.0,
        beta=0.0,
        epsilon=0.2,
        loss_type="bnpo",  # the mean over all tokens of the batch
        scale_rewards="group",
        learning_rate=CFG.lr,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    prompts = [[{"role": "user", "content": task.text}] for task in tasks]
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts, "task": list(range(len(tasks)))}),
        processing_class=trl_tokenizer(words),
        environment_factory=lambda: Player(lambda task: world.env(tasks[task])),
        callbacks=[Clock()],
    )


def measure(model, words):
    """Success, cost and tokens per row on 512 questions about other companies, sampled."""
    report = evaluate_agent(model, words, DataWorld(), n=512, split="validation")
    tokens = float(np.mean([len(episode.ids) for episode in report.rollout.episodes]))
    chosen = report.rollout.mask.sum(1).mean().item()
    return {"success": report.success, "cost": report.cost, "tokens": tokens, "policy_tokens": chosen}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, words = base()
    runs = []
    for seed in range(options.seeds):
        row = {"seed": seed}
        for name, train in (("ours", ours), ("trl", theirs)):
            model = copy.deepcopy(start).train()
            log = train(model, words, seed, options.steps)
            row[name] = {"steps": log.steps, "cpu_seconds": log.seconds(), "after": measure(model, words)}
        seconds = {name: float(np.mean(row[name]["cpu_seconds"])) for name in ("ours", "trl")}
        row["ratio"] = seconds["ours"] / seconds["trl"]
        runs.append(row)
        print(seed, seconds, row["ratio"], {name: row[name]["after"] for name in seconds}, flush=True)
    import transformers
    import trl

    result = {
        "date": str(date.today()),
        "command": f"python benchmarks/bench_agents_trl.py --seeds {options.seeds} --steps {options.steps}",
        "device": "2-core x86-64 CPU, one thread",
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "trl": trl.__version__,
        },
        "before": measure(start, words),
        "runs": runs,
    }
    (ROOT / "results" / "bench_agents_trl.json").write_text(json.dumps(result, indent=1) + "\n")
    (ROOT / "results" / "bench_agents_trl.md").write_text(table(result))


def table(result):
    """One row per implementation: mean and range over seeds."""
    lines = [
        "| | success, % | cost | tokens per episode | of these the policy's | CPU seconds per step |",
        "|---|---|---|---|---|---|",
    ]
    names = (("success", 100, 0), ("cost", 1, 2), ("tokens", 1, 1), ("policy_tokens", 1, 1))
    before = [f"{k * result['before'][name]:.{d}f}" for name, k, d in names]
    lines.append("| before | " + " | ".join(before) + " | |")
    for side, label in (("ours", "chapter 10"), ("trl", f"TRL {result['versions']['trl']}")):
        runs = [run[side] for run in result["runs"]]
        columns = [([k * run["after"][name] for run in runs], d) for name, k, d in names]
        columns.append(([np.mean(run["cpu_seconds"]) for run in runs], 2))
        cells = [f"{np.mean(c):.{d}f} ({min(c):.{d}f}–{max(c):.{d}f})" for c, d in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    ratios = [run["ratio"] for run in result["runs"]]
    steps = len(result["runs"][0]["ours"]["steps"])
    late = sum(step["late_rows"] for run in result["runs"] for step in run["trl"]["steps"])
    rows = len(ratios) * steps * CFG.questions * CFG.group_size
    lines += [
        "",
        f"Mean and range over {len(ratios)} seeds, {steps} steps of {CFG.questions} questions × "
        f"{CFG.group_size} episodes, {CFG.updates} updates each; 512 questions afterwards. Ours takes "
        f"{np.mean(ratios):.2f} times TRL's seconds per step ({min(ratios):.2f}–{max(ratios):.2f}). TRL "
        f"cannot be told that an episode is over: it went on in {late} of {rows} rows. "
        f"`{result['command']}`, {result['device']}, {result['date']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
