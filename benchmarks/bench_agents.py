"""The experiments of chapters 10 and 11 over many seeds: one base and one run per seed.

    python benchmarks/bench_agents.py PART [PART ...] [--seeds 1-8] [--tables]

Each seed trains a base of its own (cached in .cache/), which every variant of that seed starts from. Results
are measured on the test split, on which nothing was chosen; settings were chosen on bases 100 and 101 and on
the validation split. Writes results/bench_agents_PART.json (runs that are there already are kept) and tables.
"""

import argparse
import json
import random
import sys
import time
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rlcourse.agents import episode_logprobs, evaluate_agent, rollout  # noqa: E402
from rlcourse.agents.database import DataWorld, tokenizer  # noqa: E402
from rlcourse.agents.make_models import RECIPES, make  # noqa: E402
from rlcourse.intervals import percent  # noqa: E402
from rlcourse.lm import load  # noqa: E402
from solutions.ch10_agentic_rl import (  # noqa: E402
    Settings,
    episode_reward,
    masked_policy_loss,
    train_agent,
    trajectory_advantages,
)

RESULTS, CACHE = ROOT / "results", ROOT / ".cache" / "agents"
WEIGHTS = [(0.0, 0.0), (0.2, 0.0), (0.05, 0.2), (0.2, 0.5)]
# name: (changes of Settings, options of DataWorld, base)
PARTS = {
    "main": {
        "skills only": ({"steps": 0}, {}, "question_skills"),
        "agentic GRPO": ({}, {}, "data_agent"),
        "with a risk weight": ({"risk_weight": 0.5}, {}, "data_agent"),
        "reply text only": ({"counted": "reply"}, {}, "data_agent"),
        "one reply, no tools": ({"cost_weight": 0.0}, {"tools": False}, "data_agent"),
        "tool tokens in the loss": ({"counted": "all"}, {}, "data_agent"),
    },
    "front": {
        "gate": ({"max_risk": 0.0}, {}, "data_agent"),
        **{
            f"cost {c:g}, risk {r:g}": ({"cost_weight": c, "risk_weight": r}, {}, "data_agent")
            for c, r in WEIGHTS
        },
    },
    "blind": {  # each tool beside the policy that sees it; the replica where its use pays
        "blind find": ({}, {"blind": ("find",)}, "data_agent"),
        "blind query": ({}, {"blind": ("query",)}, "data_agent"),
        "blind replica": ({"risk_weight": 0.5}, {"blind": ("replica",)}, "data_agent"),
    },
    "sparse": {
        "outcome": ({"steps": 20, "cost_weight": 0.0}, {}, "sparse_agent"),
        "progress, once": ({"steps": 20, "cost_weight": 0.0, "progress": 0.3}, {}, "sparse_agent"),
        "progress, every time": (
            {"steps": 20, "cost_weight": 0.0, "progress": 0.3, "progress_once": False},
            {},
            "sparse_agent",
        ),
        "outcome, with a price on cost": ({"steps": 20}, {}, "sparse_agent"),
    },
    "credit": {
        "episode": ({"steps": 15}, {}, "data_agent"),
        "episode and step": ({"steps": 15, "step_credit": 0.5}, {}, "data_agent"),
        "step": ({"steps": 15, "step_credit": 1.0}, {}, "data_agent"),
    },
    "posting": {
        "agentic GRPO": ({"steps": 40, "cost_weight": 0.0}, {"posting": True}, "posting_agent"),
        "blind check": (
            {"steps": 40, "cost_weight": 0.0},
            {"posting": True, "blind": ("check",)},
            "posting_agent",
        ),
    },
}


def step_advantages(batch, rewards, questions):
    """Credit in the manner of GiGPO: turns of one question that begin with the same tokens are compared.

    (B, L): for each turn, the episode's reward less the mean of those that reached the same beginning,
    over the standard deviation of the question's group.
    """
    advantages, groups = torch.zeros_like(batch.mask), {}
    for row, turns in enumerate(batch.turn.tolist()):
        for turn in range(max(turns) + 1):
            start = turns.index(turn) if turn in turns else None
            if start is not None:
                key = (questions[row].item(), tuple(batch.ids[row, :start].tolist()))
                groups.setdefault(key, []).append((row, turn))
    for (question, _), members in groups.items():
        reached = rewards[[row for row, _ in members]]
        spread = rewards[questions == question].std() + 1e-4
        for (row, turn), reward in zip(members, reached, strict=True):
            advantages[row][batch.turn[row] == turn] = (reward - reached.mean()) / spread
    return advantages


