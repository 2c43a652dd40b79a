"""Chapter 9: GRPO and what came after it: advantages, KL estimators, losses, one loop."""

import copy
from typing import NamedTuple

import torch
from rlcourse.lm import sample, token_logprobs


def group_advantages(rewards, group_size, scale=True, eps=1e-4):
    """How much better each reply is than its group (eq-grpo-outcome).

    Args:
        rewards: (Q * G,) one reward per reply; the G replies to a prompt stand together.
        group_size: G, at least 2.
        scale: divide by the group's standard deviation (sample std, n - 1) plus eps;
            False leaves it out, as Dr. GRPO does.

    Returns:
        (Q * G,): 0, up to rounding, in a group whose rewards are all equal.

    Source: Shao et al. (2024), section 4.1.2; std and eps as in TRL.
    """
    groups = rewards.view(-1, group_size)  # (Q, G)
    advantages = groups - groups.mean(1, keepdim=True)
    if scale:
        advantages = advantages / (groups.std(1, keepdim=True) + eps)
    return advantages.flatten()  # (Q * G,)


def rloo_advantages(rewards, group_size):
    """Each reply against the mean of the others in its group (eq-rloo).

    Args:
        rewards: (Q * G,), the G replies to a prompt together. group_size: G, at least 2.

    Returns:
        (Q * G,): the baseline does not contain the reply's own reward.

    Source: Kool et al. (2019); Ahmadian et al. (2024).
    """
    groups = rewards.view(-1, group_size)  # (Q, G)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()


def process_advantages(step_rewards, is_step, group_size, eps=1e-4):
    """Advantages from a reward for every step (eq-process-reward, eq-process-advantage).

    Args:
        step_rewards: (Q * G, T) reward of a step at its last token; any number elsewhere.
        is_step: (Q * G, T) 1.0 at the last token of each step, 0.0 elsewhere.
        group_size: G.

    Returns:
        (Q * G, T): the sum of the normalised rewards of the steps that end at or after each
        token. Mean and std (population) are over all steps of all replies of the group;
        a group without any step gives zeros.

    Source: Shao et al. (2024), section 4.1.3.
    """
    rewards = (step_rewards * is_step).view(-1, group_size, step_rewards.shape[1])
    steps = is_step.view_as(rewards)  # (Q, G, T)
    count = steps.sum((1, 2), keepdim=True).clamp(min=1)
    mean = rewards.sum((1, 2), keepdim=True) / count
    centred = (rewards - mean) * steps
    std = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    normalised = (centred / (std + eps)).view_as(step_rewards)  # (Q * G, T)
    return normalised.flip(1).cumsum(1).flip(1)


def kl_estimates(logprobs, ref_logprobs):
    """Three estimates of KL(pi || pi_ref) from one sample of pi (eq-kl-estimators).

    Args:
        logprobs, ref_logprobs: same shape; log-probabilities of the sampled tokens.

    Returns:
        k1, k2, k3 of that shape. All three are for samples from pi; k2 and k3 are never
        negative. Gradient flows into logprobs, none into ref_logprobs.

    Source: Schulman (2020); k3 is the one in GRPO.
    """
    log_ratio = ref_logprobs.detach() - logprobs
    return -log_ratio, log_ratio.square() / 2, log_ratio.exp() - 1 - log_ratio


def clipped_losses(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """Minus the clipped surrogate of each token, with two edges (eq-grpo-clip).

    Args:
        logprobs: (B, T) under the policy that is trained. old_logprobs: (B, T) under the
            policy that sampled; no gradient.
        advantages: (B, T) or (B, 1); no gradient.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].

    Returns:
        (B, T) losses, not masked.

    Source: Shao et al. (2024), eq. 3; two edges from DAPO, Yu et al. (2025), eq. 10.
    """
    advantages = advantages.detach()
    ratio = (logprobs - old_logprobs.detach()).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def cispo_losses(logprobs, old_logprobs, advantages, clip_high=4.0):
    """REINFORCE with a clipped importance weight: no token loses its gradient (eq-cispo).

    Args: as in clipped_losses; the weight is at most 1 + clip_high and carries no gradient.

    Source: MiniMax-M1 (2025), eq. 4 and 5.
    """
    ratio = (logprobs - old_logprobs).exp().clamp(max=1 + clip_high).detach()
    return -ratio * advantages.detach() * logprobs


def sequence_ratios(logprobs, old_logprobs, mask):
    """One importance ratio per reply, the geometric mean of its tokens' (eq-gspo).

    Args:
        logprobs, old_logprobs, mask: (B, T); gradient flows into logprobs only.

    Returns:
        (B, 1): exp of the mean log-ratio over the reply's own tokens.

    Source: GSPO, Zheng et al. (2025), eq. 7.
    """
    log_ratio = (logprobs - old_logprobs.detach()) * mask
    return (log_ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True)).exp()


