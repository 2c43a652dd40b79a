"""Graders of chapter 6: advantages, the clipped surrogate and the loss of PPO."""

import math

import torch

from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "k_step_advantages": {
        "title": "Looking k steps ahead",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-k-step",
    },
    "compute_gae": {
        "title": "Generalised advantage estimation",
        "difficulty": 3,
        "minutes": 25,
        "points": 20,
        "equation": "eq-gae",
    },
    "real_transitions": {
        "title": "The step that only resets",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": None,
    },
    "normalise_advantages": {
        "title": "Normalised advantages",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-normalise",
    },
    "clipped_surrogate": {
        "title": "The clipped surrogate",
        "difficulty": 3,
        "minutes": 20,
        "points": 20,
        "equation": "eq-clip",
    },
    "policy_entropy": {
        "title": "The entropy of a policy",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-policy-entropy",
    },
    "value_loss": {
        "title": "The critic's loss",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-value-loss",
    },
    "ppo_loss": {
        "title": "Three terms, three signs",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-ppo-loss",
    },
}


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)


def flags(*numbers):
    return torch.tensor(numbers, dtype=torch.bool)


# k_step_advantages ----------------------------------------------------------------------------


def test_k_step_advantages_one_step(k_step_advantages):
    """With k = 1 the estimate is the reward, plus gamma times the next value, minus the value."""
    rewards, values = tensor(1.0, 2.0, 4.0), tensor(0.5, 1.0, 2.0, 8.0)
    got = k_step_advantages(rewards, values, 1, 0.5)
    expect_close(got, [1.0, 2.0, 6.0], "rewards 1, 2, 4, values 0.5, 1, 2, 8, k 1, gamma 0.5")


def test_k_step_advantages_two_steps(k_step_advantages):
    """With k = 2 two discounted rewards come first, then gamma**2 times the value two steps ahead."""
    rewards, values = tensor(1.0, 2.0, 4.0, 8.0), tensor(0.5, 1.0, 2.0, 8.0, 16.0)
    got = k_step_advantages(rewards, values, 2, 0.5)
    # 1 + 2/2 + 2/4 - 0.5;  2 + 4/2 + 8/4 - 1;  4 + 8/2 + 16/4 - 2;  one reward left: 8 + 16/2 - 8
    expect_close(got, [2.0, 5.0, 10.0, 8.0], "rewards 1, 2, 4, 8, k 2, gamma 0.5")


def test_k_step_advantages_beyond_the_end(k_step_advantages):
    """A k beyond the end uses all rewards that are left, then the value of the last state."""
    rewards, values = tensor(1.0, 2.0), tensor(0.5, 1.0, 4.0)
    got = k_step_advantages(rewards, values, 50, 0.5)
    expect_close(got, [2.5, 3.0], "rewards 1, 2, values 0.5, 1, 4, k 50, gamma 0.5")


def test_k_step_advantages_rejects_zero(k_step_advantages):
    """k = 0 uses no reward at all and is refused."""
    expect_raises(ValueError, lambda: k_step_advantages(tensor(1.0), tensor(0.0, 0.0), 0, 0.9), "k = 0")


def test_k_step_advantages_keeps_its_inputs(k_step_advantages):
    """Rewards and values are not changed."""
    rewards, values = tensor(1.0, 2.0), tensor(0.5, 1.0, 4.0)
    k_step_advantages(rewards, values, 2, 0.5)
    expect_unchanged([1.0, 2.0], rewards, "rewards")
    expect_unchanged([0.5, 1.0, 4.0], values, "values")


# compute_gae ----------------------------------------------------------------------------------


