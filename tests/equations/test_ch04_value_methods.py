"""Numerical tests of the labelled equations of chapter 4, by enumeration, linear algebra, autograd."""

import itertools

import numpy as np
import pytest
import torch

from rlcourse.envs.table_env import TableEnv, transition_table
from rlcourse.envs.tables import helpdesk
from solutions import ch04_value_methods as ch04

MDP = helpdesk()
LIVE = ~MDP.terminal


def values_of(pi):
    """Q of a policy, by a linear solve over pairs of state and action."""
    S, A = MDP.P.shape[:2]
    step = np.einsum("san,nb->sanb", MDP.P, pi * LIVE[:, None]).reshape(S * A, S * A)
    rewards = (MDP.P * MDP.R).sum(2).ravel()
    return np.linalg.solve(np.eye(S * A) - MDP.gamma * step, rewards).reshape(S, A)


def q_star():
    """The best over all deterministic policies, entry by entry: no maximum inside a recursion."""
    choices = itertools.product(range(2), repeat=4)
    return np.max([values_of(np.eye(2)[list(choice)]) for choice in choices], axis=0)


def outcomes(s, a):
    """(probability, next state, reward, terminated) of one pair."""
    return transition_table(MDP)[s][a]


def mean_target(Q, s, a):
    return sum(p * (r + MDP.gamma * (0 if end else max(Q[n]))) for p, n, r, end in outcomes(s, a))


@pytest.mark.equation("eq-q-fixed-point")
def test_q_star_is_the_mean_of_its_own_targets():
    Q, rng = q_star(), np.random.default_rng(0)
    for s, a in itertools.product(range(3), range(2)):
        assert mean_target(Q, s, a) == pytest.approx(Q[s, a])
    n = rng.choice(4, size=50_000, p=MDP.P[0, 1])  # the expectation by sampling, too
    draws = MDP.R[0, 1, n] + MDP.gamma * Q[n].max(1) * LIVE[n]
    assert draws.mean() == pytest.approx(Q[0, 1], abs=4 * draws.std() / len(draws) ** 0.5)


@pytest.mark.equation("eq-td-error")
def test_td_error_is_the_gap_to_the_target():
    rng = np.random.default_rng(1)
    for s, a in itertools.product(range(3), range(2)):
        for _, n, r, end in outcomes(s, a):
            Q = rng.normal(size=(4, 2))
            targets = [r + MDP.gamma * (1 - end) * q for q in Q[n]]
            delta = ch04.q_learning_update(Q.tolist(), s, a, r, n, end, 0.1, MDP.gamma)
            assert delta == pytest.approx(max(targets) - Q[s, a])  # max of the targets = target of the max


@pytest.mark.equation("eq-mean-td-error")
def test_mean_td_error_is_the_bellman_residual():
    Q = np.random.default_rng(2).normal(size=(4, 2))
    backup = (MDP.P * (MDP.R + MDP.gamma * Q.max(1) * LIVE)).sum(2)
    best = q_star()
    for s, a in itertools.product(range(3), range(2)):
        for table, want in ((Q, backup[s, a] - Q[s, a]), (best, 0.0)):
            errors = [
                p * ch04.q_learning_update(table.tolist(), s, a, r, n, end, 0.1, MDP.gamma)
                for p, n, r, end in outcomes(s, a)
            ]
            assert sum(errors) == pytest.approx(want, abs=1e-9)


@pytest.mark.equation("eq-q-learning")
def test_q_learning_is_gradient_descent_on_half_the_squared_error():
    """With the target held constant the update is one step of size alpha down 1/2 (y - Q)^2."""
    Q = torch.tensor(np.random.default_rng(3).normal(size=(4, 2)), requires_grad=True)
    s, a, r, n, alpha = 1, 0, -4.0, 2, 0.3
    y = (r + MDP.gamma * Q[n].max()).detach()
    (0.5 * (y - Q[s, a]) ** 2).backward()
    want = (Q - alpha * Q.grad).detach().numpy()
    table = Q.tolist()
    ch04.q_learning_update(table, s, a, r, n, False, alpha, MDP.gamma)
    np.testing.assert_allclose(table, want)


