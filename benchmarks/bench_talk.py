"""Talk against action: what a rater of replies, the truth, and pairs make of the same base (chapter 11).

    python benchmarks/bench_talk.py [--seeds 1-8] [--tables]

Every row of a seed starts from the same base, and has 2,560 episodes to train on, but for the row that says
so. Writes results/bench_talk.json and .md.
"""

import argparse
import copy
import json
import math
import random
import sys
import time
from datetime import date

import torch
from bench_agents import RESULTS, base, tokenizer

from rlcourse.agents import evaluate_agent, rollout
from rlcourse.agents.database import DataWorld
from rlcourse.agents.logbook import LogBatch
from rlcourse.agents.rater import ReplyScore, lies, preferences
from rlcourse.intervals import percent, t_interval
from solutions.ch10_agentic_rl import Settings, count_tokens, train_agent
from solutions.ch11_why_agentic import LogSettings, train_on_log

STEPS, QUESTIONS = 20, 1280  # 20 x 16 x 8 episodes for RL; 1,280 questions twice for pairs
WORLD, WORDS = DataWorld(), tokenizer()
SETTINGS = Settings(steps=STEPS, cost_weight=0.0)


def play_pairs(model, n, seed):
    """Two episodes of each of n questions; the two of a question stand together."""
    tasks = WORLD.tasks("train", n, random.Random(seed))
    envs = [WORLD.env(task) for task in tasks for _ in range(2)]
    parts = [
        rollout(
            model, WORDS, envs[k : k + 256], max_tokens=80, generator=torch.Generator().manual_seed(k + seed)
        )
        for k in range(0, len(envs), 256)
    ]
    return parts


def rater(model, seed):
    """A reward model fitted to raters who saw replies of the base; its agreement on held-out pairs."""
    replies = [e.reply for part in play_pairs(model, 1500, 10_000 + seed) for e in part.episodes]
    preferred = preferences(replies, torch.Generator().manual_seed(seed))
    score = ReplyScore(replies[:2400], preferred[:1200])
    return score, score.agreement(replies[2400:], preferred[1200:])


