"""Six rounds of a data flywheel with a shift of the users' questions (chapter 11).

    python benchmarks/bench_flywheel.py [METHOD ...] [--seeds 1-8] [--tables]

64 questions x 8 users a round; of the outcomes 10% are flipped and 30% missing. Success is measured on the
test split, in the current mix of questions. Writes results/bench_flywheel.json and .md.
"""

import argparse
import copy
import json
import random
import sys
import time
from datetime import date

import torch
from bench_agents import RESULTS, base, tokenizer

from rlcourse.agents import evaluate_agent, rollout
from rlcourse.agents.database import DataWorld, Mix
from rlcourse.agents.logbook import Logbook, as_batch, observe
from rlcourse.intervals import percent
from solutions.ch10_agentic_rl import Settings, train_agent
from solutions.ch11_why_agentic import LogSettings, admit, episode_from_log, flywheel, train_on_log

BEFORE = DataWorld(mix=Mix(("orders", "refunds"), busy=0.4, locked=0.0, timeout=0.0, changed=0.0))
AFTER = DataWorld(mix=Mix(("orders", "visits", "visits"), busy=0.1, locked=0.7, timeout=0.0, changed=0.0))
ROUNDS, SHIFT, QUESTIONS, USERS = 6, 3, 64, 8
FLIP, MISSING, MARGIN, GATE_QUESTIONS = 0.1, 0.3, 0.05, 320
WORDS = tokenizer()
METHODS = {  # name: (LogSettings or None for on-policy GRPO, gate, age of the log in rounds)
    "SFT on successes": (LogSettings("sft", passes=4, lr=5e-4), False, 0),
    "on-policy GRPO": (None, False, 0),
    "policy gradient, no weight": (LogSettings("none", passes=4), False, 0),
    "policy gradient, episode weight": (LogSettings("sequence", passes=4), False, 0),
    "policy gradient, token weight": (LogSettings("token", passes=4), False, 0),
    "PPO clip": (LogSettings("clip", passes=4), False, 0),
    "DPO on episodes": (LogSettings("dpo", passes=4, batch=64), False, 0),
    "policy gradient, no weight, gate": (LogSettings("none", passes=4), True, 0),
    "SFT on successes, stale": (LogSettings("sft", passes=4, lr=5e-4), False, 2),
    "policy gradient, no weight, stale": (LogSettings("none", passes=4), False, 2),
    "policy gradient, episode weight, stale": (LogSettings("sequence", passes=4), False, 2),
    "PPO clip, stale": (LogSettings("clip", passes=4), False, 2),
}


def world(r):
    return BEFORE if r < SHIFT else AFTER


def success(model, r, split, n, seed):
    return evaluate_agent(model, WORDS, world(r), n, split, seed=seed)


def spin(name, seed):
    """One flywheel of one seed: success of the policy that serves each round, and of the last one."""
    cfg, gated, age = METHODS[name]
    book, rng, served = Logbook(), random.Random(f"serve {seed}"), []
    chance, luck = torch.Generator().manual_seed(seed), random.Random(f"luck {seed}")

    def look(policy, r):
        found = success(policy, r, "test", 256, 5)
        served.append(found.success)
        return {"risk": found.risk, "cost": found.cost, "unlock": found.calls.get("unlock", 0.0)}

    def serve(policy, r):
        look(policy, r)
        if cfg is None:
            return None
        tasks = world(r).tasks("train", QUESTIONS, rng)
        envs = [world(r).env(task) for task in tasks for _ in range(USERS)]
        for k in range(0, len(envs), 256):
            part = rollout(policy, WORDS, envs[k : k + 256], max_tokens=80, generator=chance)
            numbers = [(k + i) // USERS for i in range(len(part.episodes))]
            book.write(r, numbers, part.episodes, observe(part.episodes, FLIP, MISSING, luck))
        if r < age:
            return None  # no log is old enough yet
        records = book.read(r - age, r)
        return as_batch([q for q, _ in records], [episode_from_log(rows) for _, rows in records])

    def train(policy, log, r):
        if cfg is not None:
            return policy if log is None else train_on_log(policy, log, chance, cfg)
        steps = QUESTIONS * USERS // 128

        def noisy(episode, settings):
            return 1 - episode.success if luck.random() < FLIP else episode.success

        train_agent(world(r), policy, WORDS, 100 * seed + r, Settings(steps=steps), noisy)
        return policy

    def gate(old, new, r):
        if not gated:
            return True
        results = [
            [e.success for e in success(m, r, "validation", GATE_QUESTIONS, 100 + r).rollout.episodes]
            for m in (old, new)
        ]
        return admit(*results, MARGIN)

    start = time.process_time()
    policy, history = flywheel(copy.deepcopy(base("data_agent", seed)), serve, train, gate, ROUNDS)
    end = look(policy, ROUNDS - 1)
    admitted = [step.admitted for step in history]
    seconds = time.process_time() - start
    return {
        "name": name,
        "seed": seed,
        "served": served,
        "admitted": admitted,
        "end": end,
        "cpu_seconds": seconds,
    }


def table(data):
    lines = [
        "| | "
        + " | ".join(f"round {r}" for r in range(ROUNDS))
        + " | at the end | unlock at the end | seeds |"
    ]
    lines.append("|---" * (ROUNDS + 4) + "|")
    for name in METHODS:
        runs = [run for run in data["runs"] if run["name"] == name]
        if len(runs) > 1:
            cells = [percent([run["served"][r] for run in runs]) for r in range(ROUNDS + 1)]
            cells.append(percent([run["end"]["unlock"] for run in runs]))
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(runs)} |")
    (RESULTS / "bench_flywheel.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", help="default: all")
    parser.add_argument("--seeds", default="1-8")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "bench_flywheel.json"
    data = json.loads(path.read_text()) if path.is_file() else {"runs": []}
    first, last = map(int, options.seeds.split("-"))
    for name in [] if options.tables else options.methods or METHODS:
        for seed in range(first, last + 1):
            if (name, seed) not in {(run["name"], run["seed"]) for run in data["runs"]}:
                data["runs"].append(spin(name, seed))
                data |= {"date": str(date.today()), "command": "python benchmarks/bench_flywheel.py"}
                path.write_text(json.dumps(data, indent=1) + "\n")
                run = data["runs"][-1]
                print(
                    seed,
                    name,
                    [round(100 * x) for x in run["served"]],
                    f"{run['cpu_seconds']:.0f} s",
                    flush=True,
                )
    table(data)


if __name__ == "__main__":
    sys.exit(main())
