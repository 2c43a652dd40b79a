"""Numerical tests of the labelled equations of chapter 2, and of the numbers that its page and figure show.

Each equation is checked on the help desk or a random stochastic MDP against an independent computation:
exhaustive lists, simulation by another method, linear algebra, or arithmetic of another form.
"""

import functools
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from rlcourse.envs import TabularMDP, helpdesk

BOOK = Path(__file__).resolve().parents[2] / "book"
NEW, INFORMED, CONFUSED, CLOSED = range(4)
ANSWER, SEARCH = range(2)


def random_mdp(S=3, A=2, seed=0):
    """Tables of a stochastic MDP without terminal states, and a stochastic policy."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(S), size=(S, A))
    R = rng.normal(size=(S, A, S))
    mdp = TabularMDP(P, R, rng.dirichlet(np.ones(S)), 0.9, np.zeros(S, dtype=bool))
    return mdp, rng.dirichlet(np.ones(A), size=S)


def simulate(mdp, pi, steps, episodes, seed=0):
    """All episodes side by side, by inverse sampling: states (N, T + 1), actions (N, T), rewards (N, T)."""
    rng = np.random.default_rng(seed)

    def draw(p):  # (N, K) probabilities -> (N,)
        return (rng.random((len(p), 1)) > p.cumsum(1)[:, :-1]).sum(1)

    states = [draw(np.tile(mdp.rho0, (episodes, 1)))]
    actions, rewards = [], []
    for _ in range(steps):
        actions.append(draw(pi[states[-1]]))
        states.append(draw(mdp.P[states[-1], actions[-1]]))
        rewards.append(mdp.R[states[-2], actions[-1], states[-1]])
    return np.array(states).T, np.array(actions).T, np.array(rewards).T


def solved_values(mdp, pi):
    """V of a policy from the linear equations, an independent road to J."""
    P_pi = sum(np.diag(pi[:, a]) @ mdp.P[:, a] for a in range(pi.shape[1]))
    r_pi = sum(pi[:, a] * (mdp.P[:, a] * mdp.R[:, a]).sum(1) for a in range(pi.shape[1]))
    return np.linalg.solve(np.eye(len(r_pi)) - mdp.gamma * P_pi, r_pi)


def joint(mdp, choose, steps):
    """{(s0, a0, s1, a1, ...): probability}, every path; `choose(path)` gives the action probabilities."""
    paths = {(s,): p for s, p in enumerate(mdp.rho0) if p > 0}
    for _ in range(steps):
        paths = {
            (*path, a, n): p * q * mdp.P[path[-1], a, n]
            for path, p in paths.items()
            for a, q in enumerate(choose(path))
            for n in range(len(mdp.P))
            if p * q * mdp.P[path[-1], a, n] > 0
        }
    return paths


def conditional(paths, event, given):
    """Pr(event | given) over a dict of paths."""
    mass = sum(p for path, p in paths.items() if given(path))
    return sum(p for path, p in paths.items() if given(path) and event(path)) / mass


@pytest.mark.equation("eq-markov")
def test_markov_property():
    mdp, _ = random_mdp(seed=1)
    tendency = np.random.default_rng(2).dirichlet(np.ones(2), size=(3, 5))
    # even if the agent looks at the past, the world does not
    paths = joint(mdp, lambda path: tendency[path[-1], sum(path) % 5], steps=2)
    for s1, a1, s2 in itertools.product(range(3), range(2), range(3)):
        short = conditional(paths, lambda x, s2=s2: x[4] == s2, lambda x, w=(s1, a1): x[2:4] == w)
        for s0, a0 in itertools.product(range(3), range(2)):
            past = (s0, a0, s1, a1)
            long = conditional(paths, lambda x, s2=s2: x[4] == s2, lambda x, w=past: x[:4] == w)
            assert long == pytest.approx(short)


def test_the_observation_of_the_help_desk_is_not_markov():
    """The chapter's numbers 0.4 and 0.8."""
    paths = joint(helpdesk(), lambda path: [0.5, 0.5], steps=2)
    at_once = conditional(paths, lambda x: x[2] == CLOSED, lambda x: x[0] == NEW and x[1] == ANSWER)
    after_search = conditional(
        paths,
        lambda x: x[4] == CLOSED,
        lambda x: x[0] == NEW and x[1] == SEARCH and x[2] in (NEW, INFORMED) and x[3] == ANSWER,
    )
    assert (at_once, after_search) == (pytest.approx(0.4), pytest.approx(0.8))


