"""The log of an agent in use: one SQLite table, one row per event."""

import json
import math
import random
import sqlite3
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

KINDS = {"user": "user", "assistant": "action", "tool": "observation"}


class Logbook:
    """What was served. Holds no more than a later round may learn from.

    Columns: round, expires, question, episode, step, kind, ids, logprobs, value. `value` is the outcome
    as it was observed: 1.0, 0.0 or NULL. Episodes that read the private table are not stored at all, and
    a record can be read before the round `expires` only.

    Args:
        keep: how many rounds a record may be kept.
    """

    def __init__(self, keep=3):
        self.db, self.keep, self.episodes = sqlite3.connect(":memory:"), keep, 0
        self.db.execute(
            "CREATE TABLE log (round INT, expires INT, question INT, episode INT, step INT, kind TEXT, "
            "ids TEXT, logprobs TEXT, value REAL)"
        )

    def write(self, round_, questions, episodes, outcomes):
        """One row per turn, and one for the outcome (None where nobody saw it)."""
        for question, episode, outcome in zip(questions, episodes, outcomes, strict=True):
            if episode.facts["private_reads"]:
                continue
            key, step = (round_, round_ + self.keep, question, self.episodes), 0
            for step, turn in enumerate(episode.turns):
                kind = KINDS[turn.role]
                logprobs = json.dumps(turn.logprobs) if kind == "action" else None
                self._row(*key, step, kind, json.dumps(turn.ids), logprobs, None)
            self._row(*key, step + 1, "outcome", None, None, outcome)
            self.episodes += 1
        self.db.commit()

    def _row(self, *values):
        self.db.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    def read(self, round_, now=None):
        """The episodes of a round, read in round `now` (the same one if None); expired ones are deleted.

        Returns a list of (question, rows), rows as `episode_from_log` takes them.
        """
        now = round_ if now is None else now
        self.db.execute("DELETE FROM log WHERE expires <= ?", (now,))
        found, names = {}, ("step", "kind", "ids", "logprobs", "value")
        sql = "SELECT question, episode, step, kind, ids, logprobs, value FROM log WHERE round = ?"
        for question, episode, *row in self.db.execute(sql + " ORDER BY episode, step", (round_,)):
            row = dict(zip(names, row, strict=True))
            for name in ("ids", "logprobs"):
                row[name] = json.loads(row[name]) if row[name] else None
            found.setdefault((question, episode), []).append(row)
        return [(question, rows) for (question, _), rows in found.items()]


class LogBatch(NamedTuple):
    """Logged episodes as tensors, padded on the right."""

    ids: torch.Tensor  # (N, L)
    mask: torch.Tensor  # (N, L)
    behaviour_logprobs: torch.Tensor  # (N, L)
    outcomes: torch.Tensor  # (N,) NaN where missing
    questions: torch.Tensor  # (N,)


def as_batch(questions, episodes):
    """Tensors from what `episode_from_log` returned."""
    columns = zip(*episodes, strict=True)
    ids, mask, logprobs, outcomes = columns
    pad = [
        pad_sequence([torch.tensor(row, dtype=kind) for row in rows], batch_first=True)
        for rows, kind in ((ids, torch.long), (mask, torch.float), (logprobs, torch.float))
    ]
    known = [math.nan if value is None else value for value in outcomes]
    return LogBatch(*pad, torch.tensor(known), torch.tensor(questions))


def observe(episodes, flip, missing, rng):
    """Outcomes as a log sees them: some flipped, some missing; rng is a random.Random."""
    assert isinstance(rng, random.Random)
    seen = []
    for episode in episodes:
        value = 1.0 - episode.success if rng.random() < flip else episode.success
        seen.append(None if rng.random() < missing else value)
    return seen
