"""Correct but different versions of chapter 7's exercises."""

import torch
import torch.nn.functional as F


def masked_mean__selected(values, mask):
    """The marked entries picked out first."""
    return values[mask.bool()].mean()


def sft_loss__cross_entropy(logits, input_ids, reply_mask):
    """By the library's cross entropy, with targets that are ignored outside the reply."""
    targets = input_ids.masked_fill(reply_mask == 0, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())


def reward_model_loss__softplus(chosen_scores, rejected_scores):
    """With softplus(-z) for -log sigmoid(z)."""
    return F.softplus(rejected_scores - chosen_scores).mean()


def reward_model_loss__cross_entropy(chosen_scores, rejected_scores):
    """As a classification with two classes."""
    both = torch.stack([chosen_scores, rejected_scores], 1)
    return F.cross_entropy(both, torch.zeros(len(both), dtype=torch.long, device=both.device))


def last_token_scores__rows(values, mask):
    """Row by row."""
    return torch.stack([v[int(m.sum()) - 1] for v, m in zip(values, mask, strict=True)])


def last_token_scores__end_mask(values, mask):
    """With a mask that is 1 where the reply's tokens end."""
    after = F.pad(mask, (0, 1))[:, 1:]
    return (values * mask * (1 - after)).sum(1)


@torch.no_grad()
def token_rewards__loop(scores, logprobs, ref_logprobs, mask, kl_coef):
    """Token by token."""
    rewards = torch.zeros_like(logprobs)
    for b in range(len(scores)):
        length = int(mask[b].sum())
        for t in range(length):
            rewards[b, t] = kl_coef * (ref_logprobs[b, t] - logprobs[b, t])
        rewards[b, length - 1] += scores[b]
    return rewards


@torch.no_grad()
def token_gae__double_sum(rewards, values, mask, gamma, gae_lambda):
    """By the definition: the weighted sum of the temporal-difference errors still to come."""
    values = values * mask
    following = F.pad(values, (0, 1))[:, 1:]
    deltas = (rewards + gamma * following - values) * mask
    length = values.shape[1]
    columns = []
    for t in range(length):
        weights = (gamma * gae_lambda) ** torch.arange(length - t, dtype=values.dtype)
        columns.append((deltas[:, t:] * weights).sum(1))
    advantages = torch.stack(columns, 1) * mask
    return advantages, (advantages + values) * mask


def masked_whiten__selected(advantages, mask, eps=1e-8):
    """On the marked entries alone, written back into zeros."""
    own = advantages[mask.bool()]
    result = torch.zeros_like(advantages)
    result[mask.bool()] = (own - own.mean()) / (own.std(correction=0) + eps)
    return result