def train_with_step_credit(world, model, seed, cfg, weight):
    """train_agent with a mixture of episode and step advantages; all else is the same."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0)
    questions = torch.arange(cfg.questions).repeat_interleave(cfg.group_size)
    history = []
    for _ in range(cfg.steps):
        tasks = world.tasks("train", cfg.questions, rng)
        envs = [world.env(task) for task in tasks for _ in range(cfg.group_size)]
        batch = rollout(model, tokenizer(), envs, max_tokens=world.max_tokens, generator=generator)
        rewards = torch.tensor([episode_reward(e, cfg) for e in batch.episodes])
        of_episode = trajectory_advantages(rewards, questions, torch.arange(len(rewards)))[:, None]
        advantages = (1 - weight) * of_episode + weight * step_advantages(batch, rewards, questions)
        for _ in range(cfg.updates):
            logprobs = episode_logprobs(model, batch.ids)
            loss = masked_policy_loss(logprobs, batch.logprobs, advantages, batch.mask)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        history.append([rewards.mean().item(), sum(e.success for e in batch.episodes) / len(rewards)])
    return history


def base(name, seed):
    """The base of a seed, made once."""
    folder = CACHE / f"{name}_{seed}"
    if not (folder / "config.json").is_file() and name in RECIPES:
        kind = "posting" if RECIPES[name].posting else "question"
        model, words, _ = make(RECIPES[name], seed, CACHE / f"{kind}_skills_{seed}")
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return load(folder)[0]


def measure(model, world, n=512):
    """Sampled and greedy results on the test split, as plain numbers."""
    sampled = evaluate_agent(model, tokenizer(), world, n)
    greedy = evaluate_agent(model, tokenizer(), world, n // 2, greedy=True)
    return {
        "success": sampled.success,
        "greedy": greedy.success,
        "cost": sampled.cost,
        "risk": sampled.risk,
        "turns": sampled.turns,
        "unlock": sampled.calls.get("unlock", 0.0),
        "replica": sampled.calls.get("replica", 0.0),
        "lost_work": sum(e.facts["lost_work"] > 0 for e in sampled.rollout.episodes) / n,
        "greedy_faults": {k: round(v, 4) for k, v in greedy.faults.items()},
        "faults": {k: round(v, 4) for k, v in sampled.faults.items()},
        "reasons": sampled.reasons,
    }


def one(changes, options, name, seed):
    """Train and measure one variant of one seed."""
    model, world = base(name, seed), DataWorld(**options)
    weight = changes.get("step_credit")
    cfg = Settings()._replace(**{k: v for k, v in changes.items() if k != "step_credit"})
    start = time.process_time()
    if weight is None:
        history = train_agent(world, model, tokenizer(), seed, cfg)
    else:
        history = train_with_step_credit(world, model, seed, cfg, weight)
    seconds = time.process_time() - start
    found = measure(model, world)
    if not options.get("blind") and cfg == Settings()._replace(steps=cfg.steps, cost_weight=cfg.cost_weight):
        SEEING.clear()
        SEEING[name, seed, cfg] = model
    if "blind" in options:  # the policy that was trained seeing, blinded in the test only
        seeing = trained_seeing({**options, "blind": ()}, name, seed, cfg)
        found["blinded in the test only"] = evaluate_agent(seeing, tokenizer(), world, 512).success
        found["seeing"] = measure(seeing, DataWorld(**{**options, "blind": ()}))
    return {**found, "cpu_seconds": seconds, "train_success": [round(row[1], 3) for row in history]}


SEEING = {}


def trained_seeing(options, name, seed, cfg):
    """The policy of this seed trained with all answers; kept while the tools are blinded in turn."""
    key = (name, seed, cfg)
    if key not in SEEING:
        SEEING.clear()
        SEEING[key] = base(name, seed)
        train_agent(DataWorld(**options), SEEING[key], tokenizer(), seed, cfg)
    return SEEING[key]


def run(part, seeds):
    path = RESULTS / f"bench_agents_{part}.json"
    data = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    done = {(r["name"], r["seed"]) for r in data["runs"]}
    for seed in seeds:
        variants = dict(PARTS[part])
        for name in sorted({v[2] for v in variants.values()} & RECIPES.keys()):
            variants[f"base ({name})"] = ({"steps": 0}, {"posting": name == "posting_agent"}, name)
        for variant, (changes, options, name) in variants.items():
            if (variant, seed) in done:
                continue
            found = one(changes, options, name, seed)
            data["runs"].append({"name": variant, "seed": seed, **found})
            data |= {"date": str(date.today()), "torch": torch.__version__, "threads": 1}
            data["command"] = f"python benchmarks/bench_agents.py {part}"
            path.write_text(json.dumps(data, indent=1) + "\n")
            print(part, variant, seed, f"{found['success']:.3f} {found['greedy']:.3f}", flush=True)


def table(part):
    """Rows by variant; mean and half width of the 95% t interval over the seeds, in per cent."""
    runs = json.loads((RESULTS / f"bench_agents_{part}.json").read_text())["runs"]
    names = sorted(dict.fromkeys(r["name"] for r in runs), key=lambda name: not name.startswith("base"))
    columns = {"sampled": lambda r: r["success"], "greedy": lambda r: r["greedy"]}
    if part == "posting":
        for fault in ("none", "busy", "full", "garbled"):
            columns[f"fault: {fault}"] = lambda r, fault=fault: r["faults"][fault]
    else:
        columns |= {"unlock": lambda r: r["unlock"], "replica": lambda r: r["replica"]}
    lines = ["| success, % | " + " | ".join(columns) + " | cost | seeds |", "|---" * (len(columns) + 3) + "|"]
    for name in names:
        mine = [r for r in runs if r["name"] == name]
        cells = [percent([of(r) for r in mine]) for of in columns.values()]
        cost = sum(r["cost"] for r in mine) / len(mine)
        shown = "base" if name.startswith("base") else name
        lines.append(f"| {shown} | " + " | ".join(cells) + f" | {cost:.1f} | {len(mine)} |")
    (RESULTS / f"bench_agents_{part}.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--seeds", default="1-8", help="first-last")
    parser.add_argument("--tables", action="store_true", help="only write the tables again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, last = map(int, options.seeds.split("-"))
    for part in options.parts:
        if not options.tables:
            run(part, range(first, last + 1))
        table(part)


if __name__ == "__main__":
    main()
