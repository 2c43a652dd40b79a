"""Graders of chapter 3."""

import itertools

import gymnasium as gym
import numpy as np

from rlcourse.envs import cliff, helpdesk
from rlcourse.envs.garnet import garnet
from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "action_values": {
        "title": "Action values from state values",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-q-from-v",
    },
    "advantages": {
        "title": "Advantages",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-advantage",
    },
    "evaluate_policy_exact": {
        "title": "Policy evaluation by a linear solve",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-bellman-matrix",
    },
    "greedy_policy": {
        "title": "The greedy policy, with ties",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-optimal-policy",
    },
    "policy_iteration": {
        "title": "Policy iteration",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-policy-improvement",
    },
    "value_iteration": {
        "title": "Value iteration with an honest stop",
        "difficulty": 3,
        "minutes": 25,
        "points": 20,
        "equation": "eq-stop-bound",
    },
    "tables_from_gym": {
        "title": "Tables from Gymnasium",
        "difficulty": 3,
        "minutes": 20,
        "points": 10,
        "equation": None,
    },
}

NEW, INFORMED, CONFUSED, CLOSED = range(4)


def small_mdp(seed, gamma=0.9, **sizes):
    return garnet(np.random.default_rng(seed), gamma=gamma, **sizes)


def random_policy(seed, mdp):
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.P.shape[1]), len(mdp.P))


def backup(mdp, V):
    """Action values by plain loops: the definition, one term at a time."""
    Q = np.zeros(mdp.P.shape[:2])
    for s, a, n in np.ndindex(mdp.P.shape):
        Q[s, a] += mdp.P[s, a, n] * (mdp.R[s, a, n] + mdp.gamma * V[n])
    return Q


def value_by_power_series(mdp, pi, steps=2**12):
    """V^pi as the sum of the mean rewards of the first `steps` steps, doubling their number each time."""
    P = np.einsum("sa,san->sn", pi, mdp.P) * mdp.gamma
    V = (pi * (mdp.P * mdp.R).sum(-1)).sum(-1)
    for _ in range(int(np.log2(steps))):
        V, P = V + P @ V, P @ P
    return V


def best_value(mdp):
    """V* as the largest value over all deterministic policies."""
    S, A, _ = mdp.P.shape
    choices = itertools.product(range(A), repeat=S)
    return np.max([value_by_power_series(mdp, np.eye(A)[list(c)]) for c in choices], axis=0)


def copies(mdp):
    return [np.copy(x) for x in (mdp.P, mdp.R, mdp.terminal)]


def expect_same_mdp(before, mdp):
    for old, new, name in zip(before, (mdp.P, mdp.R, mdp.terminal), ("P", "R", "terminal"), strict=True):
        expect_unchanged(old, new, f"mdp.{name}")


# The optimal values of the help desk, by hand: search when new or confused, answer when informed.
#   informed = 0.9 * 10 + 0.1 * (-4 + 0.9 confused)        = 8.6 + 0.09 confused
#   confused = 0.5 * (-1 + 0.9 informed) + 0.5 * (-1 + 0.9 confused)
#   new      = 0.8 * (-1 + 0.9 informed) + 0.2 * (-1 + 0.9 new)
BEST_INFORMED = (8.6 * 0.55 - 0.09) / (0.55 - 0.09 * 0.45)
BEST_CONFUSED = (0.45 * BEST_INFORMED - 1) / 0.55
BEST_NEW = (0.72 * BEST_INFORMED - 1) / 0.82
BEST = [BEST_NEW, BEST_INFORMED, BEST_CONFUSED, 0.0]


def test_action_values_by_hand(action_values):
    """The value of an action is the mean over next states of the reward plus gamma times the next value."""
    Q = action_values(helpdesk(), np.array([1.0, 2.0, 3.0, 0.0]))
    # answer: 0.4 * 10 + 0.6 * (-4 + 0.9 * 3);   search: -1 + 0.9 * (0.8 * 2 + 0.2 * 1)
    expect_close(expect_shape(Q, (4, 2), "Q")[NEW], [3.22, 0.62], "Q of state new")


