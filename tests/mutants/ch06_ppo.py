"""Wrong versions of chapter 6's exercises; each docstring is the diagnosis that a learner reads."""

import torch

# k_step_advantages ----------------------------------------------------------------------------


def k_step_advantages__no_baseline(rewards, values, k, gamma):
    """You return the k-step return itself: the value of the state, `values[t]`, is not subtracted."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k, T)
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, end)) + gamma ** (end - t) * values[end]
    return out


def k_step_advantages__value_not_discounted(rewards, values, k, gamma):
    """The value k steps ahead is added without its discount gamma**k."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k, T)
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, end)) + values[end] - values[t]
    return out


def k_step_advantages__discounted_by_one_less(rewards, values, k, gamma):
    """The value k steps ahead is discounted by gamma**(k - 1): it lies one step beyond the last reward."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k, T)
        ahead = gamma ** (end - t - 1) * values[end]
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, end)) + ahead - values[t]
    return out


def k_step_advantages__no_bootstrap(rewards, values, k, gamma):
    """What comes after the k rewards is left out: the value of the state k steps ahead stands for it."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, min(t + k, T))) - values[t]
    return out


def k_step_advantages__undiscounted_rewards(rewards, values, k, gamma):
    """The rewards within the k steps are added without discounts; only the value is discounted."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k, T)
        out[t] = rewards[t:end].sum() + gamma ** (end - t) * values[end] - values[t]
    return out


def k_step_advantages__one_reward_too_many(rewards, values, k, gamma):
    """Your slice takes k + 1 rewards: k steps use rewards[t] up to rewards[t + k - 1]."""
    if k < 1:
        raise ValueError
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k + 1, T)
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, end)) + gamma ** (end - t) * values[end]
        out[t] -= values[t]
    return out


def k_step_advantages__accepts_zero(rewards, values, k, gamma):
    """The numbers are right, but k = 0 should raise a ValueError: it would give 0 everywhere."""
    T, out = len(rewards), torch.zeros(len(rewards))
    for t in range(T):
        end = min(t + k, T)
        out[t] = sum(gamma ** (u - t) * rewards[u] for u in range(t, end)) + gamma ** (end - t) * values[end]
        out[t] -= values[t]
    return out


# compute_gae ----------------------------------------------------------------------------------


def _gae(rewards, values, bootstrap, flows, gamma, decay):
    """GAE with the two masks given; the mutants below get one of them wrong."""
    values = values.detach()
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    deltas = rewards + gamma * values[1:] * bootstrap - values[:-1]
    for t in reversed(range(len(rewards))):
        following = deltas[t] + decay * flows[t] * following
        advantages[t] = following
    return advantages


def compute_gae__next_value_leaks(rewards, values, terminated, truncated, gamma, gae_lambda):
    """These are the advantages without the factor (1 - terminated) at the next value: a terminated step
    bootstraps from a state in which nothing more can be earned."""
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, torch.ones_like(rewards), goes_on, gamma, gamma * gae_lambda)


def compute_gae__truncated_as_terminated(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Truncation is treated as termination: the time limit stopped the episode, not the world, so the
    value of the last state still counts."""
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, goes_on, goes_on, gamma, gamma * gae_lambda)


def compute_gae__flows_over_truncation(rewards, values, terminated, truncated, gamma, gae_lambda):
    """An advantage flows back over a truncated step: what follows it belongs to the next episode."""
    return _gae(rewards, values, ~terminated, ~terminated, gamma, gamma * gae_lambda)


def compute_gae__flows_over_ends(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The recursion runs over the ends of episodes: multiply what follows by 0 where an episode ended."""
    return _gae(rewards, values, ~terminated, torch.ones_like(rewards), gamma, gamma * gae_lambda)


def compute_gae__no_gamma_in_the_recursion(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The recursion multiplies by lambda only; it is gamma times lambda."""
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, ~terminated, goes_on, gamma, gae_lambda)


