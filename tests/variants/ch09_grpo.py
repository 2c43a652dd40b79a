"""Correct but different versions of chapter 9's exercises."""

import torch


def group_advantages__loop(rewards, group_size, scale=True, eps=1e-4):
    """Group by group."""
    out = []
    for group in rewards.split(group_size):
        centred = group - group.sum() / group_size
        std = (centred.square().sum() / (group_size - 1)).sqrt()
        out.append(centred / (std + eps) if scale else centred)
    return torch.cat(out)


def rloo_advantages__from_the_mean(rewards, group_size):
    """The group-mean advantage times G / (G - 1)."""
    groups = rewards.view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) * group_size / (group_size - 1)).flatten()


def kl_estimates__expm1(logprobs, ref_logprobs):
    """With expm1, which is exact for small ratios."""
    d = ref_logprobs.detach() - logprobs
    return logprobs - ref_logprobs.detach(), 0.5 * d * d, torch.expm1(d) - d


def clipped_losses__maximum_of_losses(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """The larger of the two losses."""
    ratio, a = torch.exp(logprobs - old_logprobs.detach()), advantages.detach()
    return torch.max(-ratio * a, -torch.clamp(ratio, 1 - clip_low, 1 + clip_high) * a)


def aggregate__by_weights(losses, mask, how, max_tokens=None):
    """As one weighted sum."""
    if how == "sequence":
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    elif how == "token":
        weights = mask / mask.sum()
    elif how == "constant":
        weights = mask / (len(mask) * max_tokens)
    else:
        raise ValueError(how)
    return (losses * weights).sum()


def process_advantages__loop(step_rewards, is_step, group_size, eps=1e-4):
    """Group by group, token by token."""
    out = torch.zeros_like(step_rewards)
    for first in range(0, len(step_rewards), group_size):
        rows = range(first, first + group_size)
        ends = [(i, t) for i in rows for t in range(step_rewards.shape[1]) if is_step[i, t]]
        if not ends:
            continue
        values = torch.stack([step_rewards[i, t] for i, t in ends])
        normalised = (values - values.mean()) / (values.std(correction=0) + eps)
        for (i, t), value in zip(ends, normalised, strict=True):
            out[i, : t + 1] += value
    return out


def sequence_ratios__masked_mean(logprobs, old_logprobs, mask):
    """Reply by reply."""
    rows = zip(logprobs, old_logprobs.detach(), mask.bool(), strict=True)
    return torch.stack([(new[m] - old[m]).mean().exp() for new, old, m in rows])[:, None]


def cispo_losses__no_grad(logprobs, old_logprobs, advantages, clip_high=4.0):
    """The weight computed without a graph."""
    with torch.no_grad():
        weight = torch.clamp(torch.exp(logprobs - old_logprobs), max=1 + clip_high) * advantages
    return -(weight * logprobs)