def test_action_values_without_future(action_values):
    """With gamma = 0 the action values are the mean immediate rewards."""
    Q = action_values(helpdesk(gamma=0.0), np.array([9.0, 9.0, 9.0, 9.0]))
    expect_close(Q, [[1.6, -1], [8.6, -1], [-1.2, -1], [0, 0]], "Q of the help desk with gamma 0")


def test_action_values_on_random_mdps(action_values):
    """The whole table agrees with the sum written as a loop, on random stochastic MDPs."""
    for seed, sizes in enumerate([{"n_states": 5, "n_actions": 2}, {"n_states": 3, "n_actions": 3}]):
        mdp = small_mdp(seed, **sizes)
        V = np.random.default_rng(seed).normal(size=len(mdp.P))
        expect_close(action_values(mdp, V), backup(mdp, V), f"Q of random MDP {seed}")


def test_action_values_keeps_its_inputs(action_values):
    """Neither the tables nor V are changed."""
    mdp, V = helpdesk(), np.ones(4)
    before = copies(mdp)
    action_values(mdp, V)
    expect_same_mdp(before, mdp)
    expect_unchanged(np.ones(4), V, "V")


def test_advantages_by_hand(advantages):
    """The advantage compares an action with the policy's own average in the same state."""
    Q, pi = np.array([[2.0, 6.0], [-8.0, -4.0]]), np.array([[0.75, 0.25], [0.5, 0.5]])
    # averages 0.75 * 2 + 0.25 * 6 = 3 and -6
    expect_close(advantages(Q, pi), [[-1.0, 3.0], [-2.0, 2.0]], "the advantages")


def test_advantages_have_mean_zero(advantages):
    """Under the policy itself the mean advantage is 0 in every state."""
    rng = np.random.default_rng(1)
    Q, pi = rng.normal(size=(5, 3)) - 2, rng.dirichlet([1, 1, 1], 5)
    A = expect_shape(advantages(Q, pi), (5, 3), "the advantages")
    expect_close((pi * A).sum(1), np.zeros(5), "the mean advantage of each state")


def test_advantages_of_a_deterministic_policy(advantages):
    """The action that a deterministic policy takes has advantage 0; the others are measured against it."""
    A = advantages(np.array([[-1.0, -7.0, 4.0]]), np.array([[0.0, 1.0, 0.0]]))
    expect_close(A, [[6.0, 0.0, 11.0]], "the advantages")


def test_advantages_keep_their_inputs(advantages):
    """Neither Q nor pi is changed."""
    Q, pi = np.array([[1.0, 3.0]]), np.array([[0.5, 0.5]])
    advantages(Q, pi)
    expect_unchanged([[1.0, 3.0]], Q, "Q")
    expect_unchanged([[0.5, 0.5]], pi, "pi")


def test_evaluate_policy_exact_by_hand(evaluate_policy_exact):
    """The values of always answering at the help desk solve the Bellman equation."""
    V = evaluate_policy_exact(helpdesk(), np.eye(2)[[0, 0, 0, 0]])
    confused = -1.2 / (1 - 0.9 * 0.8)  # V = 0.2 * 10 + 0.8 * (-4 + 0.9 V)
    expected = [0.4 * 10 + 0.6 * (-4 + 0.9 * confused), 9 + 0.1 * (-4 + 0.9 * confused), confused, 0]
    expect_close(V, expected, "the values of always answering")


def test_evaluate_policy_exact_forever(evaluate_policy_exact):
    """Paying 1 for ever is worth -1 / (1 - gamma)."""
    V = evaluate_policy_exact(helpdesk(), np.eye(2)[[1, 1, 1, 1]])
    expect_close(V, [-10.0, -10.0, -10.0, 0.0], "the values of always searching")


