"""Graders of chapter 1."""

import numpy as np

from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "cliff_step": {
        "title": "One step of the cliff world",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": None,
    },
    "run_episode": {
        "title": "The loop between agent and environment",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": None,
    },
    "episode_return": {
        "title": "The score of an episode",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-episode-return",
    },
    "safe_policy": {
        "title": "A policy by hand",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": None,
    },
    "epsilon_greedy_probs": {
        "title": "Exploring a little",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-epsilon-greedy-probs",
    },
    "update_mean": {
        "title": "A mean that needs no memory",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-running-mean",
    },
    "monte_carlo_update": {
        "title": "Learning from a finished episode",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-mc-update",
    },
}

UP, RIGHT, DOWN, LEFT = range(4)
NAMES = ("up", "right", "down", "left")


# ---- cliff_step


def test_cliff_step_moves(cliff_step):
    """Up, right, down, left are 0 to 3; an ordinary step costs 1 and does not end the episode."""
    for action, neighbour in [(UP, 5), (RIGHT, 18), (DOWN, 29), (LEFT, 16)]:
        expect_equal(tuple(cliff_step(17, action)), (neighbour, -1.0, False), f"cell 17, {NAMES[action]}")


def test_cliff_step_walls(cliff_step):
    """A move into a wall costs 1 and leaves the agent where it is."""
    for cell, action in [(0, UP), (0, LEFT), (11, UP), (23, RIGHT), (12, LEFT), (36, DOWN), (36, LEFT)]:
        expect_equal(tuple(cliff_step(cell, action)), (cell, -1.0, False), f"cell {cell}, {NAMES[action]}")


def test_cliff_step_goal(cliff_step):
    """The step onto the goal costs 1 like any other and ends the episode, under both rules."""
    expect_equal(tuple(cliff_step(35, DOWN)), (47, -1.0, True), "cell 35, down")
    expect_equal(tuple(cliff_step(35, DOWN, "terminal")), (47, -1.0, True), "cell 35, down, 'terminal'")


def test_cliff_step_restart(cliff_step):
    """By Gymnasium's rule a fall costs 100, puts the agent on the start, and the episode goes on."""
    expect_equal(tuple(cliff_step(36, RIGHT)), (36, -100.0, False), "cell 36, right")
    expect_equal(tuple(cliff_step(25, DOWN)), (36, -100.0, False), "cell 25, down")
    expect_equal(tuple(cliff_step(34, DOWN)), (36, -100.0, False), "cell 34, down")


def test_cliff_step_terminal(cliff_step):
    """By the other rule a fall costs 100 and ends the episode in the cliff cell."""
    expect_equal(tuple(cliff_step(36, RIGHT, "terminal")), (37, -100.0, True), "cell 36, right, 'terminal'")
    expect_equal(tuple(cliff_step(34, DOWN, "terminal")), (46, -100.0, True), "cell 34, down, 'terminal'")


def test_cliff_step_equals_gymnasium(cliff_step):
    """All 37 cells and 4 actions agree with Gymnasium's CliffWalking-v1."""
    from gymnasium.envs.toy_text.cliffwalking import CliffWalkingEnv

    table = CliffWalkingEnv().P
    for cell in range(37):
        for action in range(4):
            [(_, next_state, reward, terminated)] = table[cell][action]
            want = (int(next_state), float(reward), bool(terminated))
            got = tuple(cliff_step(cell, action))
            expect_equal((int(got[0]), float(got[1]), bool(got[2])), want, f"cell {cell}, {NAMES[action]}")


# ---- run_episode


class Chain:
    """Cells 0, 1, 2, … to the right; random rewards; ends at `goal` or after `limit` steps."""

    def __init__(self, goal, limit, seed=0):
        self.goal, self.limit, self.rng = goal, limit, np.random.default_rng(seed)

    def reset(self, **options):
        self.cell, self.steps, self.over, self.rewards = 0, 0, False, []
        return self.cell, {}

    def step(self, action):
        expect_true(not self.over, "step was called again although the episode was over")
        self.cell, self.steps = self.cell + action, self.steps + 1
        self.rewards.append(float(self.rng.integers(1, 9)))
        terminated = self.cell == self.goal
        truncated = not terminated and self.steps == self.limit
        self.over = terminated or truncated
        return self.cell, self.rewards[-1], terminated, truncated, {}


def test_run_episode_until_terminated(run_episode):
    """An episode that ends by itself: all states with the last one, all actions, all rewards, terminated."""
    env = Chain(goal=3, limit=50)
    states, actions, rewards, terminated = run_episode(env, lambda state: 1)
    expect_equal(list(rewards), env.rewards, "rewards")
    expect_equal(list(actions), [1, 1, 1], "actions")
    expect_equal(list(states), [0, 1, 2, 3], "states")
    expect_equal(bool(terminated), True, "terminated")