@pytest.mark.equation("eq-sarsa")
def test_sarsa_stands_still_on_average_at_the_values_of_the_policy_followed():
    pi = np.random.default_rng(4).dirichlet([1, 1], size=4)
    Q, alpha = values_of(pi), 0.2
    for s, a in itertools.product(range(3), range(2)):
        moves = []
        for (p, n, r, end), b in itertools.product(outcomes(s, a), range(2)):
            table = Q.tolist()
            ch04.sarsa_update(table, s, a, r, n, b, end, alpha, MDP.gamma)
            moves.append(p * pi[n, b] * (table[s][a] - Q[s, a]))
        assert sum(moves) == pytest.approx(0, abs=1e-10)


@pytest.mark.equation("eq-expected-sarsa")
def test_expected_sarsa_is_the_mean_over_the_next_action_with_less_variance():
    rng, q, eps = np.random.default_rng(5), [1.0, 4.0, -4.0], 0.3
    targets = np.array([2.0 + 0.5 * q[ch04.epsilon_greedy(q, eps, rng)] for _ in range(40_000)])
    mean = 2 + 0.5 * (0.1 * 1 + 0.8 * 4 + 0.1 * -4)
    assert ch04.expected_sarsa_target(q, 2.0, False, eps, 0.5) == pytest.approx(mean)
    assert targets.mean() == pytest.approx(mean, abs=4 * targets.std() / 200)
    assert targets.var() > 1


@pytest.mark.equation("eq-robbins-monro")
def test_which_powers_obey_the_two_conditions():
    """Growth of the partial sums from n = 1e3 to 1e6: without end, or settled."""

    def grows(power):
        n = np.arange(1, 10**6 + 1, dtype=float)
        return (n**-power)[1000:].sum() > 1.0  # a convergent tail is below 1 for powers of 1.2 and more

    table = ((0.0, True, True), (0.8, True, False), (1.0, True, False), (2.0, False, False))
    for omega, sum_diverges, squares_diverge in table:
        assert grows(omega) == sum_diverges
        assert grows(2 * omega) == squares_diverge


@pytest.mark.equation("eq-step-size")
def test_step_size_one_over_n_gives_the_plain_mean():
    """omega = 1: after n updates the entry is the mean of the n targets, whatever it was at first."""
    y = np.random.default_rng(6).normal(size=50)
    Q, counts = [[123.0]], [[0]]
    for target in y:
        alpha = ch04.visit_step_size(counts, 0, 0, 1.0)
        ch04.q_learning_update(Q, 0, 0, target, 0, True, alpha, 0.9)
    assert Q[0][0] == pytest.approx(y.mean())
    counts = [[0]]
    sizes = [ch04.visit_step_size(counts, 0, 0, 0.8) for _ in range(100)]
    assert np.log(sizes[99] / sizes[9]) / np.log(10) == pytest.approx(-0.8)  # the slope on log axes


@pytest.mark.equation("eq-max-bias")
def test_the_mean_of_the_maximum_is_at_least_the_maximum_of_the_means():
    coins = list(itertools.product((1.0, -1.2), repeat=4))  # all results of four coins
    assert np.mean([max(c) for c in coins]) == pytest.approx(1.0 - 2.2 / 16)
    assert max(np.mean(coins, axis=0)) == pytest.approx(-0.1)
    rng = np.random.default_rng(7)
    for _ in range(100):
        joint = rng.normal(size=(6, 3))  # any joint distribution: six equally likely rows
        assert joint.max(1).mean() >= joint.mean(0).max() - 1e-12


@pytest.mark.equation("eq-double-q")
def test_two_independent_tables_are_never_too_high():
    """All pairs of independent coin tables: the mean target is at most the true best value."""
    coins = list(itertools.product((1.0, -1.2), repeat=3))
    single = np.mean([max(c) for c in coins])
    double = []
    for mine, other in itertools.product(coins, coins):
        tables = [[0.0], [*mine]], [[0.0], [*other]]
        double.append(ch04.double_q_update(*tables, 0, 0, 0.0, 1, False, 0.1, 1.0))
    assert np.mean(double) == pytest.approx(-0.1) and single > 0.5
    # unequal means: action 0 is worth 1, the others -0.1; double is too low, never too high
    raised = [[c[0] + 1.1, *c[1:]] for c in coins]
    low = [
        ch04.double_q_update([[0.0], m], [[0.0], o], 0, 0, 0.0, 1, False, 0.1, 1.0)
        for m, o in itertools.product(raised, raised)
    ]
    assert np.mean(low) < 1.0