def test_evaluate_policy_exact_stochastic(evaluate_policy_exact):
    """For a stochastic policy in a stochastic MDP the values are the discounted sum of mean rewards."""
    for seed in range(3):
        mdp = small_mdp(seed, n_states=6, n_actions=3, n_terminal=seed % 2)
        pi = random_policy(seed, mdp)
        expect_close(
            evaluate_policy_exact(mdp, pi), value_by_power_series(mdp, pi), f"V of random MDP {seed}"
        )


def test_evaluate_policy_exact_undiscounted(evaluate_policy_exact):
    """With gamma = 1 it works too if the policy ends every episode: terminal states are worth 0."""
    V = evaluate_policy_exact(helpdesk(gamma=1.0), np.eye(2)[[0, 0, 0, 0]])
    # confused = -1.2 / 0.2; informed = 8.6 + 0.1 confused; new = 4 + 0.6 * (-4 + confused)
    expect_close(V, [-2.0, 8.0, -6.0, 0.0], "the undiscounted values of always answering")


def test_evaluate_policy_exact_keeps_its_inputs(evaluate_policy_exact):
    """Neither the tables nor the policy are changed."""
    mdp, pi = helpdesk(), np.full((4, 2), 0.5)
    before = copies(mdp)
    evaluate_policy_exact(mdp, pi)
    expect_same_mdp(before, mdp)
    expect_unchanged(np.full((4, 2), 0.5), pi, "pi")


def test_greedy_policy_takes_the_best(greedy_policy):
    """Each state takes its own best action with probability 1."""
    Q = np.array([[1.0, 3.0, 2.0], [-5.0, -6.0, -4.0]])
    expect_close(greedy_policy(Q), [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], "the policy")


def test_greedy_policy_shares_ties(greedy_policy):
    """Tied best actions share the probability equally; every row sums to 1."""
    pi = greedy_policy(np.array([[2.0, 2.0, 1.0], [0.0, 0.0, 0.0]]))
    expect_close(pi, [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]], "the policy")


def test_greedy_policy_sees_ties_through_rounding(greedy_policy):
    """0.1 + 0.2 and 0.3 are a tie although the computer's numbers differ in the last digit."""
    expect_close(greedy_policy(np.array([[0.1 + 0.2, 0.3, 0.0]])), [[0.5, 0.5, 0.0]], "the policy")


def test_greedy_policy_tells_close_values_apart(greedy_policy):
    """A true gap of 0.001 is no tie, even between large values, unless tie_tol says so."""
    Q = np.array([[1000.0, 1000.001, 999.0]])
    expect_close(greedy_policy(Q), [[0.0, 1.0, 0.0]], "the policy")
    expect_close(greedy_policy(Q, tie_tol=0.01), [[0.5, 0.5, 0.0]], "the policy with tie_tol 0.01")


def test_greedy_policy_keeps_its_input(greedy_policy):
    """Q is not changed."""
    Q = np.array([[1.0, 2.0]])
    greedy_policy(Q)
    expect_unchanged([[1.0, 2.0]], Q, "Q")


def test_policy_iteration_on_the_help_desk(policy_iteration):
    """At the help desk it is best to search when new or confused, and to answer when informed."""
    pi, V, _ = policy_iteration(helpdesk(), np.full((4, 2), 0.5))
    expect_close(pi[:3], [[0, 1], [1, 0], [0, 1]], "the optimal policy of new, informed, confused")
    expect_close(V, BEST, "its values")


def test_policy_iteration_counts_evaluations(policy_iteration):
    """From always searching it takes three evaluations, the last one of which finds nothing to improve."""
    # searching -> answering everywhere -> search, answer, search -> no change
    first = np.eye(2)[[1, 1, 1, 1]]
    expect_equal(policy_iteration(helpdesk(), first)[2], 3, "rounds from always searching")
    best = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    expect_equal(policy_iteration(helpdesk(), best)[2], 1, "rounds from the optimal policy")


