"""Numerical tests of the labelled equations of chapter 6."""

import math

import numpy as np
import pytest
import torch

from rlcourse.envs import helpdesk
from solutions.ch03_bellman import evaluate_policy_exact
from solutions.ch06_ppo import clipped_surrogate, compute_gae, k_step_advantages, policy_entropy, ppo_loss

T, GAMMA, LAMBDA = 6, 0.9, 0.7


def stretch(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(T, generator=g), torch.randn(T + 1, generator=g)


def deltas_of(rewards, values):
    return [float(rewards[t] + GAMMA * values[t + 1] - values[t]) for t in range(T)]


def never():
    return torch.zeros(T, dtype=torch.bool)


@pytest.mark.equation("eq-k-step")
def test_k_step_estimates_are_sums_of_td_errors():
    rewards, values = stretch()
    deltas = deltas_of(rewards, values)
    for k in range(1, T + 1):
        got = k_step_advantages(rewards, values, k, GAMMA)
        for t in range(T):
            want = sum(GAMMA ** (u - t) * deltas[u] for u in range(t, min(t + k, T)))
            assert float(got[t]) == pytest.approx(want, abs=1e-5)


@pytest.mark.equation("eq-gae-mix")
def test_the_mix_of_k_step_estimates_is_the_sum_of_discounted_td_errors():
    rewards, values = stretch(1)
    deltas = deltas_of(rewards, values)
    for t in range(T):
        left = T - t
        estimates = [float(k_step_advantages(rewards, values, k, GAMMA)[t]) for k in range(1, left + 1)]
        weights = [(1 - LAMBDA) * LAMBDA ** (k - 1) for k in range(1, left)] + [LAMBDA ** (left - 1)]
        assert sum(weights) == pytest.approx(1.0)
        mixed = sum(w * a for w, a in zip(weights, estimates, strict=True))
        summed = sum((GAMMA * LAMBDA) ** (u - t) * deltas[u] for u in range(t, T))
        assert mixed == pytest.approx(summed, abs=1e-5)


@pytest.mark.equation("eq-gae-delta")
def test_td_errors_of_the_true_values_have_mean_zero_only_with_the_terminal_factor():
    desk, pi = helpdesk(), np.full((4, 2), 0.5)
    V = evaluate_policy_exact(desk, pi)
    closed = desk.terminal.astype(float)
    delta = desk.R + desk.gamma * (1 - closed) * V - V[:, None, None]  # (S, A, S')
    mean = (pi[:, :, None] * desk.P * delta).sum((1, 2))
    assert mean[:3] == pytest.approx(np.zeros(3))
    leaking = desk.R + desk.gamma * np.where(closed, 5.0, V) - V[:, None, None]
    assert abs((pi[:, :, None] * desk.P * leaking).sum((1, 2))[:3]).min() > 0.1


@pytest.mark.equation("eq-gae")
def test_the_recursion_equals_the_sum_that_stops_at_the_end_of_an_episode():
    rewards, values = stretch(2)
    terminated, truncated = never(), never()
    terminated[1], truncated[3] = True, True
    got = compute_gae(rewards, values, terminated, truncated, GAMMA, LAMBDA)
    for t in range(T):
        total = 0.0
        for u in range(t, T):
            bootstrap = 0.0 if terminated[u] else GAMMA * float(values[u + 1])
            total += (GAMMA * LAMBDA) ** (u - t) * (float(rewards[u]) + bootstrap - float(values[u]))
            if terminated[u] or truncated[u]:
                break
        assert float(got[t]) == pytest.approx(total, abs=1e-5)


@pytest.mark.equation("eq-value-target")
def test_the_target_is_the_lambda_return():
    """With lambda 1 it is the discounted return with the last value, with 0 the one-step target."""
    rewards, values = stretch(3)
    for t in range(T):
        full = sum(GAMMA ** (u - t) * float(rewards[u]) for u in range(t, T))
        full += GAMMA ** (T - t) * float(values[T])
        one = float(rewards[t] + GAMMA * values[t + 1])
        for lam, want in ((1.0, full), (0.0, one)):
            advantages = compute_gae(rewards, values, never(), never(), GAMMA, lam)
            assert float(advantages[t] + values[t]) == pytest.approx(want, abs=1e-5)


@pytest.mark.equation("eq-normalise")
def test_normalised_advantages_do_not_depend_on_the_unit_of_reward():
    A = np.random.default_rng(0).normal(3.0, 10.0, size=50)
    normal = (A - A.mean()) / (A.std() + 1e-8)
    scaled = (1000 * A - (1000 * A).mean()) / ((1000 * A).std() + 1e-8)
    assert normal.mean() == pytest.approx(0, abs=1e-9) and normal.std() == pytest.approx(1)
    assert normal == pytest.approx(scaled)


@pytest.mark.equation("eq-ratio")
def test_the_ratio_turns_an_average_over_the_old_policy_into_one_over_the_new():
    rng = np.random.default_rng(1)
    old, new, A = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4)), rng.normal(size=4)
    ratio = np.exp(np.log(new) - np.log(old))
    assert (old * ratio * A).sum() == pytest.approx((new * A).sum())
    assert (old * ratio).sum() == pytest.approx(1.0)


def surrogate_at(ratio, advantage, eps):
    """min and clip in plain Python."""
    clipped = min(max(ratio, 1 - eps), 1 + eps)
    return min(ratio * advantage, clipped * advantage)


def clip_curve(ratios, advantage, eps=0.2):
    logprobs = torch.tensor(np.log(ratios)).requires_grad_()
    advantages = torch.full_like(logprobs, advantage).detach()
    objective = clipped_surrogate(logprobs, torch.zeros_like(logprobs).detach(), advantages, eps)
    (slope,) = torch.autograd.grad(objective.sum(), logprobs)
    return objective.detach().numpy(), slope.numpy()


