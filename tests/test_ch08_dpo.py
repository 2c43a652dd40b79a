"""Graders of chapter 8."""

import math

import torch

from rlcourse.grading.expect import expect_close, expect_shape, expect_unchanged

EXERCISES = {
    "sequence_logprobs": {
        "title": "The log-probability of a whole reply",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-sequence-logprob",
    },
    "optimal_policy": {
        "title": "The optimum in closed form",
        "difficulty": 2,
        "minutes": 20,
        "points": 15,
        "equation": "eq-dpo-optimum",
    },
    "implicit_rewards": {
        "title": "The reward inside a policy",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-implicit-reward",
    },
    "dpo_loss": {
        "title": "The DPO loss, with label smoothing",
        "difficulty": 3,
        "minutes": 25,
        "points": 20,
        "equation": "eq-dpo-loss",
    },
    "dpo_gradient_weight": {
        "title": "How hard each pair pulls",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-dpo-gradient",
    },
    "ipo_loss": {
        "title": "IPO: a margin with a target",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-ipo",
    },
    "simpo_loss": {
        "title": "SimPO: per token, without a reference",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-simpo",
    },
}


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def leaf(*numbers):
    return tensor(*numbers).requires_grad_()


def logistic(z):
    """log(1 + e^-z), by the standard library."""
    return math.log1p(math.exp(-z)) if z > -30 else -z


# Two pairs. Log-ratios: chosen 2 and -1, rejected -1 and 1; margins 3 and -2.
CHOSEN, REJECTED = (-2.0, -5.0), (-6.0, -3.0)
REF_CHOSEN, REF_REJECTED = (-4.0, -4.0), (-5.0, -4.0)


def pairs():
    return tensor(*CHOSEN), tensor(*REJECTED), tensor(*REF_CHOSEN), tensor(*REF_REJECTED)


# sequence_logprobs


