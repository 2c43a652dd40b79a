"""How good a model is in a world, on fresh prompts."""

from typing import NamedTuple

import torch

from .sampling import sample


class Evaluation(NamedTuple):
    accuracy: float  # share of right replies
    score: float  # mean graded quality
    thinking: float  # share of replies with steps; nan in a world without them
    length: float  # mean number of tokens, <eos> included
    n: int

    @property
    def standard_error(self):
        return (self.accuracy * (1 - self.accuracy) / self.n) ** 0.5


def evaluate(model, world, n=512, greedy=False, seed=12345, temperature=1.0):
    """Samples one reply to each of n prompts. The prompts depend only on `seed`."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    prompts = world.prompts(n, generator).to(device)
    replies = sample(
        model,
        prompts,
        world.max_new_tokens,
        greedy=greedy,
        temperature=temperature,
        generator=generator,
    )
    thinks = getattr(world, "thinks", None)
    return Evaluation(
        accuracy=world.reward(prompts, replies.tokens).mean().item(),
        score=world.score(prompts, replies.tokens).mean().item(),
        thinking=thinks(replies.tokens).float().mean().item() if thinks else float("nan"),
        length=replies.mask.sum(1).mean().item(),
        n=n,
    )
