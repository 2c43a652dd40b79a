"""Trains the agents that the labs start from: `python -m rlcourse.agents.make_models [name ...]`.

Two stages of imitation. Skills: demonstrations that succeed, until the loss is low. Habits: the logs of a
careless clerk, who guesses, mistypes and skips checks, so that there is something to learn.
"""

import argparse
import json
import math
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from rlcourse.lm.models import MODELS, load, tiny_llama

from .chat import ChatFormat
from .database import POSTINGS, DataWorld, Mix, make_tasks, tokenizer
from .database.policies import CLEAN, Habits, LooseTongue, demonstrations
from .evaluate import evaluate_agent
from .rollout import episode_logprobs


class Recipe(NamedTuple):
    posting: bool
    skill_steps: int  # at most; fewer if the loss average falls below skill_loss
    skill_loss: float
    habit_steps: int
    habits: Habits
    hidden: int = 64
    lr: float = 3e-3
    demonstrations: int = 4000


RECIPES = {
    "data_agent": Recipe(False, 400, 0.01, 120, Habits()),
    "sparse_agent": Recipe(False, 400, 0.01, 120, Habits(guess=0.8, find=0.2, slip=0.5)),
    "talking_agent": Recipe(False, 400, 0.01, 120, LooseTongue()),
    "posting_agent": Recipe(
        True, 1500, 0.005, 60, Habits(0.08, 1.0, 0.08, (0.1, 0.4, 0.25, 0.25), 0.7, 0.5, 0.5, 0.9)
    ),
}
SHIPPED = ("data_agent", "posting_agent")  # the labs' bases; the others belong to the benchmarks
MAX_POSITIONS = 128


def fit(model, rows, steps, lr, rng, stop_at=0.0, batch=64):
    """Next-token cross-entropy on the policy's tokens. rows: list of (ids, mask).

    Returns (steps made, the loss average at the end).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    average = None
    for step in range(steps):
        rate = min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * rate
        chosen = [rows[rng.randrange(len(rows))] for _ in range(batch)]
        ids = pad_sequence([torch.tensor(ids) for ids, _ in chosen], batch_first=True)
        mask = pad_sequence([torch.tensor(mask) for _, mask in chosen], batch_first=True)
        loss = -(episode_logprobs(model, ids) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        if average < stop_at:
            break
    return step + 1, average


def learn(model, words, recipe, stage, rng):
    """Train one stage, "skills" or "habits", in place; notes on it."""
    skills = stage == "skills"
    mix = POSTINGS if recipe.posting else Mix(timeout=0.04)  # the rare fault is shown more often
    tasks = make_tasks("train", recipe.demonstrations, rng, mix, recipe.posting)
    played = demonstrations(tasks, rng, CLEAN if skills else recipe.habits)
    chat = ChatFormat(words)
    rows = [chat.encode(messages) for messages, env in played if env.success or not skills]
    steps, lr = (recipe.skill_steps, recipe.lr) if skills else (recipe.habit_steps, recipe.lr / 2)
    made, loss = fit(model, rows, steps, lr, rng, recipe.skill_loss if skills else 0.0)
    success = sum(env.success for _, env in played) / len(played)
    return {"steps": made, "loss": round(loss, 4), "demonstrator_success": round(success, 3)}


def make(recipe, seed=0, skills=None):
    """(model, tokenizer, notes) of a recipe; `skills` is a folder that keeps the model between the stages."""
    words, notes = tokenizer(), {}
    model = tiny_llama(words, hidden=recipe.hidden, seed=seed, max_positions=MAX_POSITIONS)
    kept = skills and (Path(skills) / "config.json").is_file()
    if kept:
        model = load(skills)[0]
    else:
        notes["skills"] = learn(model, words, recipe, "skills", random.Random(seed))
    if skills and not kept:
        model.save_pretrained(skills)
        words.save_pretrained(skills)
    notes["habits"] = learn(model, words, recipe, "habits", random.Random(1000 + seed))
    return model.eval(), words, notes


def card(name, recipe, model, words, notes):
    """What is to be known about the file, as a dictionary. Measured on the validation split."""
    world = DataWorld(posting=recipe.posting)
    found = {}
    for kind, greedy in (("sampled", False), ("greedy", True)):
        report = evaluate_agent(model, words, world, 512, "validation", greedy=greedy)
        found[kind] = {
            "success": round(report.success, 4),
            "standard_error": round(report.standard_error, 4),
            "cost": round(report.cost, 3),
            "risk": round(report.risk, 3),
        }
    return {
        "name": name,
        "command": f"python -m rlcourse.agents.make_models {name}",
        "recipe": {**recipe._asdict(), "habits": asdict(recipe.habits), "seed": 0},
        "stages": notes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "evaluation": {"tasks": 512, "split": "validation", **found},
        "made_with": {"torch": torch.__version__, "transformers": transformers_version},
    }


def readme(facts):
    sampled, greedy = (facts["evaluation"][kind] for kind in ("sampled", "greedy"))
    return (
        f"# {facts['name']}\n\n"
        f"A Llama with {facts['parameters']:,} parameters for the world `rlcourse/agents/database`: it has "
        "learned the tools from demonstrations, and careless habits from a clerk's logs. Load it with "
        f'`rlcourse.lm.load("{facts["name"]}")` or with `AutoModelForCausalLM.from_pretrained`.\n\n'
        f"- made by: `{facts['command']}` (seed 0)\n"
        f"- success {sampled['success']:.3f} ± {sampled['standard_error']:.3f} sampled (standard error, "
        f"512 tasks of the validation split), {greedy['success']:.3f} greedy\n"
        "- the exact settings and figures are in `card.json`\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*SHIPPED, []], help="default: all")
    names = parser.parse_args().names or SHIPPED
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    for name in names:
        model, words, notes = make(RECIPES[name])
        facts = card(name, RECIPES[name], model, words, notes)
        folder = MODELS / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
        (folder / "card.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(readme(facts))
        print(f"{name:16} {facts['evaluation']['sampled']}  -> {folder}", flush=True)


if __name__ == "__main__":
    main()