def test_policy_iteration_is_optimal(policy_iteration):
    """On random MDPs no deterministic policy is better, and the returned values are those of the policy."""
    for seed in range(3):
        mdp = small_mdp(seed, gamma=0.8, n_states=5, n_actions=3)
        pi, V, _ = policy_iteration(mdp, np.full((5, 3), 1 / 3))
        expect_close(V, best_value(mdp), f"V of random MDP {seed}")
        expect_close(value_by_power_series(mdp, pi), V, f"the value of the policy of random MDP {seed}")


def test_policy_iteration_shares_ties(policy_iteration):
    """On the cliff with gamma = 1 the far corner may go right or down: both get probability 1/2."""
    pi, V, _ = policy_iteration(cliff(), np.full((48, 4), 0.25))
    expect_close(V[36], -13.0, "the value of the start")
    expect_close(pi[0], [0.0, 0.5, 0.5, 0.0], "the policy of the far corner (up, right, down, left)")


def test_policy_iteration_keeps_its_inputs(policy_iteration):
    """Neither the tables nor the first policy are changed."""
    mdp, first = helpdesk(), np.full((4, 2), 0.5)
    before = copies(mdp)
    policy_iteration(mdp, first)
    expect_same_mdp(before, mdp)
    expect_unchanged(np.full((4, 2), 0.5), first, "the first policy")


def test_value_iteration_on_the_help_desk(value_iteration):
    """The result is V*, the value of acting best."""
    V, _ = value_iteration(helpdesk(), tol=1e-10)
    expect_close(V, BEST, "V* of the help desk")


def test_value_iteration_is_optimal(value_iteration):
    """On random stochastic MDPs it equals the best value over all deterministic policies."""
    for seed in range(3):
        mdp = small_mdp(seed, gamma=0.8, n_states=5, n_actions=3, n_terminal=seed % 2)
        expect_close(value_iteration(mdp, tol=1e-10)[0], best_value(mdp), f"V* of random MDP {seed}")


def test_value_iteration_stops_honestly(value_iteration):
    """When it stops, the true error is at most tol, also with gamma near 1 and falling values."""
    for sign in (1.0, -1.0):
        for gamma in (0.9, 0.99):
            mdp = small_mdp(3, gamma=gamma, n_states=4, n_actions=2)
            mdp = mdp._replace(R=sign * np.abs(mdp.R))
            V = expect_shape(value_iteration(mdp, tol=0.01)[0], (4,), "V")
            error = np.abs(V - best_value(mdp)).max()
            kind = "positive" if sign > 0 else "negative"
            text = f"gamma {gamma}, {kind} rewards: the true error should be at most 0.01, it is {error:.3g}"
            expect_true(error <= 0.01, text)


def test_value_iteration_sweeps_synchronously(value_iteration):
    """It returns the k-th iterate of synchronous sweeps from V = 0, at the first k that passes the test."""
    mdp = helpdesk()
    V, k, change = np.zeros(4), 0, np.inf
    while 0.9 * change > (1 - 0.9) * 0.5:
        V_new = backup(mdp, V).max(1)
        V, k, change = V_new, k + 1, np.abs(V_new - V).max()
    got_V, got_k = value_iteration(mdp, tol=0.5)
    expect_close([got_k, *got_V], [k, *V], "k and V_k for tol = 0.5")


def test_value_iteration_extremes(value_iteration):
    """gamma = 0 takes one sweep; the undiscounted cliff is solved exactly, with 0 at the goal."""
    V, k = value_iteration(helpdesk(gamma=0.0))
    expect_close(V, [1.6, 8.6, -1.0, 0.0], "V* with gamma 0")
    expect_equal(int(k), 1, "sweeps with gamma 0")
    for falling in ("restart", "terminal"):
        V, _ = value_iteration(cliff(falling))
        expect_close(V[[36, 47]], [-13.0, 0.0], f"V* of start and goal of the cliff ({falling})")


def test_value_iteration_gives_up(value_iteration):
    """If max_sweeps sweeps are not enough it raises RuntimeError and returns nothing."""
    expect_raises(RuntimeError, lambda: value_iteration(helpdesk(), 1e-8, 5), "5 sweeps, tol = 1e-8")


