"""The tasks on which the course trains language models. Each is checked by a program (a verifier).

Every world has the same interface; a prompt is a row of token ids, and everything is vectorised
over the batch and stays on the device of its inputs:

    prompts(n, generator)             (n, P) ids
    demonstrations(prompts, generator)  noisy replies to imitate: tokens (n, T) and mask (n, T)
    reward(prompts, tokens)           (n,) 1.0 where the reply is right, else 0.0
    score(prompts, tokens)            (n,) a graded quality between 0 and 1, for preference data
    text(tokens)                      list of str
"""

from typing import NamedTuple

import torch

from .tokenizer import make_tokenizer

DIGITS = [str(d) for d in range(10)]


class Demonstrations(NamedTuple):
    tokens: torch.Tensor  # (n, T) ids, padded after <eos>
    mask: torch.Tensor  # (n, T) 1.0 for the reply's tokens including <eos>


class World:
    """What the tasks on a row of digits have in common. The prompt is `d1 ... dK =`.

    tokenizer: that of the model in use; None makes the course's own. A model of the hub reads its
    own ids: each symbol has to be one token of it, the ten digits with consecutive ids.

    Raises ValueError if the tokenizer does not have the symbols in this form.
    """

    def __init__(self, digits, symbols, max_new_tokens, tokenizer=None):
        self.digits, self.max_new_tokens = digits, max_new_tokens
        self.tokenizer = tokenizer or make_tokenizer(symbols)
        self.zero, self.equals = self.id("0"), self.id("=")
        if [self.id(d) for d in DIGITS] != list(range(self.zero, self.zero + 10)):
            raise ValueError("this task needs a tokenizer whose digits 0 to 9 have consecutive ids")
        self.eos, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    def id(self, word):
        """The id of a symbol that has to be one token."""
        number = self.tokenizer.convert_tokens_to_ids(word)
        if number is None or number == self.tokenizer.unk_token_id:
            raise ValueError(f"this task needs a tokenizer in which {word!r} is one token")
        return number

    def prompts(self, n, generator=None):
        """n random prompts, (n, K + 1) ids on the CPU."""
        numbers = torch.randint(0, 10, (n, self.digits), generator=generator)
        return self.encode(numbers)

    def encode(self, numbers):
        """The prompts of given digits: (n, K) numbers 0..9 -> (n, K + 1) ids."""
        equals = torch.full_like(numbers[:, :1], self.equals)
        return torch.cat([numbers + self.zero, equals], dim=1)

    def numbers(self, prompts):
        """The digits of the prompts, (n, K): the inverse of `encode`."""
        return prompts[:, -self.digits - 1 : -1] - self.zero

    def text(self, tokens):
        """Readable rows: everything before <eos>, padding left out."""
        rows = [row[: row.index(self.eos)] if self.eos in row else row for row in tokens.tolist()]
        return [self.tokenizer.decode([i for i in row if i != self.pad]) for row in rows]

    def lengths(self, tokens):
        """Tokens before <eos>, (n,); -1 where the reply never ends."""
        ended = tokens == self.eos  # (n, T)
        return torch.where(ended.any(1), ended.float().argmax(1), -1)


