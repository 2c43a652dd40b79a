"""Chapter 1: an agent, a world and a score. Walking the cliff, exploring, learning."""

import numpy as np

ROWS, COLS, START, GOAL = 4, 12, 36, 47
UP, RIGHT, DOWN, LEFT = range(4)
MOVES = {UP: (-1, 0), RIGHT: (0, 1), DOWN: (1, 0), LEFT: (0, -1)}


def cliff_step(state, action, falling="restart"):
    """One step of cliff walking.

    Cells are numbered row * 12 + column, rows 0 to 3 from the top: start 36, goal 47,
    cliff 37 to 46. A move into a wall leaves the agent where it is.

    Args:
        state: int, the cell the agent stands on (not the goal, not the cliff).
        action: 0 up, 1 right, 2 down, 3 left.
        falling: "restart": a fall puts the agent on the start and the episode goes on
            (Gymnasium); "terminal": it stays in the cliff cell and the episode ends.

    Returns:
        (next_state, reward, terminated): int, float, bool. Every step costs 1, also
        the one that reaches the goal; a fall costs 100 instead. The goal is an ending.

    Source: Sutton and Barto (2018), example 6.6; Gymnasium's CliffWalking-v1.
    """
    row, col = divmod(state, COLS)
    d_row, d_col = MOVES[action]
    row = min(max(row + d_row, 0), ROWS - 1)
    col = min(max(col + d_col, 0), COLS - 1)
    cell = row * COLS + col
    if START < cell < GOAL:  # the cliff
        if falling == "restart":
            return START, -100.0, False
        return cell, -100.0, True
    return cell, -1.0, cell == GOAL


class CliffWorld:
    """Cliff walking with Gymnasium's methods `reset` and `step`, and a time limit."""

    def __init__(self, falling="restart", limit=1000):
        self.falling, self.limit = falling, limit

    def reset(self):
        """Begin an episode; returns (state, info)."""
        self.state, self.steps = START, 0
        return self.state, {}

    def step(self, action):
        """Returns (state, reward, terminated, truncated, info)."""
        self.state, reward, terminated = cliff_step(self.state, action, self.falling)
        self.steps += 1
        truncated = self.steps >= self.limit and not terminated
        return self.state, reward, terminated, truncated, {}


def run_episode(env, policy):
    """Let a policy act in an environment until the episode is over.

    Args:
        env: anything with Gymnasium's interface: `reset()` returns (state, info), and
            `step(action)` returns (state, reward, terminated, truncated, info).
        policy: a function from a state to an action.

    Returns:
        (states, actions, rewards, terminated): lists of T + 1, T and T entries, a bool.
        `states` begins with the first state and ends with the last one; `rewards[t]`
        followed `actions[t]`; `terminated` is False if a time limit ended the episode.
    """
    state, _ = env.reset()
    states, actions, rewards = [state], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = policy(state)
        state, reward, terminated, truncated, _ = env.step(action)
        states.append(state)
        actions.append(action)
        rewards.append(reward)
    return states, actions, rewards, terminated


def episode_return(rewards):
    """The return of an episode, undiscounted (eq-episode-return).

    Args:
        rewards: list of T numbers; `rewards[t]` is R_{t+1}, which followed action A_t.

    Returns:
        R_1 + R_2 + ... + R_T, a float; 0.0 for an empty list.
    """
    return float(sum(rewards))


def safe_policy(state):
    """A policy by hand: from every cell to the goal, away from the cliff.

    Go up to the top row, right along it, and down the last column to the goal.

    Args:
        state: int, any of the 48 cells.

    Returns:
        An action: 0 up, 1 right, 2 down, 3 left. What it says on the cliff and on
        the goal never matters, but it must be an action.
    """
    row, col = divmod(state, COLS)
    if col == COLS - 1:
        return DOWN
    return RIGHT if row == 0 else UP