def test_value_iteration_keeps_its_input(value_iteration):
    """The tables are not changed."""
    mdp = helpdesk()
    before = copies(mdp)
    value_iteration(mdp, 0.1)
    expect_same_mdp(before, mdp)


# Two actions; state 2 is terminal, but its own row goes on, as in Gymnasium's CliffWalking.
TABLE = {
    0: {
        0: [(0.5, 0, -1.0, False), (0.25, 1, -1.0, False), (0.25, 1, -5.0, False)],
        1: [(0.9, 2, 10.0, True), (0.1, 0, -2.0, False)],
    },
    1: {0: [(1.0, 1, -1.0, False)], 1: [(0.5, 0, 0.0, False), (0.5, 2, 4.0, True)]},
    2: {0: [(1.0, 1, -1.0, False)], 1: [(1.0, 2, -1.0, True)]},
}


def test_tables_from_gym_adds_repeated_outcomes(tables_from_gym):
    """Outcomes that lead to the same state add their probabilities."""
    P, _, _ = tables_from_gym(TABLE)
    expect_close(expect_shape(P, (3, 2, 3), "P")[0], [[0.5, 0.5, 0], [0.1, 0, 0.9]], "P of state 0")


def test_tables_from_gym_averages_rewards(tables_from_gym):
    """R is the mean reward of a transition: its outcomes are weighted by their probabilities."""
    _, R, _ = tables_from_gym(TABLE)
    expect_close(R[0], [[-1.0, -3.0, 0.0], [-2.0, 0.0, 10.0]], "R of state 0")
    uneven = {0: {0: [(0.6, 0, 1.0, False), (0.2, 0, 5.0, False), (0.2, 1, 0.0, True)]}}
    uneven[1] = {0: [(1.0, 1, 0.0, True)]}
    _, R, _ = tables_from_gym(uneven)
    expect_close(R[0, 0], [2.0, 0.0], "R of rewards 1 (probability 0.6) and 5 (probability 0.2)")


def test_tables_from_gym_finds_terminal_states(tables_from_gym):
    """A state is terminal if it is entered with terminated = True."""
    terminal = expect_shape(tables_from_gym(TABLE)[2], (3,), "terminal")
    expect_equal(str(terminal.dtype), "bool", "the dtype of terminal")
    expect_equal(terminal, np.array([False, False, True]), "terminal")


def test_tables_from_gym_makes_terminal_states_absorbing(tables_from_gym):
    """A terminal state loops to itself with reward 0, whatever its own row in the table says."""
    P, R, _ = tables_from_gym(TABLE)
    expect_close(P[2], [[0, 0, 1], [0, 0, 1]], "P of the terminal state")
    expect_close((P * R).sum(-1)[2], [0.0, 0.0], "the mean rewards of the terminal state")


def test_tables_from_gym_on_real_worlds(tables_from_gym):
    """CliffWalking is worth -13 from its start, and a slippery FrozenLake keeps probabilities and rewards."""
    P, R, _ = tables_from_gym(gym.make("CliffWalking-v1").unwrapped.P)
    V = np.zeros(48)
    for _ in range(30):
        V = (P * (R + V)).sum(-1).max(-1)
    expect_close(V[36], -13.0, "V* of CliffWalking's start after 30 sweeps with gamma 1")
    table = gym.make("FrozenLake-v1", is_slippery=True).unwrapped.P
    P, R, terminal = tables_from_gym(table)
    expect_equal(int(np.sum(terminal)), 5, "terminal states of FrozenLake (4 holes, 1 goal)")
    expect_close(P.sum(-1), np.ones((16, 4)), "the row sums of P of FrozenLake")
    mean = [[sum(p * r for p, _, r, _ in table[s][a]) for a in range(4)] for s in range(16)]
    expect_close((P * R).sum(-1), mean, "the mean rewards of FrozenLake")
