"""Wrong versions of chapter 9's exercises; each docstring is the diagnosis that a learner reads."""

import torch


def group_advantages__whole_batch(rewards, group_size, scale=True, eps=1e-4):
    """You compare with the whole batch: a reply competes with the replies to its own prompt only."""
    centred = rewards - rewards.mean()
    return centred / (rewards.std() + eps) if scale else centred


def group_advantages__interleaved(rewards, group_size, scale=True, eps=1e-4):
    """Your groups take every n-th reply: the replies to one prompt stand together, so the groups are rows."""
    g = rewards.view(group_size, -1)
    a = g - g.mean(0, keepdim=True)
    return (a / (g.std(0, keepdim=True) + eps) if scale else a).flatten()


def group_advantages__population_std(rewards, group_size, scale=True, eps=1e-4):
    """This is the population std (divided by n): the convention here is the sample std (n - 1)."""
    g = rewards.view(-1, group_size)
    a = g - g.mean(1, keepdim=True)
    return (a / (g.std(1, keepdim=True, correction=0) + eps) if scale else a).flatten()


def group_advantages__eps_in_variance(rewards, group_size, scale=True, eps=1e-4):
    """eps belongs outside the square root: std + eps, not sqrt(var + eps)."""
    g = rewards.view(-1, group_size)
    a = g - g.mean(1, keepdim=True)
    return (a / (g.var(1, keepdim=True) + eps).sqrt() if scale else a).flatten()


def group_advantages__no_eps(rewards, group_size, scale=True, eps=1e-4):
    """eps is missing: a group of equal rewards divides 0 by 0."""
    g = rewards.view(-1, group_size)
    a = g - g.mean(1, keepdim=True)
    return (a / g.std(1, keepdim=True) if scale else a).flatten()


def group_advantages__always_scaled(rewards, group_size, scale=True, eps=1e-4):
    """scale=False is ignored: Dr. GRPO leaves the standard deviation out."""
    g = rewards.view(-1, group_size)
    return ((g - g.mean(1, keepdim=True)) / (g.std(1, keepdim=True) + eps)).flatten()


def group_advantages__no_mean(rewards, group_size, scale=True, eps=1e-4):
    """The mean is not subtracted: with rewards 0 and 1 nothing would ever be pushed down."""
    g = rewards.view(-1, group_size)
    return (g / (g.std(1, keepdim=True) + eps) if scale else g).flatten()


def rloo_advantages__includes_itself(rewards, group_size):
    """Your baseline contains the reply's own reward: it is the group mean, (G - 1) / G of what is wanted."""
    g = rewards.view(-1, group_size)
    return (g - g.mean(1, keepdim=True)).flatten()


def rloo_advantages__divides_by_g(rewards, group_size):
    """The sum of the others has G - 1 terms: divide by G - 1."""
    g = rewards.view(-1, group_size)
    return (g - (g.sum(1, keepdim=True) - g) / group_size).flatten()


def rloo_advantages__whole_batch(rewards, group_size):
    """You leave one out of the whole batch: the others are those of the same prompt."""
    return rewards - (rewards.sum() - rewards) / (len(rewards) - 1)


def rloo_advantages__sign(rewards, group_size):
    """The sign is turned around: reward minus baseline."""
    g = rewards.view(-1, group_size)
    return ((g.sum(1, keepdim=True) - g) / (group_size - 1) - g).flatten()


def kl_estimates__swapped(logprobs, ref_logprobs):
    """The two policies are swapped: k1 is log pi - log pi_ref, k3 uses the ratio pi_ref / pi."""
    d = logprobs - ref_logprobs.detach()
    return -d, d.square() / 2, d.exp() - 1 - d


def kl_estimates__k2_not_halved(logprobs, ref_logprobs):
    """k2 is half the squared log-ratio."""
    d = ref_logprobs.detach() - logprobs
    return -d, d.square(), d.exp() - 1 - d


def kl_estimates__k3_without_control(logprobs, ref_logprobs):
    """k3 is ratio - 1 - log ratio: you left the log-ratio out, so its mean is 0."""
    d = ref_logprobs.detach() - logprobs
    return -d, d.square() / 2, d.exp() - 1


def kl_estimates__trains_reference(logprobs, ref_logprobs):
    """Gradient flows into the reference: it is frozen, so detach it."""
    d = ref_logprobs - logprobs
    return -d, d.square() / 2, d.exp() - 1 - d


def kl_estimates__detached(logprobs, ref_logprobs):
    """Only k3 receives gradient: all three are differentiable functions of log pi."""
    d = ref_logprobs.detach() - logprobs
    return -d.detach() + 0 * logprobs, d.detach().square() / 2 + 0 * logprobs, d.exp() - 1 - d


def kl_estimates__probabilities(logprobs, ref_logprobs):
    """You took the difference of probabilities: the ratio is exp of the difference of the logarithms."""
    d = ref_logprobs.detach().exp() - logprobs.exp()
    return -d, d.square() / 2, d.exp() - 1 - d


