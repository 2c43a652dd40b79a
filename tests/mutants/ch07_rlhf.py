"""Wrong versions of chapter 7's exercises; each docstring is the diagnosis that a learner reads."""

import torch
from torch.nn.functional import logsigmoid


def masked_mean__padding_counted(values, mask):
    """Padding is in the denominator: divide by the number of tokens that count, not by all."""
    return (values * mask).mean()


def masked_mean__no_mask(values, mask):
    """The mask is never used: padding is averaged in as if it were part of the replies."""
    return values.mean()


def masked_mean__mean_of_means(values, mask):
    """This is the mean of each reply's mean: tokens of short replies then weigh more."""
    return ((values * mask).sum(-1) / mask.sum(-1)).mean()


def masked_mean__sum(values, mask):
    """This is the sum, not the mean: the number of tokens would set the size of the step."""
    return (values * mask).sum()


def masked_mean__per_row(values, mask):
    """You give one mean per reply: one number for the whole batch is wanted."""
    return (values * mask).sum(-1) / mask.sum(-1)


def _picked(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def sft_loss__no_shift(logits, input_ids, reply_mask):
    """The shift is missing: the logits at position i predict token i + 1, here they are asked for token i."""
    return -(_picked(logits, input_ids) * reply_mask).sum() / reply_mask.sum()


def sft_loss__mask_not_shifted(logits, input_ids, reply_mask):
    """Logits and tokens are shifted, the mask is not: cut its first column, not its last."""
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), reply_mask[:, :-1]
    return -(logprobs * mask).sum() / mask.sum()


def sft_loss__prompt_counted(logits, input_ids, reply_mask):
    """The prompt is in the loss: mask it, the model is to learn the reply and not to invent questions."""
    end = reply_mask.flip(1).cumsum(1).flip(1).clamp(max=1)  # 1 up to the end of the reply
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), end[:, 1:]
    return -(logprobs * mask).sum() / mask.sum()


def sft_loss__padding_counted(logits, input_ids, reply_mask):
    """Padding is in the loss: what stands after a reply's end does not count."""
    begun = (reply_mask.cumsum(1) > 0).to(logits)
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), begun[:, 1:]
    return -(logprobs * mask).sum() / mask.sum()


def sft_loss__sequence_mean(logits, input_ids, reply_mask):
    """This averages each reply first: the stated loss is the mean over all reply tokens of the batch."""
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), reply_mask[:, 1:]
    return -((logprobs * mask).sum(1) / mask.sum(1)).mean()


def sft_loss__sign(logits, input_ids, reply_mask):
    """The minus is missing: to minimise this would make the demonstrations less likely."""
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), reply_mask[:, 1:]
    return (logprobs * mask).sum() / mask.sum()


def sft_loss__probabilities(logits, input_ids, reply_mask):
    """These are probabilities; the loss is made of their logarithms."""
    logprobs, mask = _picked(logits[:, :-1], input_ids[:, 1:]), reply_mask[:, 1:]
    return -(logprobs.exp() * mask).sum() / mask.sum()


def reward_model_loss__log_of_sigmoid(chosen_scores, rejected_scores):
    """log(sigmoid(z)) is -inf once the sigmoid rounds to 0: use logsigmoid."""
    return -torch.sigmoid(chosen_scores - rejected_scores).log().mean()


def reward_model_loss__swapped(chosen_scores, rejected_scores):
    """Chosen and rejected are swapped: this reward model learns to prefer what the rater did not."""
    return -logsigmoid(rejected_scores - chosen_scores).mean()


def reward_model_loss__rejected_dropped(chosen_scores, rejected_scores):
    """The rejected score is missing: without it the model may give everything a high score."""
    return -logsigmoid(chosen_scores).mean()


def reward_model_loss__sum(chosen_scores, rejected_scores):
    """This is the sum over the pairs: take the mean, so that the batch size does not set the step size."""
    return -logsigmoid(chosen_scores - rejected_scores).sum()


def reward_model_loss__no_log(chosen_scores, rejected_scores):
    """The logarithm is missing: this is minus the probability of the label, not minus its log-likelihood."""
    return -torch.sigmoid(chosen_scores - rejected_scores).mean()


def reward_model_loss__rejected_detached(chosen_scores, rejected_scores):
    """The number is right, but the rejected score gets no gradient: both replies teach the reward model."""
    return -logsigmoid(chosen_scores - rejected_scores.detach()).mean()


def last_token_scores__last_column(values, mask):
    """This is the last column: for a reply that is shorter than the longest one, that is padding."""
    return values[:, -1]


def last_token_scores__off_by_one(values, mask):
    """The index is one too far: a reply of n tokens has its last one at column n - 1."""
    after = mask.sum(1).long().clamp(max=values.shape[1] - 1)
    return values.gather(1, after[:, None])[:, 0]