def gae_by_sums(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Advantages of one environment straight from the definition: discounted sums of TD errors."""
    T, out = len(rewards), []
    for t in range(T):
        total, weight = 0.0, 1.0
        for u in range(t, T):
            next_value = 0.0 if terminated[u] else float(values[u + 1])
            total += weight * (float(rewards[u]) + gamma * next_value - float(values[u]))
            if terminated[u] or truncated[u]:
                break
            weight *= gamma * gae_lambda
        out.append(total)
    return out


def test_compute_gae_on_paper(compute_gae):
    """An advantage is its TD error plus gamma times lambda times the advantage that follows."""
    rewards, values = tensor(1.0, 2.0, 4.0), tensor(0.5, 1.0, 2.0, 8.0)
    never = flags(0, 0, 0)
    got = compute_gae(rewards, values, never, never, 0.5, 0.5)
    # TD errors 1, 2, 6; then 6, 2 + 6/4, 1 + 3.5/4
    expect_close(got, [1.875, 3.5, 6.0], "TD errors 1, 2, 6 with gamma 0.5, lambda 0.5")


def test_compute_gae_stops_at_termination(compute_gae):
    """After a terminated step nothing comes: no value is bootstrapped, no advantage flows back."""
    rewards, values = tensor(1.0, 1.0), tensor(0.5, 0.25, 9.0)
    got = compute_gae(rewards, values, flags(1, 0), flags(0, 0), 1.0, 1.0)
    expect_close(got, [0.5, 9.75], "step 0 terminated; rewards 1, 1, values 0.5, 0.25, 9, gamma 1, lambda 1")


def test_compute_gae_bootstraps_a_truncation(compute_gae):
    """A truncated step bootstraps the value of its last state, but no advantage flows back over it."""
    rewards, values = tensor(1.0, 1.0), tensor(0.5, 0.25, 9.0)
    got = compute_gae(rewards, values, flags(0, 0), flags(1, 0), 1.0, 1.0)
    expect_close(got, [0.75, 9.75], "step 0 truncated; rewards 1, 1, values 0.5, 0.25, 9, gamma 1, lambda 1")


def test_compute_gae_both_ends_at_once(compute_gae):
    """A step that is terminated and truncated at once counts as terminated."""
    got = compute_gae(tensor(1.0, 1.0), tensor(0.5, 2.0, 9.0), flags(0, 1), flags(0, 1), 0.5, 1.0)
    expect_close(got, [1.0, -1.0], "the last step terminated and truncated; gamma 0.5, lambda 1")


def test_compute_gae_lambda_zero(compute_gae):
    """With lambda = 0 the advantages are the TD errors."""
    rewards, values = tensor(1.0, 2.0, 4.0), tensor(0.5, 1.0, 2.0, 8.0)
    got = compute_gae(rewards, values, flags(0, 0, 0), flags(0, 0, 0), 0.5, 0.0)
    expect_close(got, [1.0, 2.0, 6.0], "TD errors 1, 2, 6, lambda 0")


def test_compute_gae_many_environments(compute_gae):
    """Every environment's column equals the sums of the definition, whatever its neighbours do."""
    g = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(7, 3, generator=g), torch.randn(8, 3, generator=g)
    terminated, truncated = torch.rand(7, 3, generator=g) < 0.25, torch.rand(7, 3, generator=g) < 0.25
    got = expect_shape(compute_gae(rewards, values, terminated, truncated, 0.9, 0.8), (7, 3), "T = 7, N = 3")
    for n in range(3):
        want = gae_by_sums(rewards[:, n], values[:, n], terminated[:, n], truncated[:, n], 0.9, 0.8)
        expect_close(got[:, n], want, f"environment {n} of 3", rtol=1e-4, atol=1e-5)


def test_compute_gae_has_no_gradient(compute_gae):
    """The advantages are data: no gradient flows through them into the critic."""
    values = tensor(0.5, 1.0).requires_grad_()
    got = compute_gae(tensor(1.0), values, flags(0), flags(0), 0.5, 0.5)
    expect_true(not got.requires_grad, "the advantages require grad: the policy loss would train the critic")


def test_compute_gae_keeps_its_inputs(compute_gae):
    """Rewards, values and flags are not changed."""
    rewards, values = tensor(1.0, 2.0), tensor(0.5, 1.0, 4.0)
    terminated, truncated = flags(1, 0), flags(0, 1)
    compute_gae(rewards, values, terminated, truncated, 0.5, 0.5)
    expect_unchanged([1.0, 2.0], rewards, "rewards")
    expect_unchanged([0.5, 1.0, 4.0], values, "values")
    expect_unchanged([True, False], terminated, "terminated")
    expect_unchanged([False, True], truncated, "truncated")


# real_transitions -----------------------------------------------------------------------------


def columns(*rows):
    return torch.tensor(rows, dtype=torch.bool).T  # (T, N), one row of the text per environment


def test_real_transitions_within(real_transitions):
    """The step after an end, of either kind, is a reset; the step that ends the episode is real."""
    terminated = columns([0, 1, 0, 0], [0, 0, 0, 0])
    truncated = columns([0, 0, 0, 0], [1, 0, 0, 1])
    got = real_transitions(terminated, truncated, flags(0, 0))
    want = columns([1, 1, 0, 1], [1, 0, 1, 1])
    expect_equal(got, want, "env 0 terminated at step 1, env 1 truncated at steps 0 and 3")


def test_real_transitions_from_the_rollout_before(real_transitions):
    """If the step before the rollout ended an episode, the rollout's first step is a reset."""
    nothing = columns([0, 0, 0], [0, 0, 0])
    got = real_transitions(nothing, nothing, flags(1, 0))
    expect_equal(got, columns([0, 1, 1], [1, 1, 1]), "env 0 ended just before this rollout, 3 steps")


def test_real_transitions_is_boolean(real_transitions):
    """The mask is a bool tensor: an integer mask would pick rows 0 and 1 again and again."""
    got = real_transitions(columns([0, 1]), columns([0, 0]), flags(0))
    expect_true(getattr(got, "dtype", None) == torch.bool, "a bool tensor was expected as the mask")


def test_real_transitions_keeps_its_inputs(real_transitions):
    """The flags are not changed."""
    terminated, truncated, before = columns([0, 1]), columns([1, 0]), flags(1)
    real_transitions(terminated, truncated, before)
    expect_unchanged(columns([0, 1]), terminated, "terminated")
    expect_unchanged(columns([1, 0]), truncated, "truncated")
    expect_unchanged(flags(1), before, "done_before")


# normalise_advantages -------------------------------------------------------------------------


def test_normalise_advantages_on_paper(normalise_advantages):
    """The result has mean 0 and population deviation 1."""
    got = normalise_advantages(tensor(1.0, 3.0, 5.0, 7.0))
    root = math.sqrt(5.0)  # deviations -3, -1, 1, 3; mean square 5
    want = [-3 / root, -1 / root, 1 / root, 3 / root]
    expect_close(got, want, "advantages 1, 3, 5, 7", rtol=1e-5)


def test_normalise_advantages_batch_of_one(normalise_advantages):
    """A batch of one has nothing to compare with: 0, not nan."""
    expect_close(normalise_advantages(tensor(4.0)), [0.0], "the batch [4]")


def test_normalise_advantages_equal(normalise_advantages):
    """Equal advantages become 0, not nan."""
    expect_close(normalise_advantages(tensor(2.0, 2.0, 2.0)), [0.0, 0.0, 0.0], "the batch [2, 2, 2]")


def test_normalise_advantages_eps(normalise_advantages):
    """eps is added to the standard deviation, not to the variance."""
    got = normalise_advantages(tensor(-1.0, 1.0), eps=1.0)
    expect_close(got, [-0.5, 0.5], "the batch [-1, 1] with eps = 1")


def test_normalise_advantages_keeps_its_input(normalise_advantages):
    """The advantages that come in are not changed."""
    advantages = tensor(1.0, 3.0)
    normalise_advantages(advantages)
    expect_unchanged([1.0, 3.0], advantages, "advantages")


# clipped_surrogate ----------------------------------------------------------------------------

RATIOS = (0.5, 1.0, 1.5)  # below, inside and above the clip range 0.8 to 1.2


def surrogate_case(function, advantage, clip_eps=0.2):
    """Values and gradients with respect to the log-probability at the three ratios."""
    logprobs = torch.tensor([math.log(r) - 1.0 for r in RATIOS], requires_grad=True)
    out = function(logprobs, torch.full((3,), -1.0), torch.full((3,), advantage), clip_eps)
    expect_shape(out, (3,), "the surrogate of a batch of 3")
    expect_true(out.requires_grad, "no gradient reaches the log-probabilities")
    (gradient,) = torch.autograd.grad(out.sum(), logprobs)
    return out, gradient


def test_clipped_surrogate_good_action(clipped_surrogate):
    """A > 0: min(ratio * A, clipped ratio * A), so only a ratio above 1 + clip_eps is cut."""
    out, _ = surrogate_case(clipped_surrogate, 2.0)
    expect_close(out, [1.0, 2.0, 2.4], "advantage 2, ratios 0.5, 1, 1.5, clip_eps 0.2", rtol=1e-5)


def test_clipped_surrogate_bad_action(clipped_surrogate):
    """A < 0: min(ratio * A, clipped ratio * A), so only a ratio below 1 - clip_eps is cut."""
    out, _ = surrogate_case(clipped_surrogate, -2.0)
    expect_close(out, [-1.6, -2.0, -3.0], "advantage -2, ratios 0.5, 1, 1.5, clip_eps 0.2", rtol=1e-5)


def test_clipped_surrogate_gradients(clipped_surrogate):
    """The gradient is ratio * A, and 0 only where the policy has already moved past the edge."""
    _, good = surrogate_case(clipped_surrogate, 2.0)
    expect_close(good, [1.0, 2.0, 0.0], "d/d logprob, advantage 2, ratios 0.5, 1, 1.5", rtol=1e-5)
    _, bad = surrogate_case(clipped_surrogate, -2.0)
    expect_close(bad, [0.0, -2.0, -3.0], "d/d logprob, advantage -2, ratios 0.5, 1, 1.5", rtol=1e-5)


def test_clipped_surrogate_other_range(clipped_surrogate):
    """clip_eps is the range that was asked for."""
    out, _ = surrogate_case(clipped_surrogate, 2.0, clip_eps=0.4)
    expect_close(out, [1.0, 2.0, 2.8], "advantage 2, ratios 0.5, 1, 1.5, clip_eps 0.4", rtol=1e-5)


def test_clipped_surrogate_stops_gradients(clipped_surrogate):
    """Neither the old policy nor the advantages are trained by this objective."""
    logprobs = tensor(-1.0, -1.1).requires_grad_()
    old, advantages = tensor(-1.0, -1.0).requires_grad_(), tensor(1.0, -1.0).requires_grad_()
    clipped_surrogate(logprobs, old, advantages, 0.2).sum().backward()
    expect_true(old.grad is None, "old_logprobs received a gradient")
    expect_true(advantages.grad is None, "advantages received a gradient")


def test_clipped_surrogate_tiny_probabilities(clipped_surrogate):
    """Ratios of tiny probabilities are exact: subtract log-probabilities, then take exp."""
    out = clipped_surrogate(tensor(-200.0), tensor(-200.1), tensor(1.0), 0.2)
    expect_close(out, [math.exp(0.1)], "log-probabilities -200 and -200.1, advantage 1", rtol=1e-4)


# policy_entropy -------------------------------------------------------------------------------


def test_policy_entropy_uniform(policy_entropy):
    """Equal logits of any size have entropy log A in nats."""
    got = policy_entropy(torch.tensor([[0.0, 0.0], [7.0, 7.0]]))
    expect_close(got, [math.log(2), math.log(2)], "two equal logits, twice", rtol=1e-5)


def test_policy_entropy_on_paper(policy_entropy):
    """The entropy is minus the sum of p log p over the actions of one state."""
    got = policy_entropy(torch.tensor([[math.log(3.0), 0.0]]))  # probabilities 3/4 and 1/4
    want = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expect_close(got, [want], "probabilities 3/4 and 1/4", rtol=1e-5)


def test_policy_entropy_extreme(policy_entropy):
    """A certain action has entropy 0, not nan."""
    got = policy_entropy(torch.tensor([[1000.0, 0.0, -1000.0]]))
    expect_close(got, [0.0], "logits 1000, 0, -1000", atol=1e-6)


def test_policy_entropy_gradient(policy_entropy):
    """The gradient of the entropy makes the likelier action less likely."""
    logits = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    out = policy_entropy(logits)
    expect_true(out.requires_grad, "no gradient reaches the logits")
    (got,) = torch.autograd.grad(out.sum(), logits)
    step = -0.75 * 0.25 * math.log(3.0)  # -p (log p + H) for two actions
    expect_close(got, [[step, -step]], "d/d logits, probabilities 3/4 and 1/4", rtol=1e-4)


# value_loss -----------------------------------------------------------------------------------


def test_value_loss_on_paper(value_loss):
    """The loss is the mean of the squared errors, without a factor 1/2."""
    got = value_loss(tensor(1.0, 2.0, 3.0, 4.0), tensor(1.0, 4.0, 3.0, 0.0))
    expect_close(got, 5.0, "errors 0, 2, 0, 4")


def test_value_loss_gradient(value_loss):
    """Gradient flows into the values and not into the targets."""
    values, targets = tensor(1.0, 2.0).requires_grad_(), tensor(3.0, 2.0).requires_grad_()
    loss = value_loss(values, targets)
    expect_true(loss.requires_grad, "no gradient reaches the values")
    loss.backward()
    expect_close(values.grad, [-2.0, 0.0], "d/d values, values 1, 2, targets 3, 2")
    expect_true(targets.grad is None, "targets received a gradient")


def test_value_loss_refuses_other_shapes(value_loss):
    """(B, 1) against (B,) would broadcast to a table of B x B errors, and is refused."""
    values, targets = torch.zeros(3, 1), torch.zeros(3)
    expect_raises(ValueError, lambda: value_loss(values, targets), "values (3, 1), targets (3,)")


# ppo_loss -------------------------------------------------------------------------------------


def loss_case(**change):
    """Two states; action 0 was taken in the first, 1 in the second; both ratios are 1."""
    case = {
        "logits": torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]], requires_grad=True),
        "values": tensor(1.0, 2.0).requires_grad_(),
        "actions": torch.tensor([0, 1]),
        "old_logprobs": torch.log(tensor(0.75, 0.5)),
        "advantages": tensor(3.0, 1.0),
        "targets": tensor(2.0, 5.0),
        "clip_eps": 0.2,
        "vf_coef": 0.0,
        "ent_coef": 0.0,
    }
    return {**case, **change}


