"""Numerical tests of the labelled equations of chapter 5: every episode of a small MDP is enumerated."""

import itertools

import numpy as np
import pytest
import torch

T = 3  # steps per episode
GAMMA = 0.7
RNG = np.random.default_rng(5)
P = RNG.dirichlet(np.ones(2), size=(2, 2))  # two states, two actions
R = RNG.normal(size=(2, 2, 2))
RHO0 = np.array([0.3, 0.7])
THETA = RNG.normal(size=(2, 2))


def log_pi(theta):
    return torch.log_softmax(theta, dim=1)


def leaf():
    return torch.tensor(THETA, dtype=torch.float64, requires_grad=True)


def gradient(scalar, theta):
    return torch.autograd.grad(scalar, theta, retain_graph=True)[0].numpy()


def episodes():
    """All (states, actions) of T steps: states has T + 1 entries."""
    for states in itertools.product(range(2), repeat=T + 1):
        for actions in itertools.product(range(2), repeat=T):
            yield states, actions


def logprob(theta, states, actions):
    """log p_theta(tau), with gradient."""
    total = float(np.log(RHO0[states[0]]))
    for t, a in enumerate(actions):
        total = total + log_pi(theta)[states[t], a] + float(np.log(P[states[t], a, states[t + 1]]))
    return total


def rewards(states, actions):
    return [R[states[t], a, states[t + 1]] for t, a in enumerate(actions)]


def return_from(rs, t):
    return sum(GAMMA**k * r for k, r in enumerate(rs[t:]))


def scores(states, actions):
    """(T, 2, 2): the gradient of log pi(a_t | s_t), by automatic differentiation."""
    theta = leaf()
    return np.stack([gradient(log_pi(theta)[states[t], a], theta) for t, a in enumerate(actions)])


def exact_gradient():
    theta = leaf()
    J = sum(torch.exp(logprob(theta, s, a)) * return_from(rewards(s, a), 0) for s, a in episodes())
    return gradient(J, theta)


EPISODES = [
    (float(torch.exp(logprob(torch.tensor(THETA), s, a))), rewards(s, a), scores(s, a), s)
    for s, a in episodes()
]
EXACT = exact_gradient()


@pytest.mark.equation("eq-softmax-policy")
def test_softmax_is_the_maximum_entropy_policy_of_its_preferences():
    """It maximises <pi, theta> + entropy, whose maximum is the log-sum-exp."""
    theta = THETA[0]
    pi = np.exp(theta) / np.exp(theta).sum()
    value = pi @ theta - pi @ np.log(pi)
    assert pi.sum() == pytest.approx(1)
    assert value == pytest.approx(np.logaddexp(*theta))
    for p in np.linspace(0.01, 0.99, 50):
        q = np.array([p, 1 - p])
        assert q @ theta - q @ np.log(q) <= value + 1e-12


@pytest.mark.equation("eq-log-derivative")
def test_log_derivative_trick():
    step = 1e-6
    p = [torch.softmax(torch.tensor(THETA[0] + d * np.array([1, 0])), 0).numpy() for d in (-step, 0, step)]
    slope = (p[2] - p[0]) / (2 * step)
    slope_of_log = (np.log(p[2]) - np.log(p[0])) / (2 * step)
    assert slope == pytest.approx(p[1] * slope_of_log, abs=1e-8)


@pytest.mark.equation("eq-trajectory-score")
def test_the_dynamics_drop_out_of_the_score():
    states, actions = (0, 1, 1, 0), (1, 0, 1)
    theta = leaf()
    whole = gradient(logprob(theta, states, actions), theta)
    assert whole == pytest.approx(scores(states, actions).sum(0))


@pytest.mark.equation("eq-pg-trajectory")
def test_gradient_as_expectation_over_trajectories():
    estimate = sum(p * return_from(rs, 0) * sc.sum(0) for p, rs, sc, _ in EPISODES)
    assert sum(p for p, *_ in EPISODES) == pytest.approx(1)
    assert estimate == pytest.approx(EXACT)


@pytest.mark.equation("eq-pg-causal")
def test_past_rewards_drop_out_and_gamma_t_stays():
    def mean(weight):
        return sum(p * weight(t) * return_from(rs, t) * sc[t] for p, rs, sc, _ in EPISODES for t in range(T))

    assert mean(lambda t: GAMMA**t) == pytest.approx(EXACT)
    assert np.abs(mean(lambda t: 1.0) - EXACT).max() > 0.01  # without gamma^t it is another vector


@pytest.mark.equation("eq-softmax-score")
def test_score_of_a_softmax_policy():
    theta = leaf()
    pi = torch.softmax(theta, 1).detach().numpy()
    assert gradient(log_pi(theta)[1, 0], theta)[1] == pytest.approx(np.array([1.0, 0.0]) - pi[1])
    assert gradient(log_pi(theta)[1, 0], theta)[0] == pytest.approx(0.0)