def measure(model, score, n=512):
    found = evaluate_agent(model, WORDS, WORLD, n)
    episodes = found.rollout.episodes
    liked = torch.tensor([score(e.reply) for e in episodes])
    right = torch.tensor([e.success for e in episodes])
    greedy = evaluate_agent(model, WORDS, WORLD, n // 2, greedy=True).success if n > 256 else None
    return {
        "success": found.success,
        "greedy": greedy,
        "faults": found.faults,
        "calls": found.calls,
        "reply_score": liked.mean().item(),
        "lies": sum(map(lies, episodes)) / n,
        "checked": sum("checked" in e.reply for e in episodes) / n,
        "correlation": torch.corrcoef(torch.stack([liked, right]))[0, 1].nan_to_num().item(),
        "cost": found.cost,
    }


def by_pairs(model, seed, rounds, outcome, counted):
    """DPO on pairs: `outcome` says who wins, `counted` which tokens are trained."""
    chance = torch.Generator().manual_seed(seed)
    pairs = 0
    for r in range(rounds):
        for part in play_pairs(model, QUESTIONS // rounds, 20_000 + 100 * seed + r) if rounds > 1 else []:
            pairs += dpo(model, [part], outcome, counted, chance)
        if rounds == 1:
            pairs += dpo(
                model, play_pairs(model, QUESTIONS, 20_000 + 100 * seed), outcome, counted, chance, 2
            )
    return pairs


def dpo(model, parts, outcome, counted, chance, passes=2):
    width = max(part.ids.shape[1] for part in parts)
    parts = [count_tokens(model, part, counted) for part in parts]
    pad = [
        torch.cat([torch.nn.functional.pad(getattr(p, name), (0, width - p.ids.shape[1])) for p in parts])
        for name in ("ids", "mask", "logprobs")
    ]
    outcomes = outcome([e for part in parts for e in part.episodes])
    log = LogBatch(*pad, outcomes, torch.arange(len(outcomes) // 2).repeat_interleave(2))
    if passes is None:  # not pairs: imitate the successes
        train_on_log(model, log, chance.manual_seed(0), LogSettings("sft", passes=4, lr=5e-4))
        return int(outcomes.sum())
    train_on_log(model, log, chance, LogSettings("dpo", passes=passes, batch=64))
    return int((outcomes.view(-1, 2).sum(1) == 1).sum())  # NaN, left out, is no pair


def one(seed):
    """All rows of one seed."""
    start, rows = base("talking_agent", seed), {}
    score, agreement = rater(start, seed)
    rows["base"] = {**measure(start, score), "agreement": agreement}

    def truth(episodes):
        return torch.tensor([e.success for e in episodes])

    def liked(episodes):
        first = preferences([e.reply for e in episodes], torch.Generator().manual_seed(seed + 7)).float()
        return torch.stack([first, 1 - first], dim=1).flatten()

    def liked_where_told(episodes):  # the same raters, on the pairs that the truth can order
        told = truth(episodes).view(-1, 2).sum(1) == 1
        return liked(episodes).view(-1, 2).masked_fill(~told[:, None], math.nan).flatten()

    rewards = {
        "GRPO, blind rater": lambda e, cfg: score(e.reply),
        "GRPO, truth": lambda e, cfg: e.success,
        "GRPO, truth and a tenth of the rater": lambda e, cfg: e.success + 0.1 * score(e.reply),
    }
    for name, reward in rewards.items():
        model, begun, curve = copy.deepcopy(start), time.process_time(), []
        longer = name == "GRPO, blind rater"  # twice as long, to see where it leads

        def watch(step, model, curve=curve, name=name):
            if step % 10 == 0:
                curve.append({"step": step, **measure(model, score, 256)})
            if step == STEPS:
                rows[name] = measure(model, score)

        cfg = SETTINGS._replace(steps=2 * STEPS if longer else STEPS)
        train_agent(WORLD, model, WORDS, seed, cfg, reward, watch)
        if longer:
            rows[name + ", twice as long"] = measure(model, score)
        rows[name] |= {"cpu_seconds": time.process_time() - begun, "curve": curve}
    for name, options in {
        "DPO, blind rater, reply": (1, liked, "reply"),
        "DPO, blind rater on informative pairs, reply": (1, liked_where_told, "reply"),
        "DPO, outcome, reply": (1, truth, "reply"),
        "DPO, outcome, episode": (1, truth, "policy"),
        "DPO, outcome, episode, fresh": (10, truth, "policy"),
    }.items():
        model, begun = copy.deepcopy(start), time.process_time()
        pairs = by_pairs(model, seed, *options)
        rows[name] = {**measure(model, score), "pairs": pairs, "cpu_seconds": time.process_time() - begun}
    model = copy.deepcopy(start)
    kept = dpo(
        model, play_pairs(model, QUESTIONS, 20_000 + 100 * seed), truth, "policy", torch.Generator(), None
    )
    rows["SFT on successes"] = {**measure(model, score), "pairs": kept}
    return rows


def table(data):
    names = list(data["seeds"][0]["rows"])
    lines = ["| | success | reply score | lies | pairs |", "|---|---|---|---|---|"]
    for name in names:
        rows = [entry["rows"][name] for entry in data["seeds"]]
        centre, half = t_interval([row["reply_score"] for row in rows])
        pairs = f"{sum(r['pairs'] for r in rows) / len(rows):.0f}" if "pairs" in rows[0] else "–"
        success, lie = percent([r["success"] for r in rows]), percent([r["lies"] for r in rows])
        lines.append(f"| {name} | {success} | {centre:+.2f} ± {half:.2f} | {lie} | {pairs} |")
    (RESULTS / "bench_talk.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", default="1-8")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "bench_talk.json"
    data = json.loads(path.read_text()) if path.is_file() else {"seeds": []}
    first, last = map(int, options.seeds.split("-"))
    for seed in range(first, last + 1):
        if options.tables or seed in {entry["seed"] for entry in data["seeds"]}:
            continue
        data["seeds"].append({"seed": seed, "rows": one(seed)})
        data |= {
            "date": str(date.today()),
            "torch": torch.__version__,
            "command": "python benchmarks/bench_talk.py",
        }
        path.write_text(json.dumps(data, indent=1) + "\n")
        print(seed, {k: round(v["success"], 2) for k, v in data["seeds"][-1]["rows"].items()}, flush=True)
    table(data)


if __name__ == "__main__":
    sys.exit(main())