@pytest.mark.equation("eq-clip")
def test_the_clipped_surrogate_is_a_lower_bound_and_equals_the_plain_one_near_the_old_policy():
    ratios = np.linspace(0.3, 2.5, 45)
    for advantage in (1.7, -1.7):
        objective, _ = clip_curve(ratios, advantage)
        assert objective == pytest.approx([surrogate_at(r, advantage, 0.2) for r in ratios])
        assert (objective <= ratios * advantage + 1e-12).all()
        inside = (ratios > 0.8) & (ratios < 1.2)
        assert objective[inside] == pytest.approx(ratios[inside] * advantage)


@pytest.mark.equation("eq-clip-gradient")
def test_the_gradient_is_zero_in_two_of_six_regions():
    for advantage, flat in ((2.0, [False, False, True]), (-2.0, [True, False, False])):
        for ratio, zero in zip((0.6, 1.1, 1.5), flat, strict=True):
            h = 1e-6
            up, down = (surrogate_at(ratio * math.exp(s), advantage, 0.2) for s in (h, -h))
            by_differences = (up - down) / (2 * h)
            assert by_differences == pytest.approx(0.0 if zero else ratio * advantage, rel=1e-4)
            assert clip_curve(np.array([ratio]), advantage)[1][0] == pytest.approx(by_differences, rel=1e-4)


@pytest.mark.equation("eq-dual-clip")
def test_dual_clip_bounds_the_objective_of_bad_actions():
    c, A = 3.0, -2.0
    for ratio in (0.5, 1.0, 2.9, 3.1, 100.0):
        dual = max(surrogate_at(ratio, A, 0.2), c * A)
        assert dual >= c * A
        if ratio < c:
            assert dual == pytest.approx(surrogate_at(ratio, A, 0.2))
    assert surrogate_at(100.0, A, 0.2) == pytest.approx(-200.0)  # without it there is no floor


@pytest.mark.equation("eq-policy-entropy")
def test_the_entropy_is_log_a_minus_the_divergence_from_uniform():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1).numpy().astype(float)
    from_uniform = (p * np.log(p / 0.25)).sum(1)
    assert policy_entropy(logits).numpy() == pytest.approx(math.log(4) - from_uniform, abs=1e-5)


@pytest.mark.equation("eq-value-loss")
def test_the_squared_error_is_least_at_the_mean_of_the_targets():
    targets = np.array([1.0, 2.0, 6.0])
    grid = np.linspace(0, 7, 701)
    losses = ((grid[:, None] - targets) ** 2).mean(1)
    assert grid[losses.argmin()] == pytest.approx(targets.mean())
    best = ((targets.mean() - targets) ** 2).mean()
    assert losses == pytest.approx((grid - targets.mean()) ** 2 + best)


@pytest.mark.equation("eq-value-clip")
def test_the_clipped_value_loss_is_never_smaller_and_stops_far_from_the_old_value():
    old, target, eps = 0.0, 5.0, 0.2
    for value in np.linspace(-1, 6, 29):
        near = old + min(max(value - old, -eps), eps)
        clipped = max((value - target) ** 2, (near - target) ** 2)
        assert clipped >= (value - target) ** 2
        if eps < value < target:  # moved past the range towards the target: constant, no gradient
            assert clipped == pytest.approx((eps - target) ** 2)


def small_batch():
    g = torch.Generator().manual_seed(5)
    logits, values = torch.randn(8, 3, generator=g), torch.randn(8, generator=g)
    actions = torch.randint(0, 3, (8,), generator=g)
    old = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0] + 0.3 * torch.randn(8, generator=g)
    return logits, values, (actions, old, torch.randn(8, generator=g), torch.randn(8, generator=g))


def three_terms(logits, values, batch):
    """The means of clip, squared error and entropy, in NumPy."""
    actions, old, A, targets = (x.numpy().astype(float) for x in batch)
    z = logits.numpy().astype(float)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    taken = p[np.arange(8), actions.astype(int)]
    clip = np.mean([surrogate_at(r, a, 0.2) for r, a in zip(taken / np.exp(old), A, strict=True)])
    error = np.mean((values.numpy() - targets) ** 2)
    return clip, error, -(p * np.log(p)).sum(1).mean()


@pytest.mark.equation("eq-ppo-objective")
def test_the_gradient_of_the_objective_is_minus_that_of_the_loss():
    logits, values, batch = small_batch()
    clip, error, entropy = three_terms(logits, values, batch)
    objective = clip - 0.5 * error + 0.01 * entropy
    assert -float(ppo_loss(logits, values, batch, 0.2, 0.5, 0.01)) == pytest.approx(objective, abs=1e-5)


@pytest.mark.equation("eq-ppo-loss")
def test_a_small_step_down_the_loss_raises_the_surrogate_and_lowers_the_error():
    logits, values, batch = small_batch()
    clip, error, entropy = three_terms(logits, values, batch)
    for vf_coef, ent_coef in ((0.5, 0.0), (0.5, 0.1), (1.0, 1.0)):
        leaves = logits.clone().requires_grad_(), values.clone().requires_grad_()
        loss = ppo_loss(*leaves, batch, 0.2, vf_coef, ent_coef)
        assert float(loss.detach()) == pytest.approx(-clip + vf_coef * error - ent_coef * entropy, abs=1e-5)
        loss.backward()
        moved = [(x - 1e-2 * x.grad).detach() for x in leaves]
        new = three_terms(*moved, batch)
        assert new[1] < error
        if ent_coef == 0.0:
            assert new[0] > clip
        if ent_coef == 1.0:
            assert new[2] > entropy