@pytest.mark.equation("eq-transition")
def test_transition_probabilities():
    mdp = helpdesk()
    np.testing.assert_allclose(mdp.P.sum(-1), 1)
    states, actions, _ = simulate(mdp, np.full((4, 2), 0.5), steps=6, episodes=40_000)
    s, a, n = states[:, :-1].ravel(), actions.ravel(), states[:, 1:].ravel()
    counts = np.zeros((4, 2, 4))
    np.add.at(counts, (s, a, n), 1)
    visits = counts.sum(-1, keepdims=True)
    error = np.sqrt(mdp.P * (1 - mdp.P) / visits)
    assert visits.min() > 5000
    assert (np.abs(counts / visits - mdp.P) <= 4.5 * error).all()


@pytest.mark.equation("eq-expected-reward")
def test_expected_reward_is_the_conditional_mean():
    mdp, pi = random_mdp(seed=3)
    states, actions, rewards = simulate(mdp, pi, steps=5, episodes=60_000, seed=3)
    s, a, r = states[:, :-1].ravel(), actions.ravel(), rewards.ravel()
    for i, j in itertools.product(range(3), range(2)):
        x = r[(s == i) & (a == j)]
        formula = sum(mdp.P[i, j, n] * mdp.R[i, j, n] for n in range(3))
        assert abs(x.mean() - formula) < 4.5 * x.std() / len(x) ** 0.5


def test_the_chapters_expected_reward_of_answering_a_new_ticket():
    mdp = helpdesk()
    assert mdp.P[NEW, ANSWER] @ mdp.R[NEW, ANSWER] == pytest.approx(1.6)


@pytest.mark.equation("eq-policy")
def test_a_policy_is_a_distribution_in_every_state():
    mdp, pi = random_mdp(seed=4)
    np.testing.assert_allclose(pi.sum(1), 1)
    states, actions, _ = simulate(mdp, pi, steps=4, episodes=40_000, seed=4)
    for s in range(3):
        taken = actions[states[:, :-1] == s]
        assert abs((taken == 0).mean() - pi[s, 0]) < 4.5 * (0.25 / len(taken)) ** 0.5


@pytest.mark.equation("eq-trajectory-probability")
def test_trajectory_probability():
    mdp, pi = random_mdp(seed=5)
    states, actions, _ = simulate(mdp, pi, steps=2, episodes=200_000, seed=5)
    code = np.ravel_multi_index((*states.T, *actions.T), (3, 3, 3, 2, 2))
    seen = np.bincount(code, minlength=108) / len(code)
    formula = np.array(
        [
            mdp.rho0[s[0]] * np.prod([pi[s[t], a[t]] * mdp.P[s[t], a[t], s[t + 1]] for t in range(2)])
            for s in itertools.product(range(3), repeat=3)
            for a in itertools.product(range(2), repeat=2)
        ]
    )
    assert formula.sum() == pytest.approx(1)
    assert (np.abs(seen - formula) <= 4.5 * np.sqrt(formula / len(code))).all()


@pytest.mark.equation("eq-return")
def test_return_is_a_polynomial_in_gamma():
    rewards = np.random.default_rng(6).normal(size=9)
    for t, gamma in itertools.product(range(9), (0.0, 0.5, 0.9, 1.0)):
        formula = sum(gamma**k * rewards[t + k] for k in range(9 - t))
        assert formula == pytest.approx(np.polyval(rewards[t:][::-1], gamma))


