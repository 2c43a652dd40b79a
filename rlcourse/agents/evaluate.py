"""How an agent does on tasks that it was not trained on."""

import random
from collections import Counter
from typing import NamedTuple

import torch

from .rollout import Rollout, rollout


class Report(NamedTuple):
    """Means over n episodes."""

    success: float
    cost: float
    risk: float
    turns: float
    calls: dict  # tool -> share of episodes that called it
    reasons: dict  # why episodes ended -> share
    faults: dict  # fault of the task -> success
    n: int
    rollout: Rollout
    tasks: list

    @property
    def standard_error(self):
        return (self.success * (1 - self.success) / self.n) ** 0.5


def evaluate_agent(model, tokenizer, world, n=256, split="test", greedy=False, seed=12345):
    """Play one episode in each of n tasks; the tasks and the luck depend on `seed` only."""
    tasks = world.tasks(split, n, random.Random(seed))
    envs = [world.env(task) for task in tasks]
    generator = torch.Generator().manual_seed(seed)
    played = rollout(model, tokenizer, envs, max_tokens=world.max_tokens, greedy=greedy, generator=generator)
    episodes = played.episodes

    def mean(of):
        return sum(map(of, episodes)) / n

    called = Counter(name for e in episodes for name in set(e.calls))
    by_fault = {}
    for task, episode in zip(tasks, episodes, strict=True):
        by_fault.setdefault(task.fault or "none", []).append(episode.success)
    return Report(
        mean(lambda e: e.success),
        mean(lambda e: e.cost),
        mean(lambda e: e.risk),
        mean(lambda e: len(e.calls)),
        {name: count / n for name, count in sorted(called.items())},
        {reason: k / n for reason, k in sorted(Counter(str(e.reason) for e in episodes).items())},
        {fault: sum(s) / len(s) for fault, s in sorted(by_fault.items())},
        n,
        played,
        tasks,
    )
