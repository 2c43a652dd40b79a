"""Numerical tests of the labelled equations of chapter 3.

Values come from simulation, from the sum over all futures up to a long horizon, or from trying every
deterministic policy; random MDPs are stochastic garnets.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from rlcourse.envs import helpdesk
from rlcourse.envs.garnet import garnet, garnet_lists
from solutions.ch03_bellman import (
    action_values,
    advantages,
    evaluate_policy_exact,
    evaluation_sweeps,
    greedy_policy,
    policy_iteration,
    sparse_value_iteration,
    state_values,
    tables_from_gym,
    value_iteration,
)

FIGURES = Path(__file__).resolve().parents[2] / "book" / "figures"


def random_case(seed, **sizes):
    """A garnet and a stochastic policy."""
    rng = np.random.default_rng(seed)
    mdp = garnet(rng, **sizes)
    return mdp, rng.dirichlet(np.ones(mdp.P.shape[1]), len(mdp.P))


def long_sum(mdp, pi, horizon=1000):
    """V^pi and Q^pi as sums of discounted mean rewards over `horizon` steps."""
    S, A, _ = mdp.P.shape
    r = (mdp.P * mdp.R).sum(-1)  # (S, A)
    d = np.eye(S * A).reshape(S * A, S, A)  # row: start pair; entries: probability of being at (s, a)
    Q = np.zeros(S * A)
    for t in range(horizon):
        Q += mdp.gamma**t * (d * r).sum((1, 2))
        d = np.einsum("ksa,san->kn", d, mdp.P)[:, :, None] * pi
    Q = Q.reshape(S, A)
    V = np.array([pi[s] @ Q[s] for s in range(S)])
    return V, Q


def every_policy(mdp):
    """V of each deterministic policy, (A ** S, S), and the policies."""
    S, A, _ = mdp.P.shape
    choices = list(itertools.product(range(A), repeat=S))
    rows = np.arange(S)
    values = []
    for c in choices:
        P, r = mdp.P[rows, list(c)], (mdp.P * mdp.R).sum(-1)[rows, list(c)]
        V = r.copy()
        for k in range(12):  # V of 2, 4, 8, … steps
            V, P = V + mdp.gamma ** (2**k) * P @ V, P @ P
        values.append(V)
    return np.array(values), choices


def sampled_returns(mdp, pi, s, a, episodes, rng, steps=150):
    """Discounted returns of many episodes at once; `a` fixes the first action unless it is None."""
    S, A, _ = mdp.P.shape
    state, total = np.full(episodes, s), np.zeros(episodes)
    for t in range(steps):
        if mdp.terminal[state].all():
            break
        u = rng.random((2, episodes))
        action = (pi[state].cumsum(1) < u[0][:, None]).sum(1).clip(max=A - 1)
        action = np.full(episodes, a) if t == 0 and a is not None else action
        after = (mdp.P[state, action].cumsum(1) < u[1][:, None]).sum(1).clip(max=S - 1)
        total += mdp.gamma**t * mdp.R[state, action, after]
        state = after
    return total


def expect_mean(samples, value):
    """`value` lies within five standard errors of the samples' mean, and these are small."""
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert error < 0.2 and abs(samples.mean() - value) < 5 * error


@pytest.mark.equation("eq-state-value")
def test_state_value_is_the_mean_return():
    mdp, pi = helpdesk(), np.full((4, 2), 0.5)
    for s in range(3):
        expect_mean(
            sampled_returns(mdp, pi, s, None, 6000, np.random.default_rng(s)),
            evaluate_policy_exact(mdp, pi)[s],
        )


@pytest.mark.equation("eq-action-value")
def test_action_value_is_the_mean_return_after_a_first_action():
    mdp, pi = helpdesk(), np.full((4, 2), 0.5)
    Q = action_values(mdp, evaluate_policy_exact(mdp, pi))
    for s, a in itertools.product(range(3), range(2)):
        expect_mean(sampled_returns(mdp, pi, s, a, 6000, np.random.default_rng(10 + 2 * s + a)), Q[s, a])


@pytest.mark.equation("eq-advantage")
def test_advantage_is_the_gain_in_mean_return():
    """The mean gain of 'first action a' over 'first action by pi', with the same random numbers."""
    mdp, pi = helpdesk(), np.array([[0.7, 0.3]] * 4)
    V, Q = long_sum(mdp, pi)
    for s, a in itertools.product(range(3), range(2)):
        first, usual = (
            sampled_returns(mdp, pi, s, b, 8000, np.random.default_rng(20 + 2 * s + a)) for b in (a, None)
        )
        expect_mean(first - usual, advantages(Q, pi)[s, a])


