"""Right but different versions of chapter 6's exercises, which every grader must accept."""

import torch
from torch.distributions import Categorical
from torch.nn import functional as F


def k_step_advantages__deltas(rewards, values, k, gamma):
    """As a discounted sum of the next k TD errors."""
    if k < 1:
        raise ValueError("k must be positive")
    deltas = rewards + gamma * values[1:] - values[:-1]
    T = len(rewards)
    rows = [[gamma ** (u - t) if t <= u < t + k else 0.0 for u in range(T)] for t in range(T)]
    return torch.tensor(rows) @ deltas


def compute_gae__definition(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Straight from the definition: weighted sums of TD errors up to the end of each episode."""
    values = values.detach()
    T, advantages = len(rewards), torch.zeros_like(rewards)
    next_values = torch.where(terminated, torch.zeros_like(rewards), values[1:])
    deltas = rewards + gamma * next_values - values[:-1]
    for t in range(T):
        weight = torch.ones_like(rewards[0])
        for u in range(t, T):
            advantages[t] += weight * deltas[u]
            weight = weight * gamma * gae_lambda * (~(terminated[u] | truncated[u])).float()
    return advantages


def compute_gae__lambda_returns(rewards, values, terminated, truncated, gamma, gae_lambda):
    """By lambda-returns: the advantage is the lambda-return minus the value."""
    values = values.detach()
    target = values[-1].clone()
    out = []
    for t in range(len(rewards) - 1, -1, -1):
        ended = (terminated[t] | truncated[t]).float()
        mixed = (1 - gae_lambda) * values[t + 1] + gae_lambda * target
        ahead = ended * values[t + 1] + (1 - ended) * mixed
        target = rewards[t] + gamma * (1 - terminated[t].float()) * ahead
        out.append(target - values[t])
    return torch.stack(out[::-1])


def real_transitions__loop(terminated, truncated, done_before):
    """With a loop that carries the flag along."""
    previous, rows = done_before, []
    for t in range(len(terminated)):
        rows.append(torch.logical_not(previous))
        previous = torch.logical_or(terminated[t], truncated[t])
    return torch.stack(rows)


def normalise_advantages__by_hand(advantages, eps=1e-8):
    """With the variance written out."""
    centred = advantages - advantages.mean()
    return centred / (centred.pow(2).mean().sqrt() + eps)


def clipped_surrogate__where(logprobs, old_logprobs, advantages, clip_eps):
    """By cases: the edge that matters depends on the sign of the advantage."""
    ratio = torch.exp(logprobs - old_logprobs.detach())
    advantages = advantages.detach()
    capped = torch.clamp(ratio, max=1 + clip_eps)
    floored = torch.clamp(ratio, min=1 - clip_eps)
    return torch.where(advantages >= 0, capped, floored) * advantages


def policy_entropy__categorical(logits):
    """With torch.distributions."""
    return Categorical(logits=logits).entropy()


def value_loss__library(values, targets):
    """With the library's mean squared error, which would only warn about the shapes."""
    if values.shape != targets.shape:
        raise ValueError("shapes differ")
    return F.mse_loss(values, targets.detach())


def ppo_loss__categorical(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """With torch.distributions, as the maximum of two losses."""
    actions, old_logprobs, advantages, targets = (x.detach() for x in batch)
    policy = Categorical(logits=logits)
    ratio = torch.exp(policy.log_prob(actions) - old_logprobs)
    losses = torch.max(-advantages * ratio, -advantages * ratio.clamp(1 - clip_eps, 1 + clip_eps))
    return losses.mean() + vf_coef * F.mse_loss(values, targets) - ent_coef * policy.entropy().mean()