def test_run_episode_until_truncated(run_episode):
    """A time limit ends the loop too, and then `terminated` is False."""
    env = Chain(goal=99, limit=4)
    states, actions, rewards, terminated = run_episode(env, lambda state: 1)
    expect_equal(list(rewards), env.rewards, "rewards")
    expect_equal(list(states), [0, 1, 2, 3, 4], "states")
    expect_equal(bool(terminated), False, "terminated")


def test_run_episode_shows_the_policy_the_current_state(run_episode):
    """The policy is asked once per step, with the state the agent is in now."""
    seen = []

    def policy(state):
        seen.append(state)
        return 1 + state % 2

    states, actions, _, _ = run_episode(Chain(goal=7, limit=50), policy)
    expect_equal(seen, [0, 1, 3, 5], "the states that the policy was shown")
    expect_equal(list(actions), [1, 2, 2, 2], "actions")


def test_run_episode_begins_with_reset(run_episode):
    """A second episode in the same environment starts again at the first state."""
    env = Chain(goal=2, limit=50)
    run_episode(env, lambda state: 1)
    states, _, _, _ = run_episode(env, lambda state: 1)
    expect_equal(list(states), [0, 1, 2], "states of the second episode")


# ---- episode_return


def test_episode_return_adds_up(episode_return):
    """The return is the sum of all rewards of the episode."""
    expect_close(episode_return([-1.0, -1.0, -100.0, 3.0]), -99.0, "the return of -1, -1, -100, 3")


def test_episode_return_small_cases(episode_return):
    """One reward is its own return; no rewards make a return of 0."""
    expect_close(episode_return([5.0]), 5.0, "the return of the single reward 5")
    expect_close(episode_return([]), 0.0, "the return of an empty episode")


def test_episode_return_keeps_its_input(episode_return):
    """The list of rewards is not changed."""
    rewards = [1.0, 2.0, 4.0]
    value = episode_return(rewards)
    expect_unchanged([1.0, 2.0, 4.0], rewards, "rewards")
    expect_close(episode_return(rewards), value, "the return, asked a second time")


# ---- safe_policy


def walk(policy, cell):
    """The cells that the policy visits from `cell` on, up to the goal, the cliff or 60 steps."""
    path = [cell]
    while cell not in range(37, 48) and len(path) < 61:
        row, col = divmod(cell, 12)
        d_row, d_col = [(-1, 0), (0, 1), (1, 0), (0, -1)][int(policy(cell))]
        cell = min(max(row + d_row, 0), 3) * 12 + min(max(col + d_col, 0), 11)
        path.append(cell)
    return path


def test_safe_policy_answers_everywhere(safe_policy):
    """A policy has an action for every one of the 48 cells, also for those off its path."""
    for cell in range(48):
        action = safe_policy(cell)
        expect_true(action in (0, 1, 2, 3), f"cell {cell}: expected an action 0 to 3, got {action!r}")


def test_safe_policy_from_the_start(safe_policy):
    """From the start it reaches the goal in 17 steps, by way of the top row."""
    path = walk(safe_policy, 36)
    expect_equal(path[-1], 47, "the cell where the walk from the start ends")
    expect_equal(len(path) - 1, 17, "the number of steps from the start")
    expect_true(set(range(12)) <= set(path), f"the walk from the start misses the top row: {path}")


def test_safe_policy_from_everywhere(safe_policy):
    """From every cell that is not cliff it reaches the goal and never falls."""
    for cell in range(37):
        end = walk(safe_policy, cell)[-1]
        expect_equal(end, 47, f"the cell where the walk from cell {cell} ends")


def test_safe_policy_depends_on_the_state_only(safe_policy):
    """Asked twice about the same cell, it gives the same answer."""
    for cell in (0, 36, 20, 35):
        expect_equal(int(safe_policy(cell)), int(safe_policy(cell)), f"cell {cell}, asked again")


# ---- epsilon_greedy_probs


def test_epsilon_greedy_probs_by_hand(epsilon_greedy_probs):
    """Every action gets epsilon / A, the best one 1 - epsilon on top."""
    got = epsilon_greedy_probs(np.array([1.0, 5.0, 2.0, 0.0]), 0.2)
    expect_close(got, [0.05, 0.85, 0.05, 0.05], "values 1, 5, 2, 0 with epsilon 0.2")


def test_epsilon_greedy_probs_is_a_distribution(epsilon_greedy_probs):
    """The probabilities are not negative and add up to 1."""
    rng = np.random.default_rng(3)
    for size in (1, 2, 3, 7):
        p = expect_shape(epsilon_greedy_probs(rng.normal(size=size), 0.3), (size,), f"{size} actions")
        expect_true((p >= 0).all(), f"{size} actions: a probability is negative")
        expect_close(p.sum(), 1.0, f"the sum of the probabilities of {size} actions")