@pytest.mark.equation("eq-advantage-mean")
def test_advantages_average_to_zero():
    mdp, pi = random_case(1)
    V, Q = long_sum(mdp, pi)
    np.testing.assert_allclose((pi * (Q - V[:, None])).sum(1), 0, atol=1e-10)
    plain_mean = Q.mean(1, keepdims=True)  # another baseline leaves another mean
    assert np.abs((pi * (Q - plain_mean)).sum(1)).max() > 0.01


@pytest.mark.equation("eq-v-from-q")
def test_v_is_the_policy_mean_of_q():
    mdp, pi = random_case(2)
    _, Q = long_sum(mdp, pi)
    P, r = np.einsum("sa,san->sn", pi, mdp.P), np.einsum("sa,san,san->s", pi, mdp.P, mdp.R)
    V = np.linalg.solve(np.eye(6) - mdp.gamma * P, r)
    np.testing.assert_allclose(state_values(Q, pi), V, rtol=1e-9)


@pytest.mark.equation("eq-q-from-v")
def test_q_is_one_step_and_then_v():
    mdp, pi = random_case(3)
    V, Q = long_sum(mdp, pi)
    np.testing.assert_allclose(action_values(mdp, V), Q, rtol=1e-9)


@pytest.mark.equation("eq-bellman-expectation-v")
def test_bellman_expectation_for_v_by_simulation():
    """The mean of R + gamma V(S') over sampled steps is V."""
    mdp, pi = random_case(4)
    V, _ = long_sum(mdp, pi)
    rng = np.random.default_rng(4)
    for s in range(6):
        a = rng.choice(3, size=20_000, p=pi[s])
        after = np.array([rng.choice(6, size=20_000, p=mdp.P[s, b]) for b in range(3)])[a, np.arange(20_000)]
        expect_mean(mdp.R[s, a, after] + mdp.gamma * V[after], V[s])


@pytest.mark.equation("eq-bellman-v")
def test_bellman_for_v():
    mdp, pi = random_case(5, n_states=5, n_actions=2)
    V, _ = long_sum(mdp, pi)
    for s in range(5):
        rhs = sum(
            pi[s, a] * mdp.P[s, a, n] * (mdp.R[s, a, n] + mdp.gamma * V[n])
            for a in range(2)
            for n in range(5)
        )
        assert V[s] == pytest.approx(rhs, rel=1e-9)


@pytest.mark.equation("eq-bellman-expectation-q")
def test_bellman_expectation_for_q_by_simulation():
    """The mean of R + gamma Q(S', A') over sampled steps is Q."""
    mdp, pi = random_case(6)
    _, Q = long_sum(mdp, pi)
    rng = np.random.default_rng(6)
    for s, a in itertools.product(range(6), range(3)):
        after = rng.choice(6, size=20_000, p=mdp.P[s, a])
        then = np.array([rng.choice(3, size=20_000, p=pi[n]) for n in range(6)])[after, np.arange(20_000)]
        expect_mean(mdp.R[s, a, after] + mdp.gamma * Q[after, then], Q[s, a])


@pytest.mark.equation("eq-bellman-q")
def test_bellman_for_q():
    mdp, pi = random_case(7, n_states=5, n_actions=2)
    _, Q = long_sum(mdp, pi)
    for s, a in itertools.product(range(5), range(2)):
        rhs = sum(
            mdp.P[s, a, n] * (mdp.R[s, a, n] + mdp.gamma * sum(pi[n, b] * Q[n, b] for b in range(2)))
            for n in range(5)
        )
        assert Q[s, a] == pytest.approx(rhs, rel=1e-9)


