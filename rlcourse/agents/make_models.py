"""Trains the agents that the labs start from: `python -m rlcourse.agents.make_models [name ...]`.

Two stages of imitation. Skills: demonstrations that succeed, until the loss is low. Habits: the logs of a
careless clerk, who guesses, mistypes and skips checks, so that there is something to learn.
"""

import math
import random
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from rlcourse.lm.models import tiny_llama

from .chat import ChatFormat
from .database import make_tasks, tokenizer
from .database.policies import CLEAN, Habits, demonstrations
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
    "posting_agent": Recipe(
        True, 1500, 0.01, 120, Habits(guess=0.1, slip=0.1, on_error=(0.1, 0.4, 0.25, 0.25))
    ),
}
MAX_TOKENS = {False: 80, True: 128}


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
    tasks = make_tasks("train", recipe.demonstrations, rng, posting=recipe.posting)
    played = demonstrations(tasks, rng, CLEAN if skills else recipe.habits)
    chat = ChatFormat(words)
    rows = [chat.encode(messages) for messages, env in played if env.success or not skills]
    steps, lr = (recipe.skill_steps, recipe.lr) if skills else (recipe.habit_steps, recipe.lr / 2)
    made, loss = fit(model, rows, steps, lr, rng, recipe.skill_loss if skills else 0.0)
    success = sum(env.success for _, env in played) / len(played)
    return {"steps": made, "loss": round(loss, 4), "demonstrator_success": round(success, 3)}


def make(recipe, seed=0):
    """(model, tokenizer, notes) of a recipe."""
    words, rng = tokenizer(), random.Random(seed)
    model = tiny_llama(words, hidden=recipe.hidden, seed=seed, max_positions=MAX_TOKENS[True])
    notes = {stage: learn(model, words, recipe, stage, rng) for stage in ("skills", "habits")}
    return model.eval(), words, notes