def compute_gae__no_lambda(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The recursion multiplies by gamma only: this is the estimate with lambda = 1, whatever lambda is."""
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, ~terminated, goes_on, gamma, gamma)


def compute_gae__td_errors_only(rewards, values, terminated, truncated, gamma, gae_lambda):
    """These are the TD errors alone, the estimate with lambda = 0: nothing flows back."""
    return _gae(rewards, values, ~terminated, torch.zeros_like(rewards), gamma, gamma * gae_lambda)


def compute_gae__forwards(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The loop runs forwards, so that the past flows into the future. Start at the last step."""
    values = values.detach()
    goes_on = ~(terminated | truncated)
    advantages, before = torch.zeros_like(rewards), torch.zeros_like(rewards[0])
    deltas = rewards + gamma * values[1:] * ~terminated - values[:-1]
    for t in range(len(rewards)):
        before = deltas[t] + gamma * gae_lambda * goes_on[t] * before
        advantages[t] = before
    return advantages


def compute_gae__flag_of_the_next_step(rewards, values, terminated, truncated, gamma, gae_lambda):
    """You look at the flags of step t + 1 where those of step t are meant: `terminated[t]` says whether
    step t itself ended the episode."""
    shifted = torch.cat([terminated[1:], torch.zeros_like(terminated[:1])])
    ended = torch.cat([(terminated | truncated)[1:], torch.zeros_like(terminated[:1])])
    return _gae(rewards, values, ~shifted, ~ended, gamma, gamma * gae_lambda)


def compute_gae__no_last_value(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The last step of the rollout is taken for the end of an episode. Unless it is one, bootstrap from
    `values[T]`, which is there for that."""
    bootstrap = ~terminated
    bootstrap[-1] = False
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, bootstrap, goes_on, gamma, gamma * gae_lambda)


def compute_gae__returns(rewards, values, terminated, truncated, gamma, gae_lambda):
    """These are the targets of the critic, advantage plus value; the advantages alone are wanted."""
    goes_on = ~(terminated | truncated)
    return _gae(rewards, values, ~terminated, goes_on, gamma, gamma * gae_lambda) + values[:-1].detach()


def compute_gae__keeps_the_graph(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The numbers are right, but they carry the gradient of `values`: the policy loss would train the
    critic through them. Use torch.no_grad() or .detach()."""
    goes_on = ~(terminated | truncated)
    following, out = torch.zeros_like(rewards[0]), []
    deltas = rewards + gamma * values[1:] * ~terminated - values[:-1]
    for t in reversed(range(len(rewards))):
        following = deltas[t] + gamma * gae_lambda * goes_on[t] * following
        out.append(following)
    return torch.stack(out[::-1])


def compute_gae__in_place(rewards, values, terminated, truncated, gamma, gae_lambda):
    """The numbers are right, but they are written into `rewards`, which the caller still needs."""
    goes_on = ~(terminated | truncated)
    rewards.copy_(_gae(rewards.clone(), values, ~terminated, goes_on, gamma, gamma * gae_lambda))
    return rewards


# real_transitions -----------------------------------------------------------------------------


def real_transitions__drops_the_last_step(terminated, truncated, done_before):
    """You drop the step that ends an episode. That one is real, and its reward often matters most; the
    step after it is the reset."""
    return ~(terminated | truncated)


def real_transitions__forgets_the_rollout_before(terminated, truncated, done_before):
    """An episode that ended on the last step of the rollout before is forgotten: `done_before` decides
    about the first step."""
    done = terminated | truncated
    return ~torch.cat([torch.zeros_like(done_before)[None], done[:-1]])


def real_transitions__only_terminated(terminated, truncated, done_before):
    """Only terminated episodes count here, but an environment resets after a truncation as well."""
    return ~torch.cat([done_before[None], terminated[:-1]])


def real_transitions__only_truncated(terminated, truncated, done_before):
    """Only truncated episodes count here, but an environment resets after a termination as well."""
    return ~torch.cat([done_before[None], truncated[:-1]])


def real_transitions__inverted(terminated, truncated, done_before):
    """This marks the resets; the mask should be True for the real transitions."""
    done = terminated | truncated
    return torch.cat([done_before[None], done[:-1]])


def real_transitions__wraps_around(terminated, truncated, done_before):
    """`torch.roll` brings the last step's flag round to the first: the first step follows the rollout
    before, so `done_before` decides about it."""
    return ~torch.roll(terminated | truncated, 1, dims=0)


def real_transitions__numbers(terminated, truncated, done_before):
    """The mask is right but holds integers: indexing with it would pick rows 0 and 1. Return a bool
    tensor."""
    done = terminated | truncated
    return 1 - torch.cat([done_before[None], done[:-1]]).long()


# normalise_advantages -------------------------------------------------------------------------


def normalise_advantages__sample_deviation(advantages, eps=1e-8):
    """`.std()` divides by B - 1: other numbers, and nan for a batch of one. Use correction=0."""
    return (advantages - advantages.mean()) / (advantages.std() + eps)


def normalise_advantages__not_centred(advantages, eps=1e-8):
    """The mean is not subtracted: the advantages are scaled only."""
    return advantages / (advantages.std(correction=0) + eps)


def normalise_advantages__not_scaled(advantages, eps=1e-8):
    """The mean is subtracted, but nothing divides by the standard deviation."""
    return advantages - advantages.mean()


def normalise_advantages__variance(advantages, eps=1e-8):
    """You divide by the variance, not by its square root, the standard deviation."""
    return (advantages - advantages.mean()) / (advantages.var(correction=0) + eps)


def normalise_advantages__eps_in_the_root(advantages, eps=1e-8):
    """eps is added to the variance, inside the root; here it is added to the standard deviation."""
    return (advantages - advantages.mean()) / (advantages.var(correction=0) + eps).sqrt()


def normalise_advantages__no_eps(advantages, eps=1e-8):
    """Without eps equal advantages give 0/0, which is nan, and one nan ruins every weight."""
    return (advantages - advantages.mean()) / advantages.std(correction=0)


def normalise_advantages__in_place(advantages, eps=1e-8):
    """The numbers are right, but `-=` or `sub_` changed the caller's advantages: the targets of the
    critic need the raw ones."""
    spread = advantages.std(correction=0) + eps
    return advantages.sub_(advantages.mean()).div_(spread)


# clipped_surrogate ----------------------------------------------------------------------------


def clipped_surrogate__never_clipped(logprobs, old_logprobs, advantages, clip_eps):
    """This is the plain ratio times the advantage: clip_eps has no effect."""
    return (logprobs - old_logprobs.detach()).exp() * advantages.detach()


def clipped_surrogate__no_minimum(logprobs, old_logprobs, advantages, clip_eps):
    """You take the clipped term alone, without the minimum. Where the policy has moved the wrong way, it
    gets no gradient to come back."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    return ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages.detach()


def clipped_surrogate__maximum(logprobs, old_logprobs, advantages, clip_eps):
    """You take the maximum of the two terms. The objective is maximised, so the pessimistic one is the
    minimum (the maximum belongs to the loss, where the sign is turned)."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return torch.max(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def clipped_surrogate__minimum_of_ratios(logprobs, old_logprobs, advantages, clip_eps):
    """You take the minimum of the two ratios and multiply afterwards. For a negative advantage that is
    the wrong one: multiply by the advantage first."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    return torch.min(ratio, ratio.clamp(1 - clip_eps, 1 + clip_eps)) * advantages.detach()


def clipped_surrogate__ratio_upside_down(logprobs, old_logprobs, advantages, clip_eps):
    """The ratio is upside down: it is the new probability over the old one."""
    ratio = (old_logprobs.detach() - logprobs).exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def clipped_surrogate__ratio_of_logs(logprobs, old_logprobs, advantages, clip_eps):
    """You divide the log-probabilities. The ratio of probabilities is exp(logprobs - old_logprobs)."""
    ratio = logprobs / old_logprobs.detach()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def clipped_surrogate__underflow(logprobs, old_logprobs, advantages, clip_eps):
    """Both log-probabilities go through exp before the division: for unlikely actions, and for long
    texts, that is 0/0. Subtract first."""
    ratio = logprobs.exp() / old_logprobs.detach().exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def clipped_surrogate__loss_sign(logprobs, old_logprobs, advantages, clip_eps):
    """This is minus the objective. The surrogate is maximised; the sign turns in ppo_loss."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def clipped_surrogate__clip_in_logs(logprobs, old_logprobs, advantages, clip_eps):
    """You clip the log-ratio to plus or minus clip_eps and then take exp; the ratio itself is to be
    clipped."""
    log_ratio = logprobs - old_logprobs.detach()
    advantages = advantages.detach()
    clipped = log_ratio.clamp(-clip_eps, clip_eps).exp()
    return torch.min(log_ratio.exp() * advantages, clipped * advantages)


def clipped_surrogate__only_above(logprobs, old_logprobs, advantages, clip_eps):
    """The ratio is clipped from above only; a bad action needs the lower edge 1 - clip_eps."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(max=1 + clip_eps) * advantages)


def clipped_surrogate__fixed_range(logprobs, old_logprobs, advantages, clip_eps):
    """The range 0.2 is written into the code: use the argument clip_eps."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def clipped_surrogate__mean(logprobs, old_logprobs, advantages, clip_eps):
    """The mean is taken already; one number for each sample is wanted."""
    ratio = (logprobs - old_logprobs.detach()).exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages).mean()


def clipped_surrogate__ratio_detached(logprobs, old_logprobs, advantages, clip_eps):
    """The ratio is detached: the numbers are right, but no gradient reaches the policy."""
    ratio = (logprobs - old_logprobs).exp().detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages).detach()