@pytest.mark.equation("eq-bellman-matrix")
def test_the_linear_system_gives_the_long_sum():
    mdp, pi = random_case(8, n_terminal=1)
    np.testing.assert_allclose(evaluate_policy_exact(mdp, pi), long_sum(mdp, pi)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.equation("eq-evaluation-sweep")
def test_k_sweeps_are_the_mean_return_of_k_steps():
    mdp, pi = random_case(9)
    history = evaluation_sweeps(mdp, pi, 6)
    for k in range(7):
        np.testing.assert_allclose(history[k], long_sum(mdp, pi, horizon=k)[0], atol=1e-12)


@pytest.mark.equation("eq-optimal-values")
def test_one_policy_is_best_in_all_states():
    """The maximum over policies may be taken in each state apart: a single policy attains all maxima."""
    for seed in range(3):
        mdp, pi = random_case(seed, n_states=4)
        values, _ = every_policy(mdp)
        best = values.max(0)
        assert (np.abs(values - best).max(1) < 1e-9).any()
        assert (long_sum(mdp, pi)[0] <= best + 1e-9).all()  # nor is a stochastic policy better
        np.testing.assert_allclose(value_iteration(mdp, 1e-10)[0], best, atol=1e-9)


@pytest.mark.equation("eq-bellman-optimality-v")
def test_bellman_optimality_for_v():
    mdp, _ = random_case(10, n_states=5, n_actions=2)
    V = every_policy(mdp)[0].max(0)
    for s in range(5):
        rhs = max(
            sum(mdp.P[s, a, n] * (mdp.R[s, a, n] + mdp.gamma * V[n]) for n in range(5)) for a in range(2)
        )
        assert V[s] == pytest.approx(rhs, rel=1e-9)
        outside = max(mdp.R[s, a, n] + mdp.gamma * V[n] for a in range(2) for n in range(5) if mdp.P[s, a, n])
        assert outside > V[s] + 0.01  # a maximum that reaches past the sum is another equation


@pytest.mark.equation("eq-bellman-optimality-q")
def test_bellman_optimality_for_q():
    mdp, _ = random_case(11, n_states=5, n_actions=2)
    values, choices = every_policy(mdp)
    Q = np.max([long_sum(mdp, np.eye(2)[list(c)], 400)[1] for c in choices], axis=0)  # max over policies
    for s, a in itertools.product(range(5), range(2)):
        rhs = sum(mdp.P[s, a, n] * (mdp.R[s, a, n] + mdp.gamma * max(Q[n])) for n in range(5))
        assert Q[s, a] == pytest.approx(rhs, abs=1e-9)


@pytest.mark.equation("eq-optimal-policy")
def test_optimal_policies_are_those_greedy_for_q():
    """A deterministic policy is optimal if and only if it takes an argmax of Q* in every state."""
    mdp, _ = random_case(12, n_states=4, n_actions=2)
    P, R = mdp.P.copy(), mdp.R.copy()
    P[0, 1], R[0, 1] = P[0, 0], R[0, 0]  # a tie in state 0
    mdp = mdp._replace(P=P, R=R)
    values, choices = every_policy(mdp)
    best = values.max(0)
    allowed = greedy_policy(action_values(mdp, best)) > 0
    optimal = np.abs(values - best).max(1) < 1e-9
    greedy = np.array([all(allowed[s, a] for s, a in enumerate(c)) for c in choices])
    assert (optimal == greedy).all() and optimal.sum() == 2


@pytest.mark.equation("eq-policy-improvement")
def test_a_policy_that_is_better_for_one_step_is_better_for_ever():
    better = 0
    for seed in range(60):
        mdp, pi = random_case(seed)
        V, Q = long_sum(mdp, pi, 200)
        other = np.random.default_rng(seed).dirichlet(np.ones(3), 6)
        other = np.where(((other * Q).sum(1) >= V)[:, None], other, pi)  # keep pi where `other` is worse
        gain = long_sum(mdp, other, 200)[0] - V
        assert gain.min() > -1e-7
        better += gain.max() > 1e-3
    assert better > 45
    mdp, pi = random_case(0, n_states=4)
    np.testing.assert_allclose(policy_iteration(mdp, pi)[1], every_policy(mdp)[0].max(0), atol=1e-9)


@pytest.mark.equation("eq-value-iteration")
def test_k_optimality_sweeps_are_the_best_return_of_k_steps():
    """By trying every plan: what to do in each state at each of the three remaining steps."""
    mdp, _ = random_case(13, n_states=3, n_actions=2, branching=2)
    r = (mdp.P * mdp.R).sum(-1)
    rows, plans = np.arange(3), list(itertools.product(range(2), repeat=3))
    best = np.full(3, -np.inf)
    for steps in itertools.product(plans, repeat=3):
        total, at = np.zeros(3), np.eye(3)
        for t, choice in enumerate(steps):
            total += mdp.gamma**t * at @ r[rows, list(choice)]
            at = at @ mdp.P[rows, list(choice)]
        best = np.maximum(best, total)
    V = np.zeros(3)
    for _ in range(3):
        V = action_values(mdp, V).max(-1)
    np.testing.assert_allclose(V, best, atol=1e-12)


@pytest.mark.equation("eq-contraction")
def test_both_backups_shrink_distances_by_gamma():
    closest = 0.0
    for seed in range(300):
        mdp, pi = random_case(seed, gamma=0.8)
        rng = np.random.default_rng(seed)
        U, V = rng.normal(size=6), rng.normal(size=6)
        if seed % 2:
            V = U + rng.normal()  # a constant shift attains the bound
        gap = np.abs(U - V).max()
        for T in (
            lambda V: action_values(mdp, V).max(-1),  # noqa: B023
            lambda V: state_values(action_values(mdp, V), pi),  # noqa: B023
        ):
            ratio = np.abs(T(U) - T(V)).max() / gap
            assert ratio <= 0.8 + 1e-12
            closest = max(closest, ratio)
    assert closest == pytest.approx(0.8)


@pytest.mark.equation("eq-stop-bound")
def test_the_change_bounds_the_error():
    tight = 0.0
    for seed, gamma in itertools.product(range(20), (0.5, 0.9, 0.99)):
        mdp, _ = random_case(seed, n_states=4, n_actions=2, gamma=gamma)
        V_star, V = every_policy(mdp)[0].max(0), np.zeros(4)
        for _ in range(40):
            V_old, V = V, action_values(mdp, V).max(-1)
            error, bound = np.abs(V - V_star).max(), gamma / (1 - gamma) * np.abs(V - V_old).max()
            assert error <= bound + 1e-9
            tight = max(tight, error / bound)
    assert tight > 0.9


@pytest.mark.equation("eq-greedy-loss")
def test_a_greedy_policy_for_wrong_values_loses_a_bounded_amount():
    worst = 0.0
    for seed in range(100):
        mdp, _ = random_case(seed, n_states=4, n_actions=2, gamma=0.7)
        V_star = every_policy(mdp)[0].max(0)
        wrong = V_star + np.random.default_rng(seed).uniform(-1, 1, 4)
        epsilon = np.abs(wrong - V_star).max()
        greedy = np.eye(2)[action_values(mdp, wrong).argmax(1)]
        loss = (V_star - long_sum(mdp, greedy, 60)[0]).max()
        assert loss <= 2 * 0.7 * epsilon / 0.3 + 1e-9
        worst = max(worst, loss)
    assert worst > 0.3


@pytest.mark.equation("eq-span-bounds")
def test_the_smallest_and_largest_change_enclose_the_optimum():
    for seed, gamma in itertools.product(range(20), (0.5, 0.9, 0.99)):
        mdp, _ = random_case(seed, n_states=4, n_actions=2, gamma=gamma)
        V_star, V = every_policy(mdp)[0].max(0), np.random.default_rng(seed).normal(size=4)
        for _ in range(20):
            V_old, V = V, action_values(mdp, V).max(-1)
            c = gamma / (1 - gamma)
            assert (V + c * (V - V_old).min() <= V_star + 1e-9).all()
            assert (V + c * (V - V_old).max() >= V_star - 1e-9).all()


def test_sparse_value_iteration_is_accurate_and_takes_padding():
    rng = np.random.default_rng(0)
    for gamma in (0.0, 0.9, 0.99):
        lists = garnet_lists(rng, 5, 2, 3)
        padded = [np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1) for x in lists]
        P, R = np.zeros((5, 2, 5)), np.zeros((5, 2, 5))
        for x, where in ((lists[1], P), (lists[2], R)):
            np.put_along_axis(where, lists[0], x, axis=-1)
        mdp = helpdesk()._replace(P=P, R=R, gamma=gamma)
        for data in (lists, padded):
            V, _ = sparse_value_iteration(*data, gamma, 1e-7)
            assert np.abs(V - every_policy(mdp)[0].max(0)).max() <= 1.01e-7