def sampling_policy(pi, rng):
    """A policy that draws its actions; pi is (S, A), a distribution for each state."""
    cumulative = np.cumsum(pi, axis=1)
    cumulative[:, -1] = 1.0  # rounding must leave no gap
    return lambda state: int(np.searchsorted(cumulative[state], rng.random(), "right"))


def epsilon_greedy_probs(values, epsilon):
    """The probability of each action, epsilon-greedy (eq-epsilon-greedy-probs).

    Args:
        values: (A,) estimated value of each action.
        epsilon: in [0, 1], the probability of choosing uniformly among ALL actions.

    Returns:
        (A,) probabilities. Actions that tie for the best share 1 - epsilon equally.

    Source: Sutton and Barto (2018), section 2.2.
    """
    values = np.asarray(values, dtype=float)
    best = values == values.max()
    return epsilon / len(values) + (1 - epsilon) * best / best.sum()


def update_mean(mean, count, value):
    """The mean of `count` numbers, from the mean of all but the last (eq-running-mean).

    Args:
        mean: the mean of the first count - 1 numbers (any number if count is 1).
        count: how many numbers there are with the new one, at least 1.
        value: the new number.

    Returns:
        The new mean.

    Source: Sutton and Barto (2018), eq. 2.3.
    """
    return mean + (value - mean) / count


def run_bandit(arm_means, epsilon, steps, rng):
    """An epsilon-greedy agent pulls arms with normal rewards of standard deviation 1.

    Args:
        arm_means: (A,) the true mean reward of each arm, unknown to the agent.
        epsilon: probability of a random arm.
        steps: number of pulls.
        rng: numpy generator.

    Returns:
        (chosen, Q): (steps,) the arms pulled, (A,) the agent's estimates at the end.
    """
    Q, counts = np.zeros(len(arm_means)), np.zeros(len(arm_means), dtype=int)
    chosen = np.zeros(steps, dtype=int)
    for t in range(steps):
        arm = rng.choice(len(Q), p=epsilon_greedy_probs(Q, epsilon))
        reward = rng.normal(arm_means[arm])
        counts[arm] += 1
        Q[arm] = update_mean(Q[arm], counts[arm], reward)
        chosen[t] = arm
    return chosen, Q


def monte_carlo_update(Q, states, actions, rewards, alpha):
    """Learn from a finished episode: values move towards the returns (eq-mc-update).

    For the steps of the episode from the last to the first, Q[S_t, A_t] moves by the
    fraction alpha towards G_t = R_{t+1} + ... + R_T, the sum of the rewards from that
    step on. A pair that was visited twice is updated twice.

    Args:
        Q: (S, A) action values; not changed.
        states: list of T or T + 1 cells; actions: list of T; rewards: list of T.
        alpha: step size in (0, 1].

    Returns:
        (S, A) the new table.

    Source: Sutton and Barto (2018), eq. 6.1 (constant-alpha Monte Carlo), for Q.
    """
    Q = Q.copy()
    G = 0.0
    for t in reversed(range(len(actions))):
        G += rewards[t]
        s, a = states[t], actions[t]
        Q[s, a] += alpha * (G - Q[s, a])
    return Q


def learn_cliff(episodes, rng, epsilon=0.2, alpha=0.1, falling="restart"):
    """Learn to walk the cliff from returns, while epsilon falls steadily to 0.

    Returns:
        (Q, returns): (48, 4) action values, (episodes,) the return of each episode.
    """
    env, Q = CliffWorld(falling), np.zeros((ROWS * COLS, 4))
    returns = np.zeros(episodes)
    for k in range(episodes):
        eps = epsilon * (1 - k / episodes)
        pi = np.array([epsilon_greedy_probs(q, eps) for q in Q])  # (48, 4)
        states, actions, rewards, _ = run_episode(env, sampling_policy(pi, rng))
        Q = monte_carlo_update(Q, states, actions, rewards, alpha)
        returns[k] = episode_return(rewards)
    return Q, returns