@pytest.mark.equation("eq-return-recursion")
def test_return_recursion():
    rewards, gamma = np.random.default_rng(0).normal(size=7), 0.9
    returns = [sum(gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(8)]
    assert returns[7] == 0
    for t in range(7):
        assert returns[t] == pytest.approx(rewards[t] + gamma * returns[t + 1])


@pytest.mark.equation("eq-effective-horizon")
def test_the_weights_add_up_to_the_effective_horizon():
    for gamma in (0.0, 0.5, 0.9, 0.99):
        assert sum(gamma**k for k in range(5000)) == pytest.approx(1 / (1 - gamma))
    assert sum(0.99**k for k in range(100)) * (1 - 0.99) == pytest.approx(1 - 0.99**100)


@pytest.mark.equation("eq-random-stop")
def test_discounting_is_a_random_end():
    rng, gamma, rewards = np.random.default_rng(7), 0.8, np.random.default_rng(8).normal(size=200)
    discounted = sum(gamma**k * r for k, r in enumerate(rewards))
    # exactly: N = n has probability (1 - gamma) gamma^(n - 1), n = 1, 2, ...
    sums = rewards.cumsum()
    exact = sum((1 - gamma) * gamma ** (n - 1) * sums[n - 1] for n in range(1, 200))
    assert exact == pytest.approx(discounted)
    # and by drawing N
    drawn = sums[np.minimum(rng.geometric(1 - gamma, size=100_000), 200) - 1]
    assert abs(drawn.mean() - discounted) < 4.5 * drawn.std() / 100_000**0.5


@pytest.mark.equation("eq-objective")
def test_objective_is_the_sum_over_trajectories():
    mdp, pi = random_mdp(seed=9)
    J = sum(
        mdp.rho0[s[0]]
        * np.prod([pi[s[t], a[t]] * mdp.P[s[t], a[t], s[t + 1]] for t in range(3)])
        * sum(0.9**t * mdp.R[s[t], a[t], s[t + 1]] for t in range(3))
        for s in itertools.product(range(3), repeat=4)
        for a in itertools.product(range(2), repeat=3)
    )
    *_, rewards = simulate(mdp, pi, steps=3, episodes=200_000, seed=9)
    returns = rewards @ 0.9 ** np.arange(3)
    assert abs(returns.mean() - J) < 4.5 * returns.std() / 200_000**0.5


@pytest.mark.equation("eq-monte-carlo")
def test_standard_error_is_the_spread_of_estimates():
    mdp, pi = random_mdp(seed=10)
    *_, rewards = simulate(mdp, pi, steps=5, episodes=2_000 * 50, seed=10)
    studies = (rewards @ 0.9 ** np.arange(5)).reshape(2_000, 50)
    estimates = studies.mean(1)
    errors = np.sqrt(((studies - estimates[:, None]) ** 2).sum(1) / (50 * 49))
    assert np.sqrt((errors**2).mean()) == pytest.approx(estimates.std(), rel=0.08)
    covered = np.abs(estimates - studies.mean()) < 1.96 * errors
    assert 0.92 < covered.mean() < 0.97


@pytest.mark.equation("eq-tail-bound")
def test_tail_bound():
    mdp = helpdesk()
    pi = np.array([[0.3, 0.7], [0.8, 0.2], [0.4, 0.6], [0.5, 0.5]])
    J = mdp.rho0 @ solved_values(mdp, pi)
    widths = []
    for H in range(6):
        J_H, q_H = 0.0, 0.0
        for path, p in joint(mdp, lambda path: pi[path[-1]], H).items():
            s, a = path[::2], path[1::2]
            J_H += p * sum(0.9**t * mdp.R[s[t], a[t], s[t + 1]] for t in range(H))
            q_H += p * (s[-1] != CLOSED)
        tail = q_H * 0.9**H / (1 - 0.9)
        assert J_H + tail * -4 <= J <= J_H + tail * 10
        widths.append(tail * 14)
    assert np.all(np.diff(widths) < 0)


@pytest.mark.equation("eq-induced-chain")
def test_policy_and_world_make_a_chain():
    mdp, pi = random_mdp(seed=11)
    P_pi = np.einsum("sa,san->sn", pi, mdp.P)
    r_pi = np.einsum("sa,san,san->s", pi, mdp.P, mdp.R)
    states, _, rewards = simulate(mdp, pi, steps=4, episodes=80_000, seed=11)
    s, n, r = states[:, :-1].ravel(), states[:, 1:].ravel(), rewards.ravel()
    for i in range(3):
        here = s == i
        seen = np.bincount(n[here], minlength=3) / here.sum()
        assert (np.abs(seen - P_pi[i]) < 4.5 * np.sqrt(0.25 / here.sum())).all()
        assert abs(r[here].mean() - r_pi[i]) < 4.5 * r[here].std() / here.sum() ** 0.5


@pytest.mark.equation("eq-objective-states")
def test_objective_from_the_state_distribution():
    for mdp, pi in (random_mdp(seed=12), (helpdesk(), np.full((4, 2), 0.5))):
        P_pi = np.einsum("sa,san->sn", pi, mdp.P)
        r_pi = np.einsum("sa,san,san->s", pi, mdp.P, mdp.R)
        J = sum(mdp.gamma**t * mdp.rho0 @ np.linalg.matrix_power(P_pi, t) @ r_pi for t in range(400))
        assert J == pytest.approx(mdp.rho0 @ solved_values(mdp, pi))


@pytest.mark.equation("eq-objective-start")
def test_objective_is_the_mean_value_of_the_start():
    mdp = helpdesk()
    pi = np.full((4, 2), 0.5)
    returns = {}
    for s in (NEW, CONFUSED):
        *_, rewards = simulate(mdp._replace(rho0=np.eye(4)[s]), pi, steps=120, episodes=20_000, seed=s)
        returns[s] = rewards @ 0.9 ** np.arange(120)
    weighted = 0.8 * returns[NEW].mean() + 0.2 * returns[CONFUSED].mean()
    error = np.hypot(0.8 * returns[NEW].std(), 0.2 * returns[CONFUSED].std()) / 20_000**0.5
    *_, rewards = simulate(mdp, pi, steps=120, episodes=20_000, seed=13)
    J = rewards @ 0.9 ** np.arange(120)
    assert abs(J.mean() - weighted) < 4.5 * np.hypot(error, J.std() / 20_000**0.5)
    assert abs(weighted - mdp.rho0 @ solved_values(mdp, pi)) < 4.5 * error


# --- what the page and the figure say about the help desk


def table_of_the_page():
    rows = re.findall(
        r"^\| (\w+) \| (\w+) \| (\w+) \| ([\d.]+) \| ([+−]\d+) \|$",
        (BOOK / "ch02_mdp.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {row[:3]: (float(row[3]), float(row[4].replace("−", "-"))) for row in rows}


def table_of_the_code():
    mdp = helpdesk()
    return {
        (mdp.states[s], mdp.actions[a], mdp.states[n]): (mdp.P[s, a, n], mdp.R[s, a, n])
        for s, a, n in np.argwhere(mdp.P > 0)
        if not mdp.terminal[s]
    }


def test_the_page_shows_the_table_of_the_code():
    assert table_of_the_page() == table_of_the_code()
    np.testing.assert_allclose(helpdesk().rho0, [0.8, 0, 0.2, 0])
    assert helpdesk().gamma == 0.9


def test_the_figure_shows_the_table_of_the_code():
    svg = (BOOK / "figures" / "mdp-helpdesk.svg").read_text(encoding="utf-8")
    labels = {
        key: re.sub(r"<[^>]*>", " ", text).replace("−", "-").split()
        for key, text in re.findall(r'<text id="mdp-helpdesk-([\w-]+)"[^>]*>(.*?)</text>', svg)
    }
    for (s, a, n), (p, r) in table_of_the_code().items():
        shown = labels[f"{s}-{a}-{n}"]
        reward = shown[1] if len(shown) > 1 else labels[f"{s}-{a}"][-1]
        assert (float(shown[0]), float(reward)) == (p, r), (s, a, n)
    assert len(labels) == len(table_of_the_code()) + 6  # and one label for each of the six dots


def test_no_longer_memory_beats_the_last_action():
    """The best J over all policies on histories, by planning with beliefs; the chapter quotes 6.24."""
    mdp = helpdesk()
    R = (mdp.P * mdp.R).sum(-1)
    looks = np.array([0, 0, 1, 2])  # new and informed look alike

    @functools.cache
    def best(belief, steps):
        b = np.array(belief)
        if steps == 0 or b[CLOSED] == 1:
            return 0.0
        return max(b @ R[:, a] + 0.9 * after(tuple(b @ mdp.P[:, a]), steps - 1) for a in range(2))

    def after(mixed, steps):
        parts = [np.where(looks == o, mixed, 0.0) for o in range(3)]
        return sum(x.sum() * best(tuple((x / x.sum()).round(12)), steps) for x in parts if x.sum() > 0)

    history = after(tuple(mdp.rho0), 120)
    # "answer if the last action was a search, else search", on pairs (state, has just searched)
    states, J = {(NEW, False): 0.8, (CONFUSED, False): 0.2}, 0.0
    for t in range(200):
        following = {}
        for (s, searched), p in states.items():
            a = ANSWER if searched and looks[s] == 0 else SEARCH
            J += 0.9**t * p * R[s, a]
            for n in np.flatnonzero(mdp.P[s, a]):
                key = (int(n), a == SEARCH)
                following[key] = following.get(key, 0.0) + p * mdp.P[s, a, n]
        states = following
    assert pytest.approx(J, abs=1e-4) == history
    assert round(J, 2) == 6.24
