"""Numerical tests of the labelled equations of chapter 8, on an exact world: every reply is enumerated."""

import math

import pytest
import torch

from rlcourse.lm.exact import ExactWorld, TablePolicy, exact_kl, expectation

BETA = 0.5
WORLD = ExactWorld(letters="ab", max_length=3)
REWARDS = WORLD.random_rewards(seed=0).double()
REF = WORLD.logprobs(TablePolicy(WORLD, seed=1, scale=0.5)).detach().double()
LOG_Z = torch.log((REF.exp() * torch.exp(REWARDS / BETA)).sum(1))
BEST = REF + REWARDS / BETA - LOG_Z[:, None]


def objective(logprobs):
    """E[r] - beta KL(pi || ref), one number per prompt."""
    return expectation(logprobs, REWARDS) - BETA * exact_kl(logprobs, REF)


def some_policy(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(REF.shape, generator=generator, dtype=torch.float64).log_softmax(-1)


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.equation("eq-kl-objective")
def test_the_objective_falls_short_of_its_maximum_by_beta_kl():
    """Gibbs: the gap to beta log Z is beta KL(pi || pi*), which is never negative."""
    for seed in range(20):
        pi = some_policy(seed)
        gap = BETA * LOG_Z - objective(pi)
        assert gap.tolist() == pytest.approx((BETA * exact_kl(pi, BEST)).tolist())
        assert (gap > 0).all()


@pytest.mark.equation("eq-dpo-lagrangian")
def test_the_derivative_is_the_same_for_every_reply_at_the_optimum():
    """At a constrained maximum all partial derivatives equal the multiplier."""
    pi = BEST.exp().requires_grad_()
    (pi * (REWARDS - BETA * (pi.log() - REF))).sum().backward()
    for row, log_z in zip(pi.grad, LOG_Z, strict=True):
        assert row.tolist() == pytest.approx([BETA * log_z.item() - BETA] * len(row))


@pytest.mark.equation("eq-dpo-optimum")
def test_the_closed_form_is_a_distribution_and_no_step_improves_it():
    assert BEST.exp().sum(1).tolist() == pytest.approx([1.0, 1.0])
    for seed in range(20):
        near = (BEST + 0.1 * some_policy(seed)).log_softmax(-1)
        assert (objective(near) < objective(BEST)).all()


@pytest.mark.equation("eq-reward-from-policy")
def test_the_reward_can_be_read_off_the_optimum():
    read = BETA * (BEST - REF) + BETA * LOG_Z[:, None]
    assert read.flatten().tolist() == pytest.approx(REWARDS.flatten().tolist())


@pytest.mark.equation("eq-reward-difference")
def test_the_partition_function_cancels_in_differences():
    ratio = BEST - REF
    for w, l in [(0, 1), (3, 14), (7, 2)]:
        assert (BETA * (ratio[:, w] - ratio[:, l])).tolist() == pytest.approx(
            (REWARDS[:, w] - REWARDS[:, l]).tolist()
        )


@pytest.mark.equation("eq-sequence-logprob")
def test_reply_probabilities_are_products_over_tokens_and_sum_to_one():
    policy = TablePolicy(WORLD, seed=3)
    tables = policy.logits.detach().double().softmax(-1)  # one row per prefix
    total = 0.0
    for body, mask in zip(WORLD.tokens.tolist(), WORLD.mask.tolist(), strict=True):
        row, p = int(WORLD.prompts[0]) + 1, 1.0
        for token, m in zip(body, mask, strict=True):
            if m:
                p *= tables[row, token].item()
                row = row * WORLD.size + token + 1
        index = WORLD.tokens.tolist().index(body)
        assert WORLD.logprobs(policy)[0, index].item() == pytest.approx(math.log(p), abs=1e-5)
        total += p
    assert total == pytest.approx(1.0)


@pytest.mark.equation("eq-implicit-reward")
def test_a_policy_is_the_optimum_for_its_implicit_reward():
    pi = some_policy(4)
    implicit = BETA * (pi - REF)
    assert (REF + implicit / BETA).log_softmax(-1).flatten().tolist() == pytest.approx(pi.flatten().tolist())


@pytest.mark.equation("eq-dpo-loss")
def test_maximum_likelihood_of_all_preferences_gives_the_rlhf_optimum():
    """The population loss over every ordered pair has its minimum at pi*."""
    prefer = torch.sigmoid(REWARDS[:, :, None] - REWARDS[:, None, :])

    def population(logprobs):
        z = BETA * (logprobs - REF)
        margin = z[:, :, None] - z[:, None, :]
        return (prefer * torch.nn.functional.softplus(-margin)).sum()

    x = BEST.clone().requires_grad_()
    population(x.log_softmax(-1)).backward()
    assert x.grad.abs().max() < 1e-10
    for seed in range(10):
        near = (BEST + 0.3 * some_policy(seed)).log_softmax(-1)
        assert population(near) > population(BEST)


@pytest.mark.equation("eq-dpo-gradient")
def test_gradient_weight():
    chosen, rejected = (
        torch.tensor([-2.0, -5.0]).requires_grad_(),
        torch.tensor([-6.0, -3.0]).requires_grad_(),
    )
    ref_c, ref_r = torch.tensor([-4.0, -4.0]), torch.tensor([-5.0, -4.0])
    rw, rl = BETA * (chosen - ref_c), BETA * (rejected - ref_r)
    torch.nn.functional.softplus(-(rw - rl)).sum().backward()
    weight = [BETA / (1 + math.exp(d)) for d in (rw - rl).tolist()]
    assert (-chosen.grad).tolist() == pytest.approx(weight)
    assert rejected.grad.tolist() == pytest.approx(weight)


@pytest.mark.equation("eq-dpo-symmetric")
def test_the_symmetric_sum_is_smallest_where_nothing_is_preferred():
    def total(z):
        return softplus(-z) + softplus(z)

    assert total(1.7) == pytest.approx(total(-1.7))
    grid = [i / 100 for i in range(-500, 501)]
    assert min(grid, key=total) == 0.0


@pytest.mark.equation("eq-cdpo")
@pytest.mark.parametrize("eps, want", [(0.1, 2.197), (0.3, 0.847)])
def test_label_smoothing_has_a_finite_optimum(eps, want):
    def loss(z):
        return (1 - eps) * softplus(-z) + eps * softplus(z)

    grid = [i / 1000 for i in range(-5000, 5001)]
    best = min(grid, key=loss)
    assert best == pytest.approx(want, abs=1e-3)
    assert best == pytest.approx(math.log((1 - eps) / eps), abs=1e-3)


@pytest.mark.equation("eq-ipo")
def test_ipo_stops_at_half_over_tau():
    tau = 0.1
    grid = [i / 100 for i in range(0, 2001)]
    best = min(grid, key=lambda h: (h - 1 / (2 * tau)) ** 2)
    assert best == pytest.approx(5.0)
    # for pairs whose first reply wins with probability p, the mean target is (p - 1/2) / tau
    p = 0.8
    best = min(grid, key=lambda h: p * (h - 1 / (2 * tau)) ** 2 + (1 - p) * (-h - 1 / (2 * tau)) ** 2)
    assert best == pytest.approx((p - 0.5) / tau, abs=0.01)


@pytest.mark.equation("eq-simpo")
def test_simpo_compares_means_per_token():
    """A reply twice as long with twice the log-probability is neither better nor worse."""

    def loss(chosen, rejected, n, m, beta=2.0, target=0.5):
        return softplus(-(beta * (chosen / n - rejected / m) - target))

    assert loss(-4.0, -2.0, 4, 2) == pytest.approx(softplus(0.5))
    assert loss(-4.0, -3.0, 4, 2) == pytest.approx(softplus(-0.5))


@pytest.mark.equation("eq-kto")
def test_kto_is_flat_far_from_its_reference_point():
    """Its weight is largest at the reference point; a margin of 20 hardly pulls."""

    def slope(reward, kl):
        r = torch.tensor(reward, requires_grad=True)
        (1 - torch.sigmoid(r - kl)).backward()
        return abs(r.grad.item())

    assert slope(1.0, 1.0) == pytest.approx(0.25)
    assert slope(21.0, 1.0) < 1e-6 and slope(-19.0, 1.0) < 1e-6