class ClockSum(World):
    """Add K digits modulo 10, at once (`> a`) or step by step (`< r2 r3 ... rK > a`).

    r_i is the sum of the first i digits modulo 10. The verifier looks only at the end: `> a`.
    """

    def __init__(self, digits=6, tokenizer=None):
        symbols = [*DIGITS, "=", "<", ">"]
        super().__init__(digits, symbols, max_new_tokens=digits + 4, tokenizer=tokenizer)
        self.open, self.close = self.id("<"), self.id(">")
        self.steps = digits - 1

    def demonstrations(self, prompts, generator=None, think=0.4, noise=0.1):
        """A share `think` of the replies has steps. With probability `noise` a step goes on from
        a random digit, and the answer of that reply follows the wrong steps. Direct ones are right.
        """
        numbers = self.numbers(prompts)
        n, device = len(numbers), prompts.device
        slips = torch.rand(n, self.steps, generator=generator) < noise
        random_digits = torch.randint(0, 10, (n, self.steps), generator=generator)
        thinking = (torch.rand(n, generator=generator) < think).to(device)
        slips, random_digits = slips.to(device), random_digits.to(device)
        tokens = torch.full((n, self.digits + 3), self.pad, device=device)
        tokens[:, 0] = self.open
        running = numbers[:, 0]
        for i in range(self.steps):
            running = (running + numbers[:, i + 1]) % 10
            running = torch.where(slips[:, i], random_digits[:, i], running)
            tokens[:, i + 1] = running + self.zero
        tokens[:, -3], tokens[:, -2], tokens[:, -1] = self.close, running + self.zero, self.eos
        direct = torch.full_like(tokens, self.pad)
        direct[:, 0], direct[:, 1] = self.close, numbers.sum(1) % 10 + self.zero
        direct[:, 2] = self.eos
        tokens = torch.where(thinking[:, None], tokens, direct)
        return Demonstrations(tokens, (tokens != self.pad).float())

    def reward(self, prompts, tokens):
        """1.0 where the reply ends in `> a` and a is the sum modulo 10."""
        end = self.lengths(tokens)  # (n,)
        answer = tokens.gather(1, (end - 1).clamp(min=0)[:, None]).squeeze(1)
        before = tokens.gather(1, (end - 2).clamp(min=0)[:, None]).squeeze(1)
        right = answer == self.numbers(prompts).sum(1) % 10 + self.zero
        return ((end >= 2) & right & (before == self.close)).float()

    score = reward

    def step_rewards(self, prompts, tokens):
        """(rewards, is_step), both (n, T): 1.0 at each step that follows from the step before it.

        Column i of a thinking reply holds r_{i+1}. A step is judged from the step that is written
        before it, right or not. The first token that is no digit ends the steps.
        """
        numbers = self.numbers(prompts)
        rewards, is_step = torch.zeros(tokens.shape), torch.zeros(tokens.shape)
        rewards, is_step = rewards.to(tokens.device), is_step.to(tokens.device)
        going = self.thinks(tokens)
        before = numbers[:, 0]
        for i in range(1, min(self.digits, tokens.shape[1])):
            written = tokens[:, i] - self.zero
            going = going & (written >= 0) & (written < 10)
            right = written == (before + numbers[:, i]) % 10
            rewards[:, i], is_step[:, i] = (going & right).float(), going.float()
            before = written
        return rewards, is_step

    def thinks(self, tokens):
        """True where the reply starts with steps, (n,)."""
        return tokens[:, 0] == self.open


class Sort(World):
    """Sort K digits: the reply to `3 1 2 =` is `1 2 3`."""

    def __init__(self, digits=6, tokenizer=None):
        super().__init__(digits, [*DIGITS, "="], max_new_tokens=digits + 2, tokenizer=tokenizer)

    def demonstrations(self, prompts, generator=None, noise=0.25):
        """Sorted digits in which each neighbouring pair is swapped with probability `noise`."""
        digits = self.numbers(prompts).sort(dim=1).values
        swaps = (torch.rand(len(digits), self.digits - 1, generator=generator) < noise).to(digits)
        for i in range(self.digits - 1):
            pair = digits[:, i : i + 2]
            digits[:, i : i + 2] = torch.where(swaps[:, i : i + 1] == 1, pair.flip(1), pair)
        eos = torch.full_like(digits[:, :1], self.eos)
        tokens = torch.cat([digits + self.zero, eos], dim=1)
        return Demonstrations(tokens, torch.ones(tokens.shape, device=tokens.device))

    def reward(self, prompts, tokens):
        """1.0 where the reply is exactly the sorted digits."""
        return (self.score(prompts, tokens) == 1.0).float()

    def score(self, prompts, tokens):
        """The share of the K + 1 places (the digits and <eos>) that hold the right token."""
        right = self.numbers(prompts).sort(dim=1).values + self.zero
        right = torch.cat([right, torch.full_like(right[:, :1], self.eos)], dim=1)  # (n, K + 1)
        width = min(tokens.shape[1], self.digits + 1)
        same = (tokens[:, :width] == right[:, :width]).float()
        return same.sum(1) / (self.digits + 1)


WORLDS = {
    "clock_sum": lambda: ClockSum(digits=6),
    "clock_sum_process": lambda: ClockSum(digits=10),
    "sort6": lambda: Sort(digits=6),
}