def test_a_table_that_goes_round_trip_is_unchanged():
    from rlcourse.envs.table_env import transition_table

    mdp = helpdesk()
    P, R, terminal = tables_from_gym(transition_table(mdp))
    np.testing.assert_array_equal(P, mdp.P)
    np.testing.assert_allclose(R, mdp.R)
    np.testing.assert_array_equal(terminal, mdp.terminal)


def test_the_numbers_in_the_drawings_are_true():
    """Every value drawn in the backup diagrams follows from the help desk's tables."""
    mdp, pi = helpdesk(), np.full((4, 2), 0.5)
    V, Q = long_sum(mdp, pi)
    best, choices = every_policy(mdp)
    V_star = best.max(0)
    Q_star = action_values(mdp, V_star)
    rounds = [best[choices.index(c)] for c in ((1, 1, 1, 0), (0, 0, 0, 0), (1, 0, 1, 0))]
    wanted = {
        "bellman-idea": [V[0]],
        "bellman-backup-v": [*V[:3], *Q[0]],
        "bellman-backup-q": [*V[1:3], *Q[1], *Q[2], *V_star[1:3], *Q_star[1], *Q_star[2]],
        "bellman-policy-iteration": [v for V in rounds for v in V[:3]],
    }
    for name, values in wanted.items():
        text = (FIGURES / f"{name}.svg").read_text(encoding="utf-8").replace("−", "-")
        drawn = set(re.findall(r"-?\d+\.\d\d(?=<)", text))
        assert drawn == {f"{v:.2f}" for v in values}, name