def clipped_surrogate__old_policy_trained(logprobs, old_logprobs, advantages, clip_eps):
    """The numbers are right, but gradient flows into old_logprobs: the old policy is data, detach it."""
    ratio = (logprobs - old_logprobs).exp()
    advantages = advantages.detach()
    return torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


# policy_entropy -------------------------------------------------------------------------------


def policy_entropy__sign(logits):
    """The sign is missing: this is the sum of p log p, which is never positive."""
    logprobs = logits.log_softmax(-1)
    return (logprobs.exp() * logprobs).sum(-1)


def policy_entropy__bits(logits):
    """This is the entropy in bits; nats are wanted, the natural logarithm."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1) / torch.log(torch.tensor(2.0))


def policy_entropy__log_of_softmax(logits):
    """softmax first and log afterwards: a probability that is rounded to 0 gives 0 times minus infinity,
    which is nan. Use log_softmax."""
    probs = logits.softmax(-1)
    return -(probs * probs.log()).sum(-1)


def policy_entropy__logits_for_logs(logits):
    """You use the logits as if they were log-probabilities: they are not normalised yet."""
    return -(logits.softmax(-1) * logits).sum(-1)


def policy_entropy__not_weighted(logits):
    """This is minus the mean of the log-probabilities: each must be weighted with its own probability."""
    return -logits.log_softmax(-1).mean(-1)


def policy_entropy__wrong_axis(logits):
    """The softmax runs over the states of the batch; it belongs over the actions, the last axis."""
    logprobs = logits.log_softmax(0)
    return -(logprobs.exp() * logprobs).sum(-1)


def policy_entropy__batch_mean(logits):
    """The mean over the batch is taken already; one number for each state is wanted."""
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1).mean()


def policy_entropy__detached(logits):
    """The numbers are right, but no gradient reaches the logits, so the bonus would have no effect."""
    logprobs = logits.detach().log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


# value_loss -----------------------------------------------------------------------------------


def value_loss__half(values, targets):
    """A factor 1/2 is in the loss; here vf_coef carries it."""
    if values.shape != targets.shape:
        raise ValueError
    return 0.5 * (values - targets.detach()).square().mean()


def value_loss__sum(values, targets):
    """This is the sum over the batch: its size, and so the step size, would depend on the minibatch."""
    if values.shape != targets.shape:
        raise ValueError
    return (values - targets.detach()).square().sum()


def value_loss__absolute(values, targets):
    """This is the mean absolute error, which leads to a median; the critic wants the mean, so square."""
    if values.shape != targets.shape:
        raise ValueError
    return (values - targets.detach()).abs().mean()


def value_loss__broadcasts(values, targets):
    """The numbers are right for equal shapes, but (B, 1) against (B,) becomes a table of B x B errors
    and pulls every value towards the mean of all targets. Refuse other shapes."""
    return (values - targets.detach()).square().mean()


def value_loss__gradient_into_targets(values, targets):
    """The numbers are right, but gradient flows into the targets, which then run towards the values:
    detach them."""
    if values.shape != targets.shape:
        raise ValueError
    return (values - targets).square().mean()


def value_loss__values_detached(values, targets):
    """The values are detached instead of the targets: the critic is never trained."""
    if values.shape != targets.shape:
        raise ValueError
    return (values.detach() - targets).square().mean()


def value_loss__per_sample(values, targets):
    """One loss for each sample is returned; the mean over the batch is wanted."""
    if values.shape != targets.shape:
        raise ValueError
    return (values - targets.detach()).square()


# ppo_loss -------------------------------------------------------------------------------------


def _terms(logits, values, batch, clip_eps):
    """The three terms, right; the mutants below put them together wrongly."""
    actions, old_logprobs, advantages, targets = (x.detach() for x in batch)
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    ratio = (logprobs.gather(-1, actions[:, None])[:, 0] - old_logprobs).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    return surrogate, (values - targets).square(), entropy


def ppo_loss__surrogate_sign(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The surrogate enters with a plus sign: minimising this makes good actions rarer."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return surrogate.mean() + vf_coef * error.mean() - ent_coef * entropy


def ppo_loss__value_sign(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The value loss enters with a minus sign: minimising this drives the critic away from its targets."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return -surrogate.mean() - vf_coef * error.mean() - ent_coef * entropy


def ppo_loss__entropy_sign(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The entropy enters with a plus sign: that is a penalty for exploring. In the loss it is
    subtracted."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return -surrogate.mean() + vf_coef * error.mean() + ent_coef * entropy


def ppo_loss__objective(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """All three signs are those of the objective that is maximised; the loss is minus that."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return surrogate.mean() - vf_coef * error.mean() + ent_coef * entropy