def last_token_scores__mean(values, mask):
    """This is the mean over the reply: the score is read at the last token, which has seen all the others."""
    return (values * mask).sum(1) / mask.sum(1)


def last_token_scores__sum(values, mask):
    """This is the sum over the reply: a long reply would score high for being long."""
    return (values * mask).sum(1)


def last_token_scores__wide(values, mask):
    """The shape is (B, 1): against (B,) it would broadcast to (B, B) without a word."""
    return values.gather(1, mask.sum(1).long()[:, None] - 1)


def last_token_scores__first_token(values, mask):
    """This is the first token of each reply, which has seen nothing of the rest."""
    return values[:, 0]


def _kl_part(logprobs, ref_logprobs, mask, kl_coef):
    return -kl_coef * (logprobs - ref_logprobs) * mask


def _at_end(scores, mask):
    at = torch.zeros_like(mask)
    at[torch.arange(len(mask)), mask.sum(1).long() - 1] = scores.detach().to(mask)
    return at


def token_rewards__kl_unmasked(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The KL is not masked: padding is charged for a difference that no sampled token made."""
    kl = -kl_coef * (logprobs - ref_logprobs)
    return (kl + _at_end(scores, mask)).detach()


def token_rewards__last_column(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The score stands in the last column: for a shorter reply that is padding."""
    rewards = _kl_part(logprobs, ref_logprobs, mask, kl_coef).detach()
    rewards[:, -1] += scores.detach()
    return rewards


def token_rewards__shifted(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The score is one token late: a reply of n tokens has its last one at column n - 1."""
    rewards = _kl_part(logprobs, ref_logprobs, mask, kl_coef).detach()
    after = mask.sum(1).long().clamp(max=mask.shape[1] - 1)
    rewards[torch.arange(len(mask)), after] += scores.detach()
    return rewards


def token_rewards__score_everywhere(scores, logprobs, ref_logprobs, mask, kl_coef):
    """Every token gets the score: a reply of ten tokens would be paid ten times."""
    return (_kl_part(logprobs, ref_logprobs, mask, kl_coef) + scores[:, None] * mask).detach()


def token_rewards__end_overwritten(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The score replaces the KL of the last token: it has to be added to it."""
    rewards = _kl_part(logprobs, ref_logprobs, mask, kl_coef).detach()
    rewards[torch.arange(len(mask)), mask.sum(1).long() - 1] = scores.detach()
    return rewards


def token_rewards__sign(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The sign of the KL is turned around: this pays the policy for leaving the reference."""
    return (_at_end(scores, mask) - _kl_part(logprobs, ref_logprobs, mask, kl_coef)).detach()


def token_rewards__no_coefficient(scores, logprobs, ref_logprobs, mask, kl_coef):
    """kl_coef is never used: it sets the price of leaving the reference."""
    return (_kl_part(logprobs, ref_logprobs, mask, 1.0) + _at_end(scores, mask)).detach()


def token_rewards__ratio(scores, logprobs, ref_logprobs, mask, kl_coef):
    """This charges the ratio of probabilities; the KL is made of its logarithm."""
    ratio = (logprobs - ref_logprobs).exp() * mask
    return (_at_end(scores, mask) - kl_coef * ratio).detach()


def token_rewards__kl_at_end(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The whole KL stands at the last token: each token pays for its own share."""
    total = _kl_part(logprobs, ref_logprobs, mask, kl_coef).sum(1)
    return _at_end(scores + total, mask)


def token_rewards__attached(scores, logprobs, ref_logprobs, mask, kl_coef):
    """The numbers are right, but they carry a graph: a reward is a number, so detach."""
    last = mask.sum(1, keepdim=True).long() - 1
    return _kl_part(logprobs, ref_logprobs, mask, kl_coef).scatter_add(1, last, scores[:, None])


def _gae(rewards, values, mask, gamma, weight):
    """Backward recursion over columns; values are taken as they are."""
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = (rewards[:, t] + gamma * next_value - values[:, t] + weight * following) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages


def token_gae__value_leaks(rewards, values, mask, gamma, gae_lambda):
    """The value after the end leaks in: a reply's last token has no next value; mask it."""
    values = values.detach()
    advantages = _gae(rewards, values, mask, gamma, gamma * gae_lambda)
    return advantages, (advantages + values) * mask


def token_gae__bootstraps_at_end(rewards, values, mask, gamma, gae_lambda):
    """The last token's own value stands in for a next one: the reply ends there, nothing comes after."""
    values = values.detach() * mask
    after = torch.cat([values[:, 1:], values[:, -1:]], 1)
    after = torch.where((mask > 0) & (torch.cat([mask[:, 1:], 0 * mask[:, :1]], 1) == 0), values, after)
    deltas, following = (rewards + gamma * after - values) * mask, torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        following = deltas[:, t] + gamma * gae_lambda * following
        advantages[:, t] = following
    return advantages, (advantages + values) * mask


def token_gae__lambda_ignored(rewards, values, mask, gamma, gae_lambda):
    """gae_lambda is never used: it weighs the errors further ahead, together with gamma."""
    values = values.detach() * mask
    advantages = _gae(rewards, values, mask, gamma, gamma)
    return advantages, advantages + values


def token_gae__gamma_missing_in_trace(rewards, values, mask, gamma, gae_lambda):
    """The errors ahead are weighed with lambda only: the weight of each step is gamma times lambda."""
    values = values.detach() * mask
    advantages = _gae(rewards, values, mask, gamma, gae_lambda)
    return advantages, advantages + values


def token_gae__padding_unmasked(rewards, values, mask, gamma, gae_lambda):
    """Padding is part of the recursion: its values flow back into the last tokens of short replies."""
    values = values.detach()
    advantages = _gae(rewards, values, torch.ones_like(mask), gamma, gamma * gae_lambda)
    return advantages * mask, (advantages + values) * mask


def token_gae__forward(rewards, values, mask, gamma, gae_lambda):
    """The recursion runs forwards: an advantage collects what comes after a token, not before."""
    values = values.detach() * mask
    after = torch.cat([values[:, 1:], 0 * values[:, :1]], 1)
    deltas, so_far = (rewards + gamma * after - values) * mask, torch.zeros_like(rewards[:, 0])
    advantages = torch.zeros_like(rewards)
    for t in range(rewards.shape[1]):
        so_far = (deltas[:, t] + gamma * gae_lambda * so_far) * mask[:, t]
        advantages[:, t] = so_far
    return advantages, advantages + values


def token_gae__targets_are_rewards(rewards, values, mask, gamma, gae_lambda):
    """Rewards are returned where targets are due: the critic learns what is still to come."""
    advantages = _gae(rewards, values.detach() * mask, mask, gamma, gamma * gae_lambda)
    return advantages, rewards * mask


def token_gae__targets_are_advantages(rewards, values, mask, gamma, gae_lambda):
    """The targets lack the value: target = advantage + value."""
    advantages = _gae(rewards, values.detach() * mask, mask, gamma, gamma * gae_lambda)
    return advantages, advantages


def token_gae__attached(rewards, values, mask, gamma, gae_lambda):
    """The numbers are right, but they carry a graph to the critic: the target must stand still."""
    values = values * mask
    columns, following = [], torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        next_value = values[:, t]
        columns.append(following)
    advantages = torch.stack(columns[::-1], 1)
    return advantages, advantages + values


def masked_whiten__padding_in_statistics(advantages, mask, eps=1e-8):
    """Padding is in the mean and the deviation: take both over the tokens that count."""
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + eps) * mask


def masked_whiten__sample_std(advantages, mask, eps=1e-8):
    """You divide by n - 1 (sample deviation): the population's was asked for; n - 1 fails for one token."""
    own = advantages[mask.bool()]
    centred = (advantages - own.mean()) * mask
    return centred / ((centred.square().sum() / (mask.sum() - 1)).sqrt() + eps)


def masked_whiten__variance(advantages, mask, eps=1e-8):
    """You divide by the variance: the root is missing."""
    own = advantages[mask.bool()]
    return (advantages - own.mean()) / (own.var(correction=0) + eps) * mask


def masked_whiten__per_reply(advantages, mask, eps=1e-8):
    """Each reply is whitened by itself: that removes the difference between good and bad replies."""
    n = mask.sum(1, keepdim=True)
    centred = (advantages - (advantages * mask).sum(1, keepdim=True) / n) * mask
    return centred / ((centred.square().sum(1, keepdim=True) / n).sqrt() + eps)


def masked_whiten__not_centred(advantages, mask, eps=1e-8):
    """The mean is not subtracted: shift to mean 0 first, then scale."""
    return advantages * mask / (advantages[mask.bool()].std(correction=0) + eps)


def masked_whiten__padding_kept(advantages, mask, eps=1e-8):
    """Padding keeps a number: multiply the result with the mask."""
    own = advantages[mask.bool()]
    return (advantages - own.mean()) / (own.std(correction=0) + eps)


def masked_whiten__no_eps(advantages, mask, eps=1e-8):
    """eps is missing: where all advantages are equal this is 0 / 0, which is nan."""
    own = advantages[mask.bool()]
    return (advantages - own.mean()) / own.std(correction=0) * mask