@pytest.mark.equation("eq-pg-theorem")
def test_policy_gradient_theorem():
    """Against automatic differentiation of J, with an infinite horizon cut where gamma^t is 1e-16."""
    theta = leaf()
    pi = torch.softmax(theta, 1)
    chain = torch.einsum("sa,sat->st", pi, torch.tensor(P))
    reward = torch.einsum("sa,sat,sat->s", pi, torch.tensor(P), torch.tensor(R))
    d, J, visits = torch.tensor(RHO0), 0.0, np.zeros(2)
    for t in range(110):
        J = J + GAMMA**t * (d @ reward)
        visits += GAMMA**t * d.detach().numpy()
        d = d @ chain
    pi_, r_sa = pi.detach().numpy(), (P * R).sum(2)
    V = np.linalg.solve(np.eye(2) - GAMMA * chain.detach().numpy(), reward.detach().numpy())
    Q = r_sa + GAMMA * P @ V
    by_theorem = np.zeros((2, 2))
    for s, a in itertools.product(range(2), range(2)):
        row = -pi_[s].copy()
        row[a] += 1
        by_theorem[s] += visits[s] * pi_[s, a] * Q[s, a] * row
    assert by_theorem == pytest.approx(gradient(J, theta), abs=1e-10)
    assert by_theorem == pytest.approx(visits[:, None] * pi_ * (Q - V[:, None]), abs=1e-10)


@pytest.mark.equation("eq-reinforce")
def test_reinforce_with_a_baseline_is_unbiased():
    b = np.array([3.0, -8.0])
    estimate = sum(
        p * GAMMA**t * (return_from(rs, t) - b[s[t]]) * sc[t] for p, rs, sc, s in EPISODES for t in range(T)
    )
    assert estimate == pytest.approx(EXACT)


@pytest.mark.equation("eq-baseline-zero")
def test_a_baseline_adds_nothing_on_average():
    theta = leaf()
    pi = torch.softmax(theta, 1).detach().numpy()
    mean = sum(pi[0, a] * 5.0 * gradient(log_pi(theta)[0, a], theta) for a in range(2))
    assert mean == pytest.approx(0.0, abs=1e-12)


@pytest.mark.equation("eq-baseline-optimal")
def test_the_best_constant_baseline_of_a_bandit():
    pi, values = np.array([0.2, 0.3, 0.5]), np.array([1.0, 4.0, -2.0])
    score = np.eye(3) - pi  # row a: the score of action a
    size = (score**2).sum(1)

    def variance(b):
        estimates = (values - b)[:, None] * score
        mean = pi @ estimates
        return pi @ (estimates**2).sum(1) - mean @ mean

    best = (pi * size) @ values / (pi @ size)
    grid = np.linspace(-5, 5, 2001)
    assert grid[np.argmin([variance(b) for b in grid])] == pytest.approx(best, abs=0.005)
    assert variance(best) < variance(pi @ values) < variance(0.0) + 1e-12


@pytest.mark.equation("eq-batched-returns")
def test_masked_recursion_equals_the_sum():
    rs, alive = np.array([1.0, -2.0, 3.0, 99.0]), np.array([1, 1, 1, 0])
    g, G = 0.0, np.zeros(4)
    for t in reversed(range(4)):
        g = alive[t] * (rs[t] + GAMMA * g)
        G[t] = g
    assert pytest.approx([return_from(list(rs[:3]), t) for t in range(3)] + [0.0]) == G


@pytest.mark.equation("eq-pg-loss")
def test_the_loss_has_minus_the_gradient():
    theta = leaf()
    rows = [
        (s[t], a[t], GAMMA**t * return_from(rewards(s, a), t))
        for s, a in [((0, 1, 0, 0), (1, 0, 1))]
        for t in range(T)
    ]
    loss = -torch.stack([log_pi(theta)[s, a] * w for s, a, w in rows]).mean()
    by_hand = np.zeros((2, 2))
    pi = torch.softmax(theta, 1).detach().numpy()
    for s, a, w in rows:
        by_hand[s] += w * (np.eye(2)[a] - pi[s]) / len(rows)
    assert gradient(loss, theta) == pytest.approx(-by_hand)


@pytest.mark.equation("eq-one-step-advantage")
def test_the_td_error_of_the_true_values_is_the_advantage_on_average():
    pi = torch.softmax(torch.tensor(THETA), 1).numpy()
    r_sa = (P * R).sum(2)
    V = np.linalg.solve(np.eye(2) - GAMMA * np.einsum("sa,sat->st", pi, P), (pi * r_sa).sum(1))
    for s, a in itertools.product(range(2), range(2)):
        mean = sum(P[s, a, n] * (R[s, a, n] + GAMMA * V[n] - V[s]) for n in range(2))
        assert mean == pytest.approx(r_sa[s, a] + GAMMA * P[s, a] @ V - V[s])