def aggregate(losses, mask, how, max_tokens=None):
    """One number from the losses of all tokens (eq-aggregate).

    Args:
        losses, mask: (B, T); mask is 1.0 for tokens of the reply. A row without tokens is
            a reply that costs 0: it must not make the result NaN.
        how: "sequence": mean over each reply's tokens, then over replies (GRPO);
            "token": mean over all tokens of the batch (DAPO);
            "constant": sum over tokens, divided by B * max_tokens (Dr. GRPO).
        max_tokens: the longest reply allowed; needed for "constant".

    Raises:
        ValueError: for any other `how`.
    """
    if how == "sequence":
        return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return (losses * mask).sum() / mask.sum()
    if how == "constant":
        return (losses * mask).sum() / (len(losses) * max_tokens)
    raise ValueError(f"how must be 'sequence', 'token' or 'constant', not {how!r}")


def overlong_penalty(lengths, max_tokens, buffer):
    """DAPO's soft punishment of long replies (eq-overlong).

    Args:
        lengths: (B,) tokens of each reply. max_tokens: the limit. buffer: where it begins.

    Returns:
        (B,): 0 up to max_tokens - buffer, then falling linearly to -1 at max_tokens.

    Source: Yu et al. (2025), eq. 13.
    """
    return ((max_tokens - buffer - lengths) / buffer).clamp(-1, 0)


class Settings(NamedTuple):
    """Settings of train_grpo; the defaults are GRPO as the course runs it."""

    steps: int = 40
    prompts: int = 16  # per step
    group_size: int = 16  # replies to each prompt
    inner_steps: int = 2  # mu: updates on each batch
    lr: float = 3e-4
    kl_coef: float = 0.02  # beta, weight of k3 against the starting model; 0 for none
    advantage: str = "grpo"  # "grpo", "dr_grpo", "rloo" or "process"
    loss: str = "clip"  # "clip", "cispo" or "gspo"
    aggregation: str = "token"  # see `aggregate`
    clip_low: float = 0.2
    clip_high: float = 0.2
    dynamic_sampling: bool = False  # leave out groups whose rewards are all equal


def advantages_for(world, prompts, batch, rewards, cfg):
    """(B, 1) or (B, T) advantages of a batch, as cfg.advantage says."""
    if cfg.advantage == "process":
        step_rewards, is_step = world.step_rewards(prompts, batch.tokens)
        return process_advantages(step_rewards, is_step, cfg.group_size) / world.steps
    if cfg.advantage == "rloo":
        return rloo_advantages(rewards, cfg.group_size)[:, None]
    return group_advantages(rewards, cfg.group_size, scale=cfg.advantage == "grpo")[:, None]


def token_losses(logprobs, batch, advantages, cfg):
    """(B, T) losses of all tokens, as cfg.loss says."""
    if cfg.loss == "cispo":
        return cispo_losses(logprobs, batch.logprobs, advantages, cfg.clip_high)
    if cfg.loss == "gspo":
        ratio = sequence_ratios(logprobs, batch.logprobs, batch.mask)  # (B, 1)
        zero = torch.zeros_like(ratio)
        losses = clipped_losses(ratio.log(), zero, advantages, cfg.clip_low, cfg.clip_high)
        return losses.expand_as(logprobs)
    return clipped_losses(logprobs, batch.logprobs, advantages, cfg.clip_low, cfg.clip_high)


def train_grpo(world, model, generator, cfg=None, after_step=lambda step, model: None):
    """Train a policy on a verifier's rewards: sample groups, compare, update.

    Args:
        world: gives prompts(n, generator), reward(prompts, tokens), max_new_tokens.
        model: the policy; changed in place. A frozen copy is the reference.
        generator: torch Generator, on the CPU, for prompts and samples.
        cfg: a Settings.
        after_step: called with (step, model) after every step.

    Returns:
        list of (mean reward, mean length, share of groups without signal), one per step.
    """
    cfg = cfg or Settings()
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    device, history = next(model.parameters()).device, []
    for step in range(cfg.steps):
        prompts = world.prompts(cfg.prompts, generator).to(device)
        prompts = prompts.repeat_interleave(cfg.group_size, 0)  # (B, P)
        batch = sample(model, prompts, world.max_new_tokens, generator=generator)
        rewards = world.reward(prompts, batch.tokens)  # (B,)
        advantages = advantages_for(world, prompts, batch, rewards, cfg)
        silent = rewards.view(-1, cfg.group_size).std(1) == 0  # (Q,)
        mask = batch.mask
        if cfg.dynamic_sampling:
            mask = mask * ~silent.repeat_interleave(cfg.group_size)[:, None]
        with torch.no_grad():
            ref_logprobs = token_logprobs(reference, prompts, batch.tokens)
        for _ in range(cfg.inner_steps if mask.any() else 0):
            logprobs = token_logprobs(model, prompts, batch.tokens)
            losses = token_losses(logprobs, batch, advantages, cfg)
            if cfg.kl_coef:
                losses = losses + cfg.kl_coef * kl_estimates(logprobs, ref_logprobs)[2]
            loss = aggregate(losses, mask, cfg.aggregation, world.max_new_tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        length = batch.mask.sum(1).mean()
        history.append(torch.stack([rewards.mean(), length, silent.float().mean()]))
        after_step(step + 1, model)
    return torch.stack(history).tolist()