def _clip(ratio, advantages, low, high):
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def clipped_losses__never_clips(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """The clipped ratio is computed and never used."""
    return -(logprobs - old_logprobs.detach()).exp() * advantages.detach()


def clipped_losses__only_clipped(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """The minimum is missing: a policy that moved the wrong way beyond the edge must keep its gradient."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    return -ratio.clamp(1 - clip_low, 1 + clip_high) * advantages.detach()


def clipped_losses__maximum(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """You take the larger of the two objectives: PPO takes the smaller, the pessimistic one."""
    ratio, a = (logprobs - old_logprobs.detach()).exp(), advantages.detach()
    return -torch.maximum(ratio * a, ratio.clamp(1 - clip_low, 1 + clip_high) * a)


def clipped_losses__sign(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """The minus is missing: an optimiser minimises."""
    return -_clip((logprobs - old_logprobs.detach()).exp(), advantages.detach(), clip_low, clip_high)


def clipped_losses__one_edge(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """clip_high is ignored: the two edges may differ."""
    return _clip((logprobs - old_logprobs.detach()).exp(), advantages.detach(), clip_low, clip_low)


def clipped_losses__detached_ratio(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """The ratio is detached: nothing is left for the policy to learn from."""
    ratio = (logprobs - old_logprobs).exp().detach()
    return _clip(ratio, advantages.detach(), clip_low, clip_high) + 0 * logprobs


def clipped_losses__trains_advantages(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """Gradient flows into the advantages: they are data, detach them."""
    return _clip((logprobs - old_logprobs.detach()).exp(), advantages, clip_low, clip_high)


def clipped_losses__one_per_reply(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """You used the first token's advantage for the whole reply: with shape (B, T) each token has its own."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    return _clip(ratio, advantages.detach()[:, :1], clip_low, clip_high)


def clipped_losses__trains_old(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2):
    """Gradient flows into the old log-probabilities: they are data."""
    return _clip((logprobs - old_logprobs).exp(), advantages.detach(), clip_low, clip_high)


def aggregate__unmasked(losses, mask, how, max_tokens=None):
    """Padding is counted: multiply with the mask before you sum."""
    if how == "sequence":
        return (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return losses.sum() / mask.sum()
    if how == "constant":
        return losses.sum() / (len(losses) * max_tokens)
    raise ValueError(how)


def aggregate__empty_reply(losses, mask, how, max_tokens=None):
    """A reply whose tokens are all masked divides 0 by 0: clamp its length to at least 1."""
    if how == "sequence":
        return ((losses * mask).sum(1) / mask.sum(1)).mean()
    if how == "token":
        return (losses * mask).sum() / mask.sum()
    if how == "constant":
        return (losses * mask).sum() / (len(losses) * max_tokens)
    raise ValueError(how)


def aggregate__swapped(losses, mask, how, max_tokens=None):
    """ "sequence" and "token" are swapped: the sequence mean gives every reply the same weight."""
    if how == "token":
        return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "sequence":
        return (losses * mask).sum() / mask.sum()
    if how == "constant":
        return (losses * mask).sum() / (len(losses) * max_tokens)
    raise ValueError(how)


def aggregate__padded_length(losses, mask, how, max_tokens=None):
    """You divide by the padded length: a reply's mean is over its own tokens."""
    if how == "sequence":
        return (losses * mask).mean(1).mean()
    if how == "token":
        return (losses * mask).mean()
    if how == "constant":
        return (losses * mask).sum() / (len(losses) * max_tokens)
    raise ValueError(how)


def aggregate__constant_by_width(losses, mask, how, max_tokens=None):
    """The constant is B * max_tokens: the width of this batch changes from batch to batch."""
    if how == "sequence":
        return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "token":
        return (losses * mask).sum() / mask.sum()
    if how == "constant":
        return (losses * mask).sum() / losses.numel()
    raise ValueError(how)


def aggregate__silent(losses, mask, how, max_tokens=None):
    """An unknown name falls through to the token mean: raise ValueError, a typo must not pass."""
    if how == "sequence":
        return ((losses * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()
    if how == "constant":
        return (losses * mask).sum() / (len(losses) * max_tokens)
    return (losses * mask).sum() / mask.sum()


def _normalised(step_rewards, is_step, group_size, eps):
    r = (step_rewards * is_step).view(-1, group_size, step_rewards.shape[1])
    s = is_step.view_as(r)
    n = s.sum((1, 2), keepdim=True).clamp(min=1)
    centred = (r - r.sum((1, 2), keepdim=True) / n) * s
    std = (centred.square().sum((1, 2), keepdim=True) / n).sqrt()
    return (centred / (std + eps)).view_as(step_rewards)


def process_advantages__own_step_only(step_rewards, is_step, group_size, eps=1e-4):
    """A token gets only the step that ends at it: it also answers for the steps that come after."""
    return _normalised(step_rewards, is_step, group_size, eps)


def process_advantages__past_steps(step_rewards, is_step, group_size, eps=1e-4):
    """You sum the steps before the token: a token can change only what ends at or after it."""
    return _normalised(step_rewards, is_step, group_size, eps).cumsum(1)


def process_advantages__strictly_later(step_rewards, is_step, group_size, eps=1e-4):
    """You leave out the step that the token itself ends: the sum is over end index >= t."""
    x = _normalised(step_rewards, is_step, group_size, eps)
    return x.flip(1).cumsum(1).flip(1) - x


def process_advantages__per_reply(step_rewards, is_step, group_size, eps=1e-4):
    """Mean and std are over the steps of one reply: they are over all steps of the whole group."""
    return _normalised(step_rewards, is_step, 1, eps).flip(1).cumsum(1).flip(1)


def process_advantages__counts_everything(step_rewards, is_step, group_size, eps=1e-4):
    """Positions where no step ends are counted as rewards: mean and std are over the steps only."""
    ones = torch.ones_like(is_step)
    x = _normalised(step_rewards * is_step, ones, group_size, eps)
    return x.flip(1).cumsum(1).flip(1)


def process_advantages__eps_in_variance(step_rewards, is_step, group_size, eps=1e-4):
    """eps belongs outside the square root: std + eps, not sqrt(var + eps)."""
    r = (step_rewards * is_step).view(-1, group_size, step_rewards.shape[1])
    s = is_step.view_as(r)
    n = s.sum((1, 2), keepdim=True).clamp(min=1)
    centred = (r - r.sum((1, 2), keepdim=True) / n) * s
    std = (centred.square().sum((1, 2), keepdim=True) / n + eps).sqrt()
    return (centred / std).view_as(step_rewards).flip(1).cumsum(1).flip(1)


def process_advantages__unmasked(step_rewards, is_step, group_size, eps=1e-4):
    """Numbers where no step ends leak in: multiply with is_step first."""
    r = step_rewards.view(-1, group_size, step_rewards.shape[1])
    s = is_step.view_as(r)
    n = s.sum((1, 2), keepdim=True).clamp(min=1)
    centred = (r - r.sum((1, 2), keepdim=True) / n) * s
    std = (centred.square().sum((1, 2), keepdim=True) / n).sqrt()
    return (centred / (std + eps)).view_as(step_rewards).flip(1).cumsum(1).flip(1)


def sequence_ratios__product(logprobs, old_logprobs, mask):
    """This is the ratio of the whole replies: GSPO takes the geometric mean, so divide by the length."""
    return ((logprobs - old_logprobs.detach()) * mask).sum(1, keepdim=True).exp()


def sequence_ratios__arithmetic(logprobs, old_logprobs, mask):
    """This is the mean of the token ratios: average the logarithms, then exponentiate."""
    ratio = (logprobs - old_logprobs.detach()).exp() * mask
    return ratio.sum(1, keepdim=True) / mask.sum(1, keepdim=True)


def sequence_ratios__padding(logprobs, old_logprobs, mask):
    """Padding is counted: only the reply's own tokens, in the sum and in the length."""
    return (logprobs - old_logprobs.detach()).mean(1, keepdim=True).exp()


def sequence_ratios__trains_old(logprobs, old_logprobs, mask):
    """Gradient flows into the old log-probabilities: they are data."""
    return (((logprobs - old_logprobs) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).exp()


def sequence_ratios__flat(logprobs, old_logprobs, mask):
    """The numbers are right, but the shape is (B,): keep an axis of 1, or it will not meet (B, T)."""
    return (((logprobs - old_logprobs.detach()) * mask).sum(1) / mask.sum(1)).exp()


def cispo_losses__not_detached(logprobs, old_logprobs, advantages, clip_high=4.0):
    """The weight carries gradient: it is a constant here, only log pi is differentiated."""
    return -(logprobs - old_logprobs).exp().clamp(max=1 + clip_high) * advantages.detach() * logprobs


def cispo_losses__not_clipped(logprobs, old_logprobs, advantages, clip_high=4.0):
    """The weight is not clipped: cap it at 1 + clip_high."""
    return -(logprobs - old_logprobs).exp().detach() * advantages.detach() * logprobs


def cispo_losses__edge(logprobs, old_logprobs, advantages, clip_high=4.0):
    """The cap is 1 + clip_high, as in PPO: clip_high is a distance from 1."""
    weight = (logprobs - old_logprobs).exp().clamp(max=clip_high).detach()
    return -weight * advantages.detach() * logprobs


def cispo_losses__ppo(logprobs, old_logprobs, advantages, clip_high=4.0):
    """This is the clipped ratio of PPO: beyond the edge it has no gradient, which CISPO wants to keep."""
    return -(logprobs - old_logprobs.detach()).exp().clamp(max=1 + clip_high) * advantages.detach()


def cispo_losses__trains_advantages(logprobs, old_logprobs, advantages, clip_high=4.0):
    """Gradient flows into the advantages: they are data, detach them."""
    return -(logprobs - old_logprobs).exp().clamp(max=1 + clip_high).detach() * advantages * logprobs


def cispo_losses__two_edges(logprobs, old_logprobs, advantages, clip_high=4.0):
    """You clip from below too: CISPO only caps large weights."""
    weight = (logprobs - old_logprobs).exp().clamp(0.8, 1 + clip_high).detach()
    return -weight * advantages.detach() * logprobs