def run_loss(function, case):
    batch = tuple(case[k] for k in ("actions", "old_logprobs", "advantages", "targets"))
    weights = (case[k] for k in ("clip_eps", "vf_coef", "ent_coef"))
    return function(case["logits"], case["values"], batch, *weights)


def test_ppo_loss_policy_term(ppo_loss):
    """The loss falls when the surrogate rises: minus its mean over the batch."""
    expect_close(
        run_loss(ppo_loss, loss_case()), -2.0, "ratios 1, advantages 3, 1, no other terms", rtol=1e-5
    )


def test_ppo_loss_takes_the_action(ppo_loss):
    """The ratio belongs to the action that was taken, likely or not."""
    case = loss_case(actions=torch.tensor([1, 1]), old_logprobs=torch.log(tensor(0.25, 0.5)))
    expect_close(run_loss(ppo_loss, case), -2.0, "the unlikely action taken, ratios 1", rtol=1e-5)


def test_ppo_loss_clips(ppo_loss):
    """The policy term is the clipped surrogate of the actions that were taken."""
    case = loss_case(old_logprobs=torch.log(tensor(0.5, 0.5)), advantages=tensor(2.0, 1.0))
    expect_close(run_loss(ppo_loss, case), -1.7, "ratios 1.5, 1, advantages 2, 1, clip_eps 0.2", rtol=1e-5)


