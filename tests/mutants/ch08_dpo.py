"""Wrong versions of chapter 8's exercises; each docstring is the diagnosis that a learner reads."""

import torch
from torch.nn.functional import logsigmoid


def sequence_logprobs__mean(logprobs, mask):
    """This is the mean per token: log pi(y | x) is the sum (the mean is what SimPO uses)."""
    return (logprobs * mask).sum(-1) / mask.sum(-1)


def sequence_logprobs__unmasked(logprobs, mask):
    """Padding is counted: multiply with the mask before you sum."""
    return logprobs.sum(-1)


def sequence_logprobs__over_batch(logprobs, mask):
    """You summed over the batch: one number per reply is wanted, so sum over the last axis."""
    return (logprobs * mask).sum(0)


def sequence_logprobs__detached(logprobs, mask):
    """The numbers are right, but the graph is cut: the policy would receive no gradient."""
    return (logprobs * mask).sum(-1).detach() + 0 * logprobs.sum(-1)


def sequence_logprobs__probabilities(logprobs, mask):
    """This is the probability of the reply, not its logarithm: it underflows for long replies."""
    return (logprobs * mask).sum(-1).exp()


def optimal_policy__times_beta(ref_logprobs, rewards, beta):
    """The reward is divided by beta, not multiplied: a small beta lets the reward speak louder."""
    u = ref_logprobs + rewards * beta
    return u - u.logsumexp(-1)[:, None], u.logsumexp(-1)


def optimal_policy__no_reference(ref_logprobs, rewards, beta):
    """The reference is missing: the optimum reweights pi_ref, it is not a softmax of the rewards alone."""
    u = rewards / beta
    return u - u.logsumexp(-1)[:, None], u.logsumexp(-1)


def optimal_policy__unnormalised(ref_logprobs, rewards, beta):
    """The probabilities do not sum to 1: subtract log Z."""
    u = ref_logprobs + rewards / beta
    return u, u.logsumexp(-1)


def optimal_policy__one_z(ref_logprobs, rewards, beta):
    """You used one partition function for all prompts: Z(x) belongs to its prompt, sum over replies only."""
    u = ref_logprobs + rewards / beta
    log_z = u.flatten().logsumexp(0)
    return u - log_z, log_z.expand(len(u))


def optimal_policy__overflows(ref_logprobs, rewards, beta):
    """exp(r / beta) overflows for a small beta: stay with logarithms and use logsumexp."""
    weights = ref_logprobs.exp() * torch.exp(rewards / beta)
    z = weights.sum(-1)
    return (weights / z[:, None]).log(), z.log()


def implicit_rewards__no_beta(logprobs, ref_logprobs, beta):
    """beta is never used: it sets the scale of the reward."""
    return logprobs - ref_logprobs.detach()


def implicit_rewards__no_reference(logprobs, ref_logprobs, beta):
    """The reference is missing: a reply is rewarded for being likelier than under the reference."""
    return beta * logprobs


def implicit_rewards__ratio(logprobs, ref_logprobs, beta):
    """This is the probability ratio, not its logarithm."""
    return beta * (logprobs - ref_logprobs.detach()).exp()


def implicit_rewards__trains_reference(logprobs, ref_logprobs, beta):
    """Gradient flows into the reference: it is frozen, so detach it."""
    return beta * (logprobs - ref_logprobs)


def implicit_rewards__sign(logprobs, ref_logprobs, beta):
    """The sign is turned around: it is log pi minus log pi_ref."""
    return beta * (ref_logprobs.detach() - logprobs)


def _margin(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach())


def _smoothed(margin, eps):
    return (-(1 - eps) * logsigmoid(margin) - eps * logsigmoid(-margin)).mean()


