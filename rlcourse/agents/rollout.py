"""Many episodes at once, token by token, with one key-value cache.

At each position a row either draws a token from the policy (mask 1) or is fed the next forced one:
prompt, tool result, padding (mask 0). Id, log-probability and mask are written in one place.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from rlcourse.lm.logprobs import token_logprobs
from rlcourse.lm.sampling import _accepts, _draw

from .chat import ChatFormat
from .episode import Episode, StopReason, Turn


class Rollout(NamedTuple):
    """One row per episode, padded on the right. Column t speaks of token ids[:, t]."""

    ids: torch.Tensor  # (B, L)
    mask: torch.Tensor  # (B, L) 1.0 = the policy chose this token
    logprobs: torch.Tensor  # (B, L) its log-probability when it was chosen; 0 where mask is 0
    turn: torch.Tensor  # (B, L) number of the assistant turn; -1 where mask is 0
    episodes: list


class Row:
    """One episode while it runs."""

    def __init__(self, env, chat, max_tokens, max_turn_tokens):
        self.env, self.chat = env, chat
        self.room, self.turn_room = max_tokens, max_turn_tokens
        text = env.reset()
        self.queue = list(chat.prompt(text))
        self.ids, self.mask, self.logprobs, self.turn = [], [], [], []
        self.turns = [Turn("user", text, list(self.queue))]
        self.writing, self.number, self.reason = None, 0, None

    @property
    def over(self):
        return self.reason is not None and not self.queue

    def add(self, drawn, logprob):
        """Append one token, forced or drawn, and return its id."""
        chosen = 0.0
        if self.queue:
            drawn, logprob = self.queue.pop(0), 0.0
        elif self.reason is not None:
            drawn, logprob = self.chat.pad, 0.0
        else:
            chosen = 1.0
        self.ids.append(drawn)
        self.mask.append(chosen)
        self.logprobs.append(logprob)
        self.turn.append(self.number if chosen else -1)
        if chosen:
            self._wrote(drawn, logprob)
        if self.reason is None and len(self.ids) >= self.room:
            self._end(StopReason.TOKEN_LIMIT)
        return drawn

    def _wrote(self, token, logprob):
        if self.writing is None:
            self.writing = Turn("assistant", "")
            self.turns.append(self.writing)
        self.writing.ids.append(token)
        self.writing.logprobs.append(logprob)
        if token == self.chat.end or len(self.writing.ids) >= self.turn_room:
            self.writing.text = self.chat.text(self.writing.ids)
            step = self.env.step(self.writing.text)
            self.writing, self.number = None, self.number + 1
            if step.done:
                self.reason = step.reason
            if step.text and not step.done:
                self.queue = list(self.chat.result(step.text))
                self.turns.append(Turn("tool", step.text, list(self.queue)))

    def _end(self, reason):
        """The rollout itself stops the episode."""
        if self.writing is not None:
            self.writing.text = self.chat.text(self.writing.ids)
        self.env.stop(reason)
        self.reason, self.queue = reason, []

    def episode(self):
        env, n = self.env, len(self.ids)
        while n and self.mask[n - 1] == 0.0 and self.ids[n - 1] == self.chat.pad:
            n -= 1
        return Episode(
            self.turns,
            StopReason(self.reason),
            env.success,
            env.cost,
            env.risk,
            list(env.calls),
            list(env.milestones),
            dict(env.facts),
            self.ids[:n],
            self.mask[:n],
        )


@torch.no_grad()
def rollout(
    model,
    tokenizer,
    envs,
    *,
    max_tokens=96,
    max_turn_tokens=8,
    temperature=1.0,
    greedy=False,
    generator=None,
):
    """Play one episode in each of the envs, all at once.

    Args:
        model, tokenizer: a causal language model; the tokenizer has a chat template.
        envs: fresh environments, each for one episode: reset() -> str, step(str) -> Step, stop(reason).
        max_tokens: length of a row, prompt and tool results included. max_turn_tokens: of one turn;
            a longer turn is handed to the environment as it is.
        temperature, greedy: how tokens are drawn. generator: on the CPU; makes the draw repeatable.

    Returns:
        a Rollout on the model's device. Random numbers are drawn before the first token,
        (B, max_tokens) of them, so one row's luck does not depend on the other rows.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    uniform = torch.rand(len(envs), max_tokens, generator=generator).to(device)
    chat = ChatFormat(tokenizer)
    rows = [Row(env, chat, max_tokens, max_turn_tokens) for env in envs]
    extra = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}
    shared = min(len(row.queue) for row in rows)  # all prompts have this many tokens: read at once
    columns = [[row.add(0, 0.0) for _ in range(shared)] for row in rows]
    cache, running = None, list(range(len(rows)))  # running: the row of each line of the cache
    for place in range(shared, max_tokens):
        alive = [i for i in running if not rows[i].over]
        if not alive:
            break
        if len(alive) < 0.75 * len(running) and hasattr(cache, "batch_select_indices"):
            kept = [k for k, i in enumerate(running) if not rows[i].over]
            cache.batch_select_indices(torch.tensor(kept, device=device))
            columns, running = [columns[k] for k in kept], alive
        inputs = torch.tensor(columns, device=device)  # (running, 1), the first time (B, shared)
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True, **extra)
        cache = output.past_key_values
        logits = output.logits[:, -1].float()  # (running, V)
        distribution = F.log_softmax(logits if greedy else logits / temperature, dim=-1)
        luck = uniform[torch.tensor(running, device=device), place]
        token = distribution.argmax(-1) if greedy else _draw(distribution, luck)
        logprob = distribution.gather(1, token[:, None]).squeeze(1)
        drawn = zip(running, token.tolist(), logprob.tolist(), strict=True)
        columns = [[rows[i].add(t, p)] for i, t, p in drawn]
    model.train(was_training)
    longest = max(len(row.ids) for row in rows)
    return Rollout(
        _padded([row.ids for row in rows], longest, chat.pad, device),
        _padded([row.mask for row in rows], longest, 0.0, device),
        _padded([row.logprobs for row in rows], longest, 0.0, device),
        _padded([row.turn for row in rows], longest, -1, device),
        [row.episode() for row in rows],
    )


def _padded(rows, length, fill, device):
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows], device=device)


def episode_logprobs(model, ids):
    """log pi(ids[:, t] | ids[:, :t]) for rows that start at column 0 and are padded on the right.

    Args:
        model: a causal language model. ids: (B, L).

    Returns:
        (B, L) with gradient; column 0, which nothing predicts, is 0.
    """
    return F.pad(token_logprobs(model, ids[:, :1], ids[:, 1:]), (1, 0))