def ppo_loss__coefficients_swapped(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The two coefficients are swapped: vf_coef belongs to the value loss, ent_coef to the entropy."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return -surrogate.mean() + ent_coef * error.mean() - vf_coef * entropy


def ppo_loss__no_entropy(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The entropy bonus is missing: subtract ent_coef times the mean entropy."""
    surrogate, error, _ = _terms(logits, values, batch, clip_eps)
    return -surrogate.mean() + vf_coef * error.mean()


def ppo_loss__not_clipped(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The ratio is not clipped: a batch that is used for several epochs may push the policy as far as it
    likes."""
    surrogate, error, entropy = _terms(logits, values, batch, float("inf"))
    return -surrogate.mean() + vf_coef * error.mean() - ent_coef * entropy


def ppo_loss__summed(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The surrogate is summed over the batch while the other two terms are means: their weights then
    depend on the size of the minibatch."""
    surrogate, error, entropy = _terms(logits, values, batch, clip_eps)
    return -surrogate.sum() + vf_coef * error.mean() - ent_coef * entropy


def ppo_loss__normalises(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The advantages are normalised inside the loss; they are to be used as given (the caller
    normalises)."""
    actions, old_logprobs, advantages, targets = batch
    advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    terms = _terms(logits, values, (actions, old_logprobs, advantages, targets), clip_eps)
    return -terms[0].mean() + vf_coef * terms[1].mean() - ent_coef * terms[2]


def ppo_loss__logits_for_logprobs(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The ratio is made from the logits: take log_softmax before you pick the action's entry."""
    actions, old_logprobs, advantages, targets = (x.detach() for x in batch)
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    ratio = (logits.gather(-1, actions[:, None])[:, 0] - old_logprobs).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    return -surrogate.mean() + vf_coef * (values - targets).square().mean() - ent_coef * entropy


def ppo_loss__greedy_actions(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The log-probability is that of the likeliest action, not that of the action that was taken."""
    _, *rest = batch
    surrogate, error, entropy = _terms(logits, values, (logits.argmax(-1), *rest), clip_eps)
    return -surrogate.mean() + vf_coef * error.mean() - ent_coef * entropy


def ppo_loss__gradient_into_data(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """The numbers are right, but gradient flows into the old log-probabilities, the advantages and the
    targets. They are data: detach them."""
    actions, old_logprobs, advantages, targets = batch
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
    ratio = (logprobs.gather(-1, actions[:, None])[:, 0] - old_logprobs).exp()
    surrogate = torch.min(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)
    return -surrogate.mean() + vf_coef * (values - targets).square().mean() - ent_coef * entropy