def dpo_loss__no_beta(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """beta is ignored: it scales the margin before the sigmoid."""
    return _smoothed(_margin(chosen, rejected, ref_chosen, ref_rejected), label_smoothing)


def dpo_loss__no_reference(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """The reference is missing: what counts is the ratio to the reference, chosen against rejected."""
    return _smoothed(beta * (chosen - rejected), label_smoothing)


def dpo_loss__swapped(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """Chosen and rejected are swapped: the policy would learn to prefer what was rejected."""
    return _smoothed(-beta * _margin(chosen, rejected, ref_chosen, ref_rejected), label_smoothing)


def dpo_loss__rejected_dropped(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """The rejected reply is missing from the margin: without it this only imitates the chosen replies."""
    return _smoothed(beta * (chosen - ref_chosen.detach()), label_smoothing)


def dpo_loss__symmetric(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """You added -log(1 - sigmoid(z)): the sum is smallest at z = 0, where nothing is preferred."""
    z = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    return -(logsigmoid(z) + logsigmoid(-z)).mean()


def dpo_loss__smoothing_ignored(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """label_smoothing is never used: the flipped label needs its share."""
    return _smoothed(beta * _margin(chosen, rejected, ref_chosen, ref_rejected), 0.0)


def dpo_loss__log_of_sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """log(sigmoid(z)) is -inf once the sigmoid rounds to 0: use logsigmoid."""
    z = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    losses = -(1 - label_smoothing) * torch.sigmoid(z).log()
    return (losses - (label_smoothing * torch.sigmoid(-z).log() if label_smoothing else 0.0)).mean()


def dpo_loss__log_of_one_minus_sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """log(1 - sigmoid(z)) is -inf once the sigmoid rounds to 1: it is logsigmoid(-z)."""
    z = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    wrong = torch.log(1 - torch.sigmoid(z)) if label_smoothing else torch.zeros_like(z)
    return -((1 - label_smoothing) * logsigmoid(z) + label_smoothing * wrong).mean()


def dpo_loss__sum(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """This is the sum over the pairs: take the mean, so that the batch size does not set the step size."""
    z = beta * _margin(chosen, rejected, ref_chosen, ref_rejected)
    return _smoothed(z, label_smoothing) * len(chosen)


def dpo_loss__trains_reference(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """Gradient flows into the reference: it is frozen, so detach its log-probabilities."""
    return _smoothed(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)), label_smoothing)


def dpo_gradient_weight__no_beta(chosen, rejected, ref_chosen, ref_rejected, beta):
    """The factor beta in front is missing: the derivative of beta z by z brings it."""
    return torch.sigmoid(-beta * _margin(chosen, rejected, ref_chosen, ref_rejected))


def dpo_gradient_weight__sign(chosen, rejected, ref_chosen, ref_rejected, beta):
    """The sign in the sigmoid is turned around: the pairs that are ranked wrongly pull hardest."""
    return beta * torch.sigmoid(beta * _margin(chosen, rejected, ref_chosen, ref_rejected))


def dpo_gradient_weight__slope(chosen, rejected, ref_chosen, ref_rejected, beta):
    """This is the slope of the sigmoid; the slope of log sigmoid(z) is sigmoid(-z)."""
    p = torch.sigmoid(beta * _margin(chosen, rejected, ref_chosen, ref_rejected))
    return beta * p * (1 - p)


def dpo_gradient_weight__overflows(chosen, rejected, ref_chosen, ref_rejected, beta):
    """exp(-z) is infinite for a hopeless pair, and infinity over infinity is NaN: use torch.sigmoid(-z)."""
    e = torch.exp(-beta * _margin(chosen, rejected, ref_chosen, ref_rejected))
    return beta * e / (1 + e)


def dpo_gradient_weight__mean(chosen, rejected, ref_chosen, ref_rejected, beta):
    """You averaged over the pairs: one weight per pair is wanted."""
    return (beta * torch.sigmoid(-beta * _margin(chosen, rejected, ref_chosen, ref_rejected))).mean()


def ipo_loss__target(chosen, rejected, ref_chosen, ref_rejected, tau):
    """The target of the margin is 1 / (2 tau), not 1 / tau."""
    return (_margin(chosen, rejected, ref_chosen, ref_rejected) - 1 / tau).square().mean()


def ipo_loss__scaled_margin(chosen, rejected, ref_chosen, ref_rejected, tau):
    """The margin is not multiplied with tau: tau only sets the target."""
    return (tau * _margin(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * tau)).square().mean()


def ipo_loss__one_sided(chosen, rejected, ref_chosen, ref_rejected, tau):
    """A margin beyond the target costs nothing here: IPO pulls it back, that is its point."""
    gap = 1 / (2 * tau) - _margin(chosen, rejected, ref_chosen, ref_rejected)
    return gap.clamp(min=0).square().mean()


def ipo_loss__trains_reference(chosen, rejected, ref_chosen, ref_rejected, tau):
    """Gradient flows into the reference: detach its log-probabilities."""
    return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1 / (2 * tau)).square().mean()


def ipo_loss__sum(chosen, rejected, ref_chosen, ref_rejected, tau):
    """This is the sum over the pairs: take the mean."""
    return (_margin(chosen, rejected, ref_chosen, ref_rejected) - 1 / (2 * tau)).square().sum()


def simpo_loss__sums(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """You compare whole replies: divide each log-probability by its number of tokens."""
    return -logsigmoid(beta * (chosen - rejected) - target_margin).mean()


def simpo_loss__one_length(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """Both replies are divided by the chosen one's length: each has its own."""
    margin = beta * (chosen / chosen_lengths - rejected / chosen_lengths)
    return -logsigmoid(margin - target_margin).mean()


def simpo_loss__margin_added(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """The target margin is subtracted: the difference has to exceed it."""
    margin = beta * (chosen / chosen_lengths - rejected / rejected_lengths)
    return -logsigmoid(margin + target_margin).mean()


def simpo_loss__margin_scaled(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """beta multiplies the difference of the means only, not the target margin."""
    margin = chosen / chosen_lengths - rejected / rejected_lengths - target_margin
    return -logsigmoid(beta * margin).mean()


def simpo_loss__log_of_sigmoid(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """log(sigmoid(z)) loses a hopeless pair, with a small number added too: use logsigmoid."""
    margin = beta * (chosen / chosen_lengths - rejected / rejected_lengths)
    return -(torch.sigmoid(margin - target_margin) + 1e-12).log().mean()


def simpo_loss__sum(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """This is the sum over the pairs: take the mean."""
    margin = beta * (chosen / chosen_lengths - rejected / rejected_lengths)
    return -logsigmoid(margin - target_margin).sum()