def test_epsilon_greedy_probs_extremes(epsilon_greedy_probs):
    """epsilon = 1 is uniform, epsilon = 0 is greedy; negative values are values like any other."""
    expect_close(epsilon_greedy_probs([3.0, 1.0], 1.0), [0.5, 0.5], "values 3, 1 with epsilon 1")
    expect_close(epsilon_greedy_probs([-3.0, -1.0, -2.0], 0.0), [0, 1, 0], "values -3, -1, -2, epsilon 0")


def test_epsilon_greedy_probs_ties(epsilon_greedy_probs):
    """Actions that share the highest value share the greedy part equally."""
    expect_close(epsilon_greedy_probs([2.0, 0.0, 2.0], 0.3), [0.45, 0.1, 0.45], "values 2, 0, 2, epsilon 0.3")
    expect_close(epsilon_greedy_probs(np.zeros(4), 0.1), [0.25] * 4, "four zeros with epsilon 0.1")


def test_epsilon_greedy_probs_keeps_its_input(epsilon_greedy_probs):
    """The values are not changed, and integers are accepted."""
    values = np.array([4, 1, 2])
    epsilon_greedy_probs(values, 0.3)
    expect_unchanged([4, 1, 2], values, "values")


# ---- update_mean


def test_update_mean_first_value(update_mean):
    """The mean of one number is that number, whatever stood there before."""
    expect_close(update_mean(0.0, 1, 7.0), 7.0, "first value 7 (mean so far 0)")
    expect_close(update_mean(123.0, 1, 7.0), 7.0, "first value 7 (mean so far 123)")


def test_update_mean_by_hand(update_mean):
    """The mean of 2 and 4 is 3; with 9 as the third number it is 5."""
    expect_close(update_mean(3.0, 3, 9.0), 5.0, "mean 3 of two numbers, then 9")


def test_update_mean_equals_the_mean(update_mean):
    """One number after another gives the mean of all of them."""
    numbers = np.random.default_rng(1).normal(size=50)
    mean = 0.0
    for count, value in enumerate(numbers, 1):
        mean = update_mean(mean, count, value)
    expect_close(mean, numbers.mean(), "the mean of 50 numbers, one by one")


# ---- monte_carlo_update


def test_monte_carlo_update_by_hand(monte_carlo_update):
    """Each pair moves towards the sum of the rewards from its own step on."""
    Q = monte_carlo_update(np.zeros((4, 2)), [0, 1, 2, 3], [1, 0, 1], [-1.0, -2.0, -4.0], 0.5)
    want = np.zeros((4, 2))
    want[0, 1], want[1, 0], want[2, 1] = -3.5, -3.0, -2.0  # returns -7, -6, -4, halfway from 0
    expect_close(Q, want, "rewards -1, -2, -4 from zero with alpha 0.5")


def test_monte_carlo_update_moves_from_where_it_was(monte_carlo_update):
    """The step is the fraction alpha of the distance between the old value and the return."""
    Q = np.full((2, 2), 10.0)
    got = monte_carlo_update(Q, [0, 1], [0], [20.0], 0.1)
    expect_close(got[0], [11.0, 10.0], "the row of state 0: value 10, return 20, alpha 0.1")
    expect_close(got[1], [10.0, 10.0], "the row of state 1, which was not acted in")


def test_monte_carlo_update_repeated_pair(monte_carlo_update):
    """A pair that was visited twice is updated twice, the later visit first."""
    got = monte_carlo_update(np.zeros((1, 1)), [0, 0, 0], [0, 0], [1.0, 1.0], 0.5)
    expect_close(got[0, 0], 1.25, "two visits with returns 2 and 1")  # 0 -> 0.5 -> 1.25


def test_monte_carlo_update_without_the_last_state(monte_carlo_update):
    """It works whether or not the list of states holds the final state."""
    long = monte_carlo_update(np.zeros((3, 2)), [0, 1, 2], [0, 1], [3.0, 5.0], 1.0)
    short = monte_carlo_update(np.zeros((3, 2)), [0, 1], [0, 1], [3.0, 5.0], 1.0)
    expect_close(long, [[8.0, 0.0], [0.0, 5.0], [0.0, 0.0]], "rewards 3, 5 with alpha 1")
    expect_close(short, [[8.0, 0.0], [0.0, 5.0], [0.0, 0.0]], "the same without the final state")


def test_monte_carlo_update_keeps_the_old_table(monte_carlo_update):
    """The table that was passed in is not changed."""
    Q = np.random.default_rng(2).normal(size=(3, 2))
    before = Q.copy()
    monte_carlo_update(Q, [0, 1, 2], [0, 1], [1.0, 1.0], 0.5)
    expect_unchanged(before, Q, "Q")
