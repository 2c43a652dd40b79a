"""The exact world: so few tokens that every reply can be listed, so that nothing is estimated.

The vocabulary is `<eos>` (id 0, also the padding) and some letters; a prompt is one letter; a reply
is any sequence of letters that ends with <eos> or has `max_length` tokens. With two letters and
max_length 3 there are 15 replies to each of 2 prompts. Tensors over all replies are (M, N): prompts
by replies. Everything here is arithmetic on such tables; the algorithms are in `solutions`.
"""

import itertools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from .logprobs import token_logprobs
from .models import tiny_llama
from .tokenizer import EOS, make_tokenizer


class ExactWorld:
    """All replies over `letters` with at most `max_length` tokens.

    prompts (M, 1) ids · tokens (N, L) ids · mask (N, L) · texts: N strings
    """

    def __init__(self, letters="ab", max_length=3):
        self.letters, self.max_length = list(letters), max_length
        self.tokenizer = make_tokenizer(self.letters, specials=[EOS])
        self.size = len(self.tokenizer)
        self.prompts = torch.arange(1, self.size)[:, None]
        replies = [
            list(body) + [0] * (max_length - n)
            for n in range(max_length + 1)
            for body in itertools.product(range(1, self.size), repeat=n)
        ]
        self.tokens = torch.tensor(replies)  # (N, L)
        letters_written = (self.tokens != 0).sum(1)
        self.lengths = (letters_written + 1).clamp(max=max_length)  # (N,) tokens with <eos>
        self.mask = (torch.arange(max_length)[None] < self.lengths[:, None]).float()
        words = [EOS, *self.letters]
        self.texts = [
            " ".join(words[i] for i in row[:n])
            for row, n in zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        ]

    def everything(self):
        """Each prompt with each reply: prompts (M * N, 1), tokens (M * N, L), mask (M * N, L)."""
        m, n = len(self.prompts), len(self.tokens)
        prompts = self.prompts.repeat_interleave(n, dim=0)
        return prompts, self.tokens.repeat(m, 1), self.mask.repeat(m, 1)

    def logprobs(self, model):
        """log pi(reply | prompt) of every reply, (M, N), with gradient. exp of a row sums to 1."""
        prompts, tokens, mask = self.everything()
        total = (token_logprobs(model, prompts, tokens) * mask).sum(1)
        return total.view(len(self.prompts), -1)  # (M * N,) -> (M, N)

    def index(self, tokens):
        """The number 0..N-1 of each of the given replies, (B, T <= L) -> (B,)."""
        tokens = F.pad(tokens, (0, self.max_length - tokens.shape[1]))
        return (tokens[:, None] == self.tokens[None]).all(-1).float().argmax(1)

    def random_rewards(self, seed=0, scale=1.0):
        """A reward for every reply, (M, N), drawn from a normal distribution."""
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(len(self.prompts), len(self.tokens), generator=generator)

    def transformer(self, seed=0, hidden=16, layers=1, heads=2):
        """A small Llama on this vocabulary."""
        return tiny_llama(self.tokenizer, hidden, layers, heads, max_positions=16, seed=seed)


class TablePolicy(nn.Module):
    """A policy with one free logit for each token after each prefix: no function approximation.

    It is called like a transformers model, so `sample`, `token_logprobs` and every loss take it.
    """

    def __init__(self, world, seed=0, scale=1.0):
        super().__init__()
        self.size = world.size
        rows = sum(self.size**n for n in range(world.max_length + 1))  # prompt and reply so far
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(scale * torch.randn(rows, self.size, generator=generator))
        self.generation_config = SimpleNamespace(eos_token_id=0, pad_token_id=0)

    @classmethod
    def from_logprobs(cls, world, logprobs):
        """The table whose replies have the given log-probabilities, (M, N)."""
        policy = cls(world, scale=0.0)
        prompts, tokens, mask = world.everything()
        rows = policy._rows(torch.cat([prompts, tokens], dim=1)[:, :-1])  # (M * N, L)
        mass = torch.zeros_like(policy.logits)
        weight = logprobs.detach().exp().reshape(-1, 1) * mask  # (M * N, L)
        mass.index_put_((rows, tokens), weight, accumulate=True)
        visited = mass.sum(1) > 0
        policy.logits.data[visited] = mass[visited].log()
        return policy

    def forward(self, input_ids, past_key_values=None, **ignored):
        """Logits (B, L, V). The "cache" is the row of the prefix read so far."""
        rows = self._rows(input_ids, past_key_values)
        return SimpleNamespace(logits=self.logits[rows], past_key_values=rows[:, -1])

    def _rows(self, input_ids, row=None):
        """The row of each prefix: the empty one is 0, its children are 1..V, and so on. (B, L)"""
        row = torch.zeros_like(input_ids[:, 0]) if row is None else row
        rows = []
        for column in input_ids.T:
            row = row * self.size + column + 1
            rows.append(row)
        return torch.stack(rows, dim=1)


def expectation(logprobs, values):
    """E over replies of a value, for each prompt: (M, N), (M, N) -> (M,). The objective J of
    reward r is `expectation(world.logprobs(model), r)`, and its exact gradient is autograd's."""
    return (logprobs.exp() * values).sum(-1)


def exact_kl(logprobs_p, logprobs_q):
    """KL(p || q) over replies, for each prompt: (M, N), (M, N) -> (M,)."""
    return (logprobs_p.exp() * (logprobs_p - logprobs_q)).sum(-1)


def exact_gradient(scalar, model):
    """The gradient with respect to all parameters as one vector. Leaves `.grad` alone."""
    gradients = torch.autograd.grad(
        scalar, list(model.parameters()), retain_graph=True, materialize_grads=True
    )
    return torch.cat([g.flatten() for g in gradients])


def preference_probabilities(rewards):
    """Bradley-Terry: P(reply i is preferred to reply j), (M, N) -> (M, N, N)."""
    return torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
