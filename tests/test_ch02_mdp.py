"""Graders of chapter 2."""

import itertools
import math

import numpy as np

from rlcourse.envs import TabularMDP, helpdesk
from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "expected_rewards": {
        "title": "The expected reward of an action",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-expected-reward",
    },
    "sample_trajectory": {
        "title": "Play one episode",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": None,
    },
    "trajectory_logprob": {
        "title": "How likely was that?",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-trajectory-probability",
    },
    "discounted_return": {
        "title": "The return, from the end",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-return",
    },
    "returns_to_go": {
        "title": "The return of every step",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-return-recursion",
    },
    "monte_carlo_objective": {
        "title": "An estimate and how far to trust it",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-monte-carlo",
    },
    "enumerate_trajectories": {
        "title": "Every possible episode",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": "eq-objective",
    },
}

NEW, INFORMED, CONFUSED, CLOSED = range(4)
ANSWER, SEARCH = range(2)
PI = np.array([[0.3, 0.7], [0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])  # a policy for the help desk
WAY = [NEW, INFORMED, CONFUSED, INFORMED, CLOSED], [SEARCH, ANSWER, SEARCH, ANSWER]


def random_mdp(states=3, actions=2, seed=0):
    """A stochastic MDP without a terminal state, and a stochastic policy for it."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(states), size=(states, actions))
    R = rng.normal(size=(states, actions, states)).round(1)
    rho0 = rng.dirichlet(np.ones(states))
    pi = rng.dirichlet(np.ones(actions), size=states)
    return TabularMDP(P, R, rho0, 0.9, np.zeros(states, dtype=bool)), pi


# --- expected_rewards


def test_expected_rewards_of_the_help_desk(expected_rewards):
    """Each outcome counts with its probability."""
    mdp = helpdesk()
    got = expect_shape(expected_rewards(mdp.P, mdp.R), (4, 2), "the table R(s, a) of the help desk")
    expect_close(got[NEW, ANSWER], 1.6, "R(new, answer), by hand 0.4 x 10 - 0.6 x 4")
    expect_close(got[INFORMED, ANSWER], 8.6, "R(informed, answer), by hand 0.9 x 10 - 0.1 x 4")
    expect_close(got[:3, SEARCH], [-1.0, -1.0, -1.0], "R(s, search) for the three open states")
    expect_close(got[CLOSED], [0.0, 0.0], "R(closed, a)")


def test_expected_rewards_by_brute_force(expected_rewards):
    """R(s, a) is the sum over s' of probability times reward, on any MDP."""
    mdp, _ = random_mdp(states=3, actions=4, seed=1)
    got = expect_shape(expected_rewards(mdp.P, mdp.R), (3, 4), "R(s, a) of 3 states and 4 actions")
    for s, a in itertools.product(range(3), range(4)):
        want = sum(mdp.P[s, a, n] * mdp.R[s, a, n] for n in range(3))
        expect_close(got[s, a], want, f"R({s}, {a}) of a random MDP")


def test_expected_rewards_ignores_the_impossible(expected_rewards):
    """The reward written at an impossible transition plays no part."""
    mdp = helpdesk()
    R = np.where(mdp.P > 0, mdp.R, 1000.0)
    got = expected_rewards(mdp.P.copy(), R)
    expect_close(np.asarray(got)[NEW, SEARCH], -1.0, "R(new, search), with 1000 at impossible transitions")


def test_expected_rewards_keeps_its_input(expected_rewards):
    """The tables are not changed."""
    mdp = helpdesk()
    P, R = mdp.P.copy(), mdp.R.copy()
    expected_rewards(P, R)
    expect_unchanged(mdp.P, P, "P")
    expect_unchanged(mdp.R, R, "R")


# --- sample_trajectory: shares are rounded to one decimal, so that another use of rng says the same


def play(sample_trajectory, mdp, pi, episodes=400, max_steps=50):
    rng = np.random.default_rng(0)
    return [sample_trajectory(mdp, pi, rng, max_steps) for _ in range(episodes)]


def share_of(values, size):
    return np.round(np.bincount(values, minlength=size) / max(len(values), 1), 1)


def test_sample_trajectory_counts(sample_trajectory):
    """T actions and T rewards stand between T + 1 states."""
    for states, actions, rewards, _ in play(sample_trajectory, helpdesk(), PI, 20):
        expect_equal(len(states) - len(actions), 1, "number of states minus number of actions")
        expect_equal(len(rewards) - len(actions), 0, "number of rewards minus number of actions")


def test_sample_trajectory_starts_from_rho0(sample_trajectory):
    """The first state is drawn from rho0."""
    mdp = helpdesk()._replace(rho0=np.array([0.2, 0.3, 0.5, 0.0]))
    first = [states[0] for states, *_ in play(sample_trajectory, mdp, PI, max_steps=1)]
    expect_close(share_of(first, 4), [0.2, 0.3, 0.5, 0.0], "shares of the first states", atol=0.11)


def test_sample_trajectory_draws_actions_from_the_policy(sample_trajectory):
    """In every state the action is drawn from the policy's row of that state."""
    mdp = helpdesk()._replace(rho0=np.ones(4) / 4)
    taken = {s: [] for s in range(4)}
    for states, actions, *_ in play(sample_trajectory, mdp, PI, max_steps=1):
        if len(actions):
            taken[int(states[0])].append(int(actions[0]))
    for s, name in enumerate(["new", "informed", "confused"]):
        if taken[s]:
            expect_close(share_of(taken[s], 2), PI[s], f"shares of the actions in {name}", atol=0.16)


def test_sample_trajectory_draws_next_states_from_the_world(sample_trajectory):
    """The next state is drawn from P[s, a], for every step of the episode."""
    mdp = helpdesk()
    followed = {}
    for states, actions, *_ in play(sample_trajectory, mdp, np.full((4, 2), 0.5)):
        for s, a, n in zip(states, actions, states[1:], strict=False):
            followed.setdefault((int(s), int(a)), []).append(int(n))
    for s, a in itertools.product(range(3), range(2)):
        if len(followed.get((s, a), [])) > 50:
            what = f"shares of the states after {mdp.states[s]}, {mdp.actions[a]}"
            expect_close(share_of(followed[s, a], 4), mdp.P[s, a], what, atol=0.16)


def test_sample_trajectory_rewards_belong_to_the_transition(sample_trajectory):
    """rewards[t] is R[s, a, s'] of the step from states[t] by actions[t] to states[t + 1]."""
    mdp, pi = random_mdp(states=3)
    rng = np.random.default_rng(0)
    states, actions, rewards, _ = sample_trajectory(mdp, pi, rng, 30)
    wrong = [
        t
        for t, (s, a, n) in enumerate(zip(states, actions, states[1:], strict=False))
        if not np.isclose(rewards[t], mdp.R[s, a, n])
    ]
    expect_true(not wrong, "there are steps whose reward is not R[s, a, s'] of that step")


def test_sample_trajectory_stops_in_a_terminal_state(sample_trajectory):
    """No action is taken in a terminal state."""
    mdp = helpdesk()
    for states, *_ in play(sample_trajectory, mdp, PI, 30):
        early = [s for s in states[:-1] if mdp.terminal[s]]
        expect_true(not early, "an episode went on after the ticket was closed")
    mdp = mdp._replace(rho0=np.eye(4)[CLOSED])
    states, actions, _, terminated = sample_trajectory(mdp, PI, np.random.default_rng(0), 5)
    expect_equal(len(actions), 0, "number of actions of an episode that starts in a terminal state")
    expect_equal(bool(terminated), True, "terminated, for an episode that starts in a terminal state")


def test_sample_trajectory_tells_truncation_from_termination(sample_trajectory):
    """terminated says whether the last state is terminal, however many steps there were."""
    endless = np.tile([0.0, 1.0], (4, 1))  # always search
    mdp = helpdesk()
    _, actions, _, terminated = sample_trajectory(mdp, endless, np.random.default_rng(0), 7)
    expect_equal(len(actions), 7, "number of actions with max_steps = 7 if no ticket is ever closed")
    expect_equal(bool(terminated), False, "terminated, when max_steps ended the episode")
    P = np.zeros((4, 2, 4))
    P[:, :, CLOSED] = 1.0  # whatever you do, the ticket is closed
    _, actions, _, terminated = sample_trajectory(mdp._replace(P=P), PI, np.random.default_rng(0), 1)
    expect_equal(bool(terminated), True, "terminated, when the last step allowed closed the ticket")


def test_sample_trajectory_uses_the_generator(sample_trajectory):
    """All randomness comes from rng: the same seed repeats the episode, the next call plays another."""
    mdp, pi = random_mdp(states=3)

    def draw(rng):
        states, actions, *_ = sample_trajectory(mdp, pi, rng, 30)
        return [int(x) for x in states], [int(x) for x in actions]

    same = draw(np.random.default_rng(5)) == draw(np.random.default_rng(5))
    expect_true(same, "two generators with the same seed gave two different episodes")
    rng = np.random.default_rng(5)
    expect_true(draw(rng) != draw(rng), "two calls with one generator gave the same 30 steps")


# --- trajectory_logprob


def test_trajectory_logprob_by_hand(trajectory_logprob):
    """Start, choices and transitions all count: log rho0 + log pi + log P."""
    want = math.log(0.8 * (0.7 * 0.8) * (0.9 * 0.1) * (0.8 * 0.5) * (0.9 * 0.9))
    got = trajectory_logprob(*WAY, helpdesk(), PI)
    expect_close(got, want, "log-probability of new, informed, confused, informed, closed")


def test_trajectory_logprob_without_steps(trajectory_logprob):
    """Without a step only the start counts."""
    got = trajectory_logprob([CONFUSED], [], helpdesk(), PI)
    expect_close(got, math.log(0.2), "log-probability of starting in confused, with no step")


def test_trajectory_logprob_sums_to_one(trajectory_logprob):
    """The probabilities of all trajectories of two steps sum to 1."""
    mdp, pi = random_mdp(states=3, actions=2, seed=2)
    total = sum(
        math.exp(trajectory_logprob(list(states), list(actions), mdp, pi))
        for states in itertools.product(range(3), repeat=3)
        for actions in itertools.product(range(2), repeat=2)
    )
    expect_close(total, 1.0, "sum of exp(log-probability) over all trajectories of two steps")


def test_trajectory_logprob_of_the_impossible(trajectory_logprob):
    """An impossible trajectory has log-probability -inf."""
    got = trajectory_logprob([NEW, CLOSED], [SEARCH], helpdesk(), PI)
    expect_close(got, -math.inf, "log-probability of closing a ticket by a search")


def test_trajectory_logprob_of_a_long_trajectory(trajectory_logprob):
    """A long trajectory is unlikely, not impossible: sum logs, do not multiply probabilities."""
    got = trajectory_logprob([CONFUSED] * 2001, [ANSWER] * 2000, helpdesk(), PI)
    want = math.log(0.2) + 2000 * math.log(0.2 * 0.8)
    expect_close(got, want, "log-probability of 2000 wrong answers in a row")


# --- discounted_return


def test_discounted_return_values(discounted_return):
    """The return adds up the rewards, each discounted once per step of delay."""
    expect_close(discounted_return([1.0, 2.0, 4.0], 0.5), 3.0, "the return of rewards 1, 2, 4 with gamma 0.5")
    got = discounted_return([-1.0, -4.0, -1.0, 10.0], 0.9)
    expect_close(got, 1.88, "the return of rewards -1, -4, -1, 10 with gamma 0.9")


def test_discounted_return_extremes(discounted_return):
    """gamma = 0 keeps the first reward only, gamma = 1 adds all; no rewards make a return of 0."""
    expect_close(discounted_return([3.0, 5.0], 0.0), 3.0, "the return of 3, 5 with gamma 0")
    expect_close(discounted_return([3.0, 5.0], 1.0), 8.0, "the return of 3, 5 with gamma 1")
    expect_close(discounted_return([7.0], 0.9), 7.0, "the return of a single reward of 7")
    expect_close(discounted_return([], 0.9), 0.0, "the return of an empty episode")


def test_discounted_return_keeps_its_input(discounted_return):
    """The list of rewards is not changed."""
    rewards = [1.0, 2.0]
    discounted_return(rewards, 0.5)
    expect_unchanged([1.0, 2.0], rewards, "rewards")


# --- returns_to_go


def test_returns_to_go_by_hand(returns_to_go):
    """G_t adds up the rewards from R_{t+1} on, discounted from step t."""
    got = returns_to_go([-1.0, -4.0, -1.0, 10.0], 0.9)
    expect_close(got, [1.88, 3.2, 8.0, 10.0], "the returns of rewards -1, -4, -1, 10 with gamma 0.9")


def test_returns_to_go_by_definition(returns_to_go):
    """Every G_t is the discounted sum of what is still to come, on a long random episode."""
    rewards = np.random.default_rng(3).normal(size=50)
    want = [sum(0.97**k * r for k, r in enumerate(rewards[t:])) for t in range(50)]
    expect_close(returns_to_go(rewards.copy(), 0.97), want, "the returns of 50 random rewards")


def test_returns_to_go_of_integers(returns_to_go):
    """Integer rewards have fractional returns."""
    got = returns_to_go(np.array([1, 1, 1]), 0.5)
    expect_close(got, [1.75, 1.5, 1.0], "the returns of the integer rewards 1, 1, 1 with gamma 0.5")


def test_returns_to_go_extremes(returns_to_go):
    """gamma = 0 gives the rewards themselves, gamma = 1 plain sums; an empty episode has no returns."""
    expect_close(returns_to_go([3.0, 5.0], 0.0), [3.0, 5.0], "the returns of 3, 5 with gamma 0")
    expect_close(returns_to_go([3.0, 5.0], 1.0), [8.0, 5.0], "the returns of 3, 5 with gamma 1")
    expect_shape(returns_to_go([], 0.9), (0,), "the returns of an empty episode")


def test_returns_to_go_keeps_its_input(returns_to_go):
    """The rewards are not changed."""
    rewards = np.array([1.0, 2.0, 4.0])
    returns_to_go(rewards, 0.5)
    expect_unchanged([1.0, 2.0, 4.0], rewards, "rewards")


# --- monte_carlo_objective


def scripted(values):
    """A sample_return that gives these values in turn, and the list of calls made."""
    calls, values = [], itertools.cycle(values)

    def sample_return():
        calls.append(1)
        return next(values)

    return sample_return, calls


def test_monte_carlo_objective_mean(monte_carlo_objective):
    """The estimate is the mean of the returns."""
    mean, _ = monte_carlo_objective(scripted([1.0, 2.0, 4.0, 9.0])[0], 4)
    expect_close(mean, 4.0, "the mean of the returns 1, 2, 4, 9")


def test_monte_carlo_objective_standard_error(monte_carlo_objective):
    """The standard error is the sample standard deviation over the square root of the number of episodes."""
    _, stderr = monte_carlo_objective(scripted([1.0, 2.0, 4.0, 9.0])[0], 4)
    want = math.sqrt((9 + 4 + 0 + 25) / 3 / 4)
    expect_close(stderr, want, "the standard error of the returns 1, 2, 4, 9")


def test_monte_carlo_objective_plays_each_episode_once(monte_carlo_objective):
    """It plays exactly as many episodes as asked for."""
    sample_return, calls = scripted([1.0, 0.0])
    monte_carlo_objective(sample_return, 10)
    expect_equal(len(calls), 10, "number of episodes played for episodes = 10")


def test_monte_carlo_objective_covers_the_truth(monte_carlo_objective):
    """An interval of 1.96 standard errors covers the true mean in about 95% of the cases."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        mean, stderr = monte_carlo_objective(lambda: rng.exponential(5.0), 100)
        covered += abs(mean - 5.0) < 1.96 * stderr
    enough = 170 <= covered <= 198
    expect_true(
        enough, "1.96 standard errors around the mean should cover the truth in about 95% of 200 runs"
    )


def test_monte_carlo_objective_needs_two_episodes(monte_carlo_objective):
    """One episode says nothing about the spread."""
    expect_raises(
        ValueError, lambda: monte_carlo_objective(lambda: 1.0, 1), "monte_carlo_objective with episodes = 1"
    )


# --- enumerate_trajectories


def table_of(found):
    """(states, actions) -> probability."""
    return {(tuple(map(int, t[0])), tuple(map(int, t[1]))): float(p) for p, t in found}


def test_enumerate_trajectories_by_hand(enumerate_trajectories):
    """After one step of the help desk there are eight cases, each with rho0 x pi x P."""
    got = table_of(enumerate_trajectories(helpdesk(), PI, 1))
    want = {
        ((NEW, CONFUSED), (ANSWER,)): 0.8 * 0.3 * 0.6,
        ((NEW, CLOSED), (ANSWER,)): 0.8 * 0.3 * 0.4,
        ((NEW, NEW), (SEARCH,)): 0.8 * 0.7 * 0.2,
        ((NEW, INFORMED), (SEARCH,)): 0.8 * 0.7 * 0.8,
        ((CONFUSED, CONFUSED), (ANSWER,)): 0.2 * 0.2 * 0.8,
        ((CONFUSED, CLOSED), (ANSWER,)): 0.2 * 0.2 * 0.2,
        ((CONFUSED, INFORMED), (SEARCH,)): 0.2 * 0.8 * 0.5,
        ((CONFUSED, CONFUSED), (SEARCH,)): 0.2 * 0.8 * 0.5,
    }
    expect_equal(sorted(got), sorted(want), "the (states, actions) of horizon 1")
    for key, p in want.items():
        expect_close(got[key], p, f"probability of states {key[0]}, actions {key[1]}")


def test_enumerate_trajectories_sums_to_one(enumerate_trajectories):
    """The probabilities of all trajectories sum to 1, at every horizon."""
    for horizon in (0, 1, 3):
        total = sum(p for p, _ in enumerate_trajectories(helpdesk(), PI, horizon))
        expect_close(total, 1.0, f"sum of the probabilities at horizon {horizon}")


def test_enumerate_trajectories_lists_each_once(enumerate_trajectories):
    """No trajectory is left out, and none stands there twice."""
    found = enumerate_trajectories(helpdesk(), PI, 4)
    expect_equal(len(found), 242, "number of trajectories at horizon 4")
    expect_equal(len(table_of(found)), 242, "number of different trajectories at horizon 4")


def test_enumerate_trajectories_leaves_out_the_impossible(enumerate_trajectories):
    """An action that the policy never takes makes no trajectory."""
    careful = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = enumerate_trajectories(helpdesk(), careful, 2)
    expect_equal(len(found), 8, "number of trajectories at horizon 2 under a deterministic policy")


def test_enumerate_trajectories_rewards_and_ends(enumerate_trajectories):
    """Rewards are those of the transitions, terminated says whether the last state is terminal."""
    mdp = helpdesk()
    for _, (states, actions, rewards, terminated) in enumerate_trajectories(mdp, PI, 3):
        want = [mdp.R[s, a, n] for s, a, n in zip(states, actions, states[1:], strict=False)]
        expect_true(np.allclose(rewards, want), "there are rewards that are not R[s, a, s'] of their step")
        is_end = bool(mdp.terminal[states[-1]])
        expect_true(terminated == is_end, "there are trajectories whose `terminated` is wrong")


def test_enumerate_trajectories_gives_the_objective(enumerate_trajectories):
    """Probability times return, summed up, is the expected discounted reward of those steps."""
    mdp, pi = random_mdp(states=3, actions=2, seed=4)
    total = sum(
        p * sum(mdp.gamma**k * r for k, r in enumerate(t[2])) for p, t in enumerate_trajectories(mdp, pi, 3)
    )
    P_pi = sum(np.diag(pi[:, a]) @ mdp.P[:, a] for a in range(2))
    r_pi = sum(pi[:, a] * (mdp.P[:, a] * mdp.R[:, a]).sum(1) for a in range(2))
    want = sum(0.9**k * mdp.rho0 @ np.linalg.matrix_power(P_pi, k) @ r_pi for k in range(3))
    expect_close(total, want, "sum of probability times return over three steps of a random MDP")