@pytest.mark.equation("eq-n-step")
def test_n_step_targets_telescope_into_td_errors():
    """With values V along the log, a target minus V is the discounted sum of one-step errors."""
    rng, T, n, gamma = np.random.default_rng(8), 12, 4, 0.9
    rewards, terminated, truncated = rng.normal(size=T), np.zeros(T, bool), np.zeros(T, bool)
    terminated[4], truncated[8] = True, True
    values = rng.normal(size=T)  # of the states in which the steps were taken
    next_values = np.append(values[1:], 0.5)
    next_values[[4, 8]] = 9.0, -2.0  # seen before the reset
    errors = rewards + gamma * next_values * ~terminated - values
    got = ch04.n_step_targets(rewards, next_values, terminated, truncated, n, gamma)
    last = [4] * 5 + [8] * 4 + [11] * 3
    for t in range(T):
        stop = min(t + n - 1, last[t])
        want = values[t] + sum(gamma ** (k - t) * errors[k] for k in range(t, stop + 1))
        assert got[t] == pytest.approx(want)


@pytest.mark.equation("eq-merged-value")
def test_value_when_every_tenth_step_is_taken_for_terminal():
    gamma, limit = 0.9, 10
    formula = 1 / (1 - gamma * (1 - 1 / limit))
    assert formula == pytest.approx(5.263, abs=1e-3)
    value, cut = 0.0, np.arange(100) % limit == limit - 1
    for _ in range(300):  # least squares on the merged targets: their mean
        value = np.mean(1 + gamma * np.where(cut, 0, value))
    assert value == pytest.approx(formula)
    # and by Q-learning with one action and 1/n-like steps
    env = TableEnv([[[(1.0, 0, 1.0, False)]]], 0, np.random.default_rng(0), max_steps=limit)
    Q, counts = [[0.0]], [[0]]
    for _ in range(20_000):
        env.reset()
        done = False
        while not done:
            _, r, _, done, _ = env.step(0)
            ch04.q_learning_update(Q, 0, 0, r, 0, done, ch04.visit_step_size(counts, 0, 0, 0.8), gamma)
    assert Q[0][0] == pytest.approx(formula, abs=0.1)


def networks():
    torch.manual_seed(0)
    online, target = (torch.nn.Linear(3, 4).double() for _ in range(2))
    obs, next_obs = torch.randn(2, 6, 3, dtype=torch.double)
    ends = torch.tensor([False, True, False, False, True, False])
    return online, target, (obs, torch.tensor([0, 1, 2, 3, 0, 1]), torch.randn(6).double(), next_obs, ends)


def loss_by_hand(online, target, batch, double):
    """Row by row, with numpy."""
    q, qt = (lambda x, f=f: f(x).detach().numpy() for f in (online, target))
    total = 0.0
    for x, a, r, y, end in zip(*batch, strict=True):
        value = qt(y)[int(q(y).argmax())] if double else qt(y).max()
        total += (float(r) + 0.9 * value * (not end) - q(x)[int(a)]) ** 2
    return total / len(batch[1])


@pytest.mark.equation("eq-dqn-loss")
def test_dqn_loss_and_its_semi_gradient():
    """The value row by row; the gradient by finite differences with the targets frozen."""
    online, target, batch = networks()
    loss = ch04.dqn_loss(online, target, batch, 0.9)
    assert loss.item() == pytest.approx(loss_by_hand(online, target, batch, False))
    loss.backward()
    numeric, h = torch.zeros_like(online.bias), 1e-6
    for i in range(4):  # the target network is another one, so moving the online bias freezes the targets
        for sign in (1, -1):
            with torch.no_grad():
                online.bias[i] += sign * h
                numeric[i] += sign * loss_by_hand(online, target, batch, False) / (2 * h)
                online.bias[i] -= sign * h
    torch.testing.assert_close(online.bias.grad, numeric, rtol=1e-5, atol=1e-7)


@pytest.mark.equation("eq-double-dqn")
def test_double_dqn_target():
    online, target, batch = networks()
    got = ch04.dqn_loss(online, target, batch, 0.9, double=True).item()
    assert got == pytest.approx(loss_by_hand(online, target, batch, True))
    assert got != pytest.approx(loss_by_hand(online, target, batch, False))
    same = ch04.dqn_loss(online, online, batch, 0.9, double=True).item()
    assert same == pytest.approx(loss_by_hand(online, online, batch, False))  # one network: both agree
