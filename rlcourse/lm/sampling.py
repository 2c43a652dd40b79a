"""Batched sampling with a key-value cache."""

import inspect
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Samples(NamedTuple):
    """Replies. T is the length of the longest one, at most `max_new_tokens`."""

    tokens: torch.Tensor  # (B, T) ids; the padding id after the end of the reply
    logprobs: torch.Tensor  # (B, T) log-probability of each token when it was drawn; 0 at padding
    mask: torch.Tensor  # (B, T) 1.0 for the reply's tokens including <eos>, 0.0 after it


@torch.no_grad()
def sample(
    model,
    prompt_ids,
    max_new_tokens,
    *,
    prompt_mask=None,
    temperature=1.0,
    greedy=False,
    generator=None,
    check_every=8,
):
    """One reply for each prompt.

    prompt_ids (B, P): repeat the rows to get several replies per prompt.
    prompt_mask (B, P): 0 at padding, which must be on the left; None if there is none.
    temperature: the returned log-probs are those of the tempered distribution (greedy: of 1.0).
    generator: makes the draw repeatable; one on the CPU also serves a model on a GPU.
    check_every: only every so many tokens is the GPU asked whether all replies have ended.

    All random numbers are drawn before the first token, (B, max_new_tokens) of them, and copied to
    the device at once. So a row's draw depends neither on the other rows nor on the device.
    """
    was_training = model.training
    model.eval()
    device = prompt_ids.device
    batch, prompt_length = prompt_ids.shape
    end_ids, pad_id = _special_ids(model, device)
    source = generator.device if generator is not None else device
    uniform = torch.rand(batch, max_new_tokens, generator=generator, device=source).to(device)
    if prompt_mask is not None and bool(prompt_mask.all()):
        prompt_mask = None  # nothing is padded: spare the model the mask
    if prompt_mask is not None:
        new = torch.ones(batch, max_new_tokens, dtype=torch.long, device=device)
        attention = torch.cat([prompt_mask.long(), new], dim=1)  # (B, P + T)
        positions = (attention.cumsum(1) - 1).clamp(min=0)
    extra = {"logits_to_keep": 1} if _accepts(model, "logits_to_keep") else {}

    tokens, logprobs, mask = [], [], []
    alive = torch.ones(batch, dtype=torch.bool, device=device)
    inputs, cache, start = prompt_ids, None, 0
    for t in range(max_new_tokens):
        end = prompt_length + t
        if prompt_mask is not None:
            extra["attention_mask"] = attention[:, :end]
            extra["position_ids"] = positions[:, start:end]
        output = model(input_ids=inputs, past_key_values=cache, use_cache=True, **extra)
        cache, start = output.past_key_values, end
        logits = output.logits[:, -1].float()  # (B, V)
        distribution = F.log_softmax(logits if greedy else logits / temperature, dim=-1)
        token = distribution.argmax(-1) if greedy else _draw(distribution, uniform[:, t])
        logprob = distribution.gather(1, token[:, None]).squeeze(1)
        token = torch.where(alive, token, pad_id)
        tokens.append(token)
        logprobs.append(logprob * alive)
        mask.append(alive)
        alive = alive & ~torch.isin(token, end_ids)
        if (t + 1) % check_every == 0 and not alive.any():
            break
        inputs = token[:, None]
    model.train(was_training)
    mask = torch.stack(mask, dim=1).float()
    longest = int(mask.sum(1).max())
    stacked = Samples(torch.stack(tokens, dim=1), torch.stack(logprobs, dim=1), mask)
    return Samples(*(x[:, :longest] for x in stacked))


def _draw(distribution, uniform):
    """The token at which the cumulated probability passes the uniform number. (B, V), (B,) -> (B,)"""
    cumulated = distribution.exp().cumsum(-1)
    threshold = uniform[:, None] * cumulated[:, -1:]
    token = torch.searchsorted(cumulated, threshold, right=True).squeeze(1)
    return token.clamp(max=distribution.shape[1] - 1)


def _special_ids(model, device):
    """The ids that end a reply, (n,), and the padding id, from the model's generation settings."""
    settings = model.generation_config
    end = settings.eos_token_id
    end = end if isinstance(end, (list, tuple)) else [end]
    pad = settings.pad_token_id if settings.pad_token_id is not None else end[0]
    return torch.tensor(end, device=device), torch.tensor(pad, device=device)


def _accepts(model, argument):
    return argument in inspect.signature(model.forward).parameters