def test_ppo_loss_value_term(ppo_loss):
    """The value loss is added with weight vf_coef."""
    case = loss_case(advantages=tensor(0.0, 0.0), vf_coef=0.5)
    expect_close(run_loss(ppo_loss, case), 2.5, "errors 1, 3, vf_coef 0.5, advantages 0", rtol=1e-5)


def test_ppo_loss_entropy_term(ppo_loss):
    """The entropy is subtracted with weight ent_coef: a less peaked policy has a lower loss."""
    case = loss_case(advantages=tensor(0.0, 0.0), ent_coef=0.5)
    entropies = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), math.log(2)
    want = -0.5 * sum(entropies) / 2
    expect_close(run_loss(ppo_loss, case), want, "ent_coef 0.5, advantages 0", rtol=1e-5)


def test_ppo_loss_uses_the_advantages_as_they_are(ppo_loss):
    """The advantages are used as they are given, in a batch of one too."""
    case = loss_case(
        logits=torch.zeros(1, 2),
        values=tensor(0.0),
        actions=torch.tensor([1]),
        old_logprobs=torch.log(tensor(0.5)),
        advantages=tensor(4.0),
        targets=tensor(0.0),
    )
    expect_close(run_loss(ppo_loss, case), -4.0, "a batch of one, ratio 1, advantage 4", rtol=1e-5)


def test_ppo_loss_gradients(ppo_loss):
    """Gradient reaches the logits and the values, and neither old log-probabilities nor targets."""
    case = loss_case(vf_coef=0.5, ent_coef=0.1)
    held = {k: case[k].requires_grad_() for k in ("old_logprobs", "advantages", "targets")}
    run_loss(ppo_loss, case).backward()
    expect_close(case["values"].grad, [-0.5, -1.5], "d/d values, values 1, 2, targets 2, 5, vf_coef 0.5")
    expect_true(case["logits"].grad is not None, "no gradient reaches the logits")
    for name, leaf in held.items():
        expect_true(leaf.grad is None, f"{name} received a gradient")