def test_sequence_logprobs_by_hand(sequence_logprobs):
    """The sum over the reply's own tokens; what stands after the end does not count."""
    logprobs = torch.tensor([[-1.0, -2.0, -4.0], [-0.5, -7.0, -9.0]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    expect_close(sequence_logprobs(logprobs, mask), [-7.0, -0.5], "log pi of the two replies")


def test_sequence_logprobs_gradient(sequence_logprobs):
    """Every token of the reply receives gradient 1, padding none."""
    logprobs = torch.tensor([[-1.0, -2.0, -4.0]], requires_grad=True)
    sequence_logprobs(logprobs, torch.tensor([[1.0, 1.0, 0.0]])).sum().backward()
    expect_close(logprobs.grad, [[1.0, 1.0, 0.0]], "the gradient")


# optimal_policy


def test_optimal_policy_by_hand(optimal_policy):
    """Two replies, equal under the reference, rewards 0 and log 3, beta 1: probabilities 1/4 and 3/4."""
    logprobs, log_z = optimal_policy(tensor(0.5, 0.5).log()[None], tensor(0.0, math.log(3))[None], 1.0)
    expect_close(logprobs.exp(), [[0.25, 0.75]], "the optimal policy")
    expect_close(log_z, [math.log(2)], "log Z")


def test_optimal_policy_divides_by_beta(optimal_policy):
    """With beta 1/2 the same rewards count twice: probabilities 1/10 and 9/10."""
    logprobs, _ = optimal_policy(tensor(0.5, 0.5).log()[None], tensor(0.0, math.log(3))[None], 0.5)
    expect_close(logprobs.exp(), [[0.1, 0.9]], "the optimal policy with beta 0.5")


def test_optimal_policy_beats_every_other(optimal_policy):
    """No other policy has a larger E[r] - beta KL(pi || ref)."""
    generator, beta = torch.Generator().manual_seed(0), 0.7
    ref = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    rewards = torch.randn(2, 5, generator=generator, dtype=torch.float64)

    def value(logprobs):
        return (logprobs.exp() * (rewards - beta * (logprobs - ref))).sum(-1)

    logits = ref.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -value(logits.log_softmax(-1)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    logprobs, log_z = optimal_policy(ref, rewards, beta)
    expect_close(logprobs, logits.log_softmax(-1), "log pi* against a numerical search", rtol=1e-3)
    expect_close(log_z * beta, value(logits.log_softmax(-1)), "beta log Z, the best value", atol=1e-6)


def test_optimal_policy_survives_a_small_beta(optimal_policy):
    """A reward 2000 times beta does not overflow, and inputs stay as they are."""
    ref, rewards = tensor(0.5, 0.5).log()[None], tensor(2.0, 0.0)[None]
    logprobs, _ = optimal_policy(ref, rewards, 0.001)
    expect_close(logprobs, [[0.0, -2000.0]], "log pi* with beta 0.001")
    expect_unchanged(tensor(0.5, 0.5).log()[None], ref, "ref_logprobs")


# implicit_rewards


def test_implicit_rewards_by_hand(implicit_rewards):
    """beta times the log-ratio: twice as likely as the reference with beta 3 is 3 log 2."""
    got = implicit_rewards(tensor(0.5, 0.1).log(), tensor(0.25, 0.2).log(), 3.0)
    expect_close(got, [3 * math.log(2), -3 * math.log(2)], "the implicit rewards")


def test_implicit_rewards_recover_the_reward(implicit_rewards):
    """For the optimum of known rewards, differences of implicit rewards are those of the rewards."""
    ref, rewards, beta = tensor(0.2, 0.3, 0.5).log(), tensor(1.0, -2.0, 0.5), 0.5
    best = (ref + rewards / beta).log_softmax(-1)
    got = torch.as_tensor(implicit_rewards(best, ref, beta))
    expect_close(got - got[0], rewards - rewards[0], "differences to the first reply")


def test_implicit_rewards_freeze_the_reference(implicit_rewards):
    """The policy receives gradient beta, the reference none."""
    logprobs, ref = leaf(-1.0, -2.0), leaf(-3.0, -4.0)
    implicit_rewards(logprobs, ref, 0.25).sum().backward()
    expect_close(logprobs.grad, [0.25, 0.25], "the gradient of the policy's log-probabilities")
    got = [0.0, 0.0] if ref.grad is None else ref.grad
    expect_close(got, [0.0, 0.0], "the gradient of the reference's log-probabilities")


# dpo_loss


def test_dpo_loss_by_hand(dpo_loss):
    """The mean of -log sigmoid(beta times margin) over pairs with margins 3 and -2."""
    want = (logistic(1.5) + logistic(-1.0)) / 2
    expect_close(dpo_loss(*pairs(), 0.5), want, "the loss with beta 0.5")


def test_dpo_loss_starts_at_log_two(dpo_loss):
    """Where policy and reference agree the loss is log 2, whatever they say and whatever beta is."""
    same = (tensor(-1.0, -9.0), tensor(-7.0, -2.0))
    expect_close(dpo_loss(*same, *same, 0.3), math.log(2), "the loss at the start")


def test_dpo_loss_label_smoothing(dpo_loss):
    """With smoothing 0.1 a pair with margin 3 costs 0.9 of one side and 0.1 of the other."""
    one = tuple(x[:1] for x in pairs())
    want = 0.9 * logistic(1.5) + 0.1 * logistic(-1.5)
    expect_close(dpo_loss(*one, 0.5, label_smoothing=0.1), want, "the loss with label smoothing 0.1")


def test_dpo_loss_survives_large_margins(dpo_loss):
    """A margin of -2000 costs 2000, not infinity."""
    got = dpo_loss(tensor(-2000.0), tensor(0.0), tensor(0.0), tensor(0.0), 1.0)
    expect_close(got, 2000.0, "the loss of a hopeless pair")


def test_dpo_loss_smoothing_survives_large_margins(dpo_loss):
    """With smoothing 0.1 a pair ranked rightly by 2000 costs 200, not infinity."""
    got = dpo_loss(tensor(0.0), tensor(-2000.0), tensor(0.0), tensor(0.0), 1.0, label_smoothing=0.1)
    expect_close(got, 200.0, "the loss of a margin of 2000 with label smoothing 0.1")


def test_dpo_loss_gradient(dpo_loss):
    """It raises the chosen, lowers the rejected by as much, and leaves the reference alone."""
    chosen, rejected, ref_chosen, ref_rejected = leaf(-2.0), leaf(-6.0), leaf(-4.0), leaf(-5.0)
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 0.5).backward()
    weight = 0.5 / (1 + math.exp(1.5))
    expect_close(chosen.grad, [-weight], "the gradient of the chosen log-probability")
    expect_close(rejected.grad, [weight], "the gradient of the rejected log-probability")
    for x in (ref_chosen, ref_rejected):
        expect_close([0.0] if x.grad is None else x.grad, [0.0], "the gradient of the reference")


# dpo_gradient_weight


def test_dpo_gradient_weight_by_hand(dpo_gradient_weight):
    """beta sigmoid(-beta margin): small for the pair ranked rightly, large for the other."""
    want = [0.5 / (1 + math.exp(1.5)), 0.5 / (1 + math.exp(-1.0))]
    expect_close(dpo_gradient_weight(*pairs(), 0.5), want, "the weights with beta 0.5")


def test_dpo_gradient_weight_is_the_gradient(dpo_gradient_weight):
    """It equals minus the derivative of each pair's loss by its chosen log-probability."""
    chosen = leaf(*CHOSEN)
    _, rejected, ref_chosen, ref_rejected = pairs()
    margin = 2.0 * ((chosen - ref_chosen) - (rejected - ref_rejected))
    torch.nn.functional.softplus(-margin).sum().backward()
    got = dpo_gradient_weight(chosen.detach(), rejected, ref_chosen, ref_rejected, 2.0)
    expect_close(got, -chosen.grad, "the weights with beta 2")


def test_dpo_gradient_weight_at_the_start(dpo_gradient_weight):
    """Where policy and reference agree every pair pulls with beta / 2; a batch of one has shape (1,)."""
    x, y = tensor(-3.0), tensor(-8.0)
    weight = expect_shape(dpo_gradient_weight(x, y, x, y, 0.2), (1,), "the weights")
    expect_close(weight, [0.1], "the weight at the start")


def test_dpo_gradient_weight_survives_large_margins(dpo_gradient_weight):
    """A pair ranked wrongly by 2000 pulls with beta, one ranked rightly by 2000 not at all."""
    zero = tensor(0.0, 0.0)
    got = dpo_gradient_weight(tensor(-2000.0, 2000.0), zero, zero, zero, 0.5)
    expect_close(got, [0.5, 0.0], "the weights at margins -2000 and 2000")


# ipo_loss


def test_ipo_loss_by_hand(ipo_loss):
    """Margins 3 and -2, target 1 / (2 * 0.25) = 2: the mean of 1 and 16."""
    expect_close(ipo_loss(*pairs(), 0.25), 8.5, "the loss with tau 0.25")


def test_ipo_loss_is_zero_at_its_target(ipo_loss):
    """A margin of exactly 1 / (2 tau) costs nothing, a larger one costs again."""
    zero = tensor(0.0)
    expect_close(ipo_loss(tensor(5.0), zero, zero, zero, 0.1), 0.0, "the loss at margin 5, tau 0.1")
    expect_close(ipo_loss(tensor(7.0), zero, zero, zero, 0.1), 4.0, "the loss at margin 7, tau 0.1")


def test_ipo_loss_freezes_the_reference(ipo_loss):
    """No gradient flows into the reference."""
    chosen, ref = leaf(-2.0), leaf(-4.0)
    ipo_loss(chosen, tensor(-6.0), ref, tensor(-5.0), 0.25).backward()
    expect_close(chosen.grad, [2.0], "the gradient of the chosen log-probability")
    expect_close([0.0] if ref.grad is None else ref.grad, [0.0], "the gradient of the reference")


# simpo_loss


def test_simpo_loss_by_hand(simpo_loss):
    """Means per token -1 and -1.5, beta 2, margin 0.5: -log sigmoid(2 * 0.5 - 0.5)."""
    got = simpo_loss(tensor(-4.0), tensor(-3.0), tensor(4.0), tensor(2.0), 2.0, 0.5)
    expect_close(got, logistic(0.5), "the loss of one pair")


def test_simpo_loss_mean_over_pairs(simpo_loss):
    """The mean over two pairs."""
    got = simpo_loss(tensor(-4.0, -2.0), tensor(-3.0, -2.0), tensor(4.0, 2.0), tensor(2.0, 4.0), 2.0, 0.5)
    want = (logistic(0.5) + logistic(-1.0 - 0.5)) / 2
    expect_close(got, want, "the loss of two pairs")


def test_simpo_loss_survives_large_margins(simpo_loss):
    """A margin of -1000 costs 1000, not infinity."""
    got = simpo_loss(tensor(-1000.0), tensor(0.0), tensor(1.0), tensor(1.0), 1.0, 0.0)
    expect_close(got, 1000.0, "the loss at margin -1000")


def test_simpo_loss_gradient(simpo_loss):
    """Both replies receive gradient: beta over the length, times sigmoid of minus the margin."""
    chosen, rejected = leaf(-4.0), leaf(-3.0)
    simpo_loss(chosen, rejected, tensor(4.0), tensor(2.0), 2.0, 0.5).backward()
    weight = 1 / (1 + math.exp(0.5))
    expect_close(chosen.grad, [-2.0 / 4 * weight], "the gradient of the chosen log-probability")
    expect_close(rejected.grad, [2.0 / 2 * weight], "the gradient of the rejected log-probability")
