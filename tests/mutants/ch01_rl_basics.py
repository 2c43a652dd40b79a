"""Wrong versions of chapter 1's exercises; each docstring is the diagnosis that a learner reads."""

import numpy as np

MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]


def _move(state, action):
    row, col = divmod(state, 12)
    d_row, d_col = MOVES[action]
    return min(max(row + d_row, 0), 3) * 12 + min(max(col + d_col, 0), 11)


def cliff_step__fall_always_ends(state, action, falling="restart"):
    """A fall ends the episode in your world under both rules. By Gymnasium's rule it goes on from the
    start.
    """
    cell = _move(state, action)
    if 37 <= cell <= 46:
        return (36 if falling == "restart" else cell), -100.0, True
    return cell, -1.0, cell == 47


def cliff_step__no_way_back(state, action, falling="restart"):
    """After a fall the agent stays in the cliff cell, and the episode goes on from there: put it on the
    start.
    """
    cell = _move(state, action)
    if 37 <= cell <= 46:
        return cell, -100.0, falling == "terminal"
    return cell, -1.0, cell == 47


def cliff_step__free_goal(state, action, falling="restart"):
    """The step that reaches the goal costs nothing in your world. It costs 1, so the best return is -13,
    not -12.
    """
    cell = _move(state, action)
    if 37 <= cell <= 46:
        return (36, -100.0, False) if falling == "restart" else (cell, -100.0, True)
    return cell, (0.0 if cell == 47 else -1.0), cell == 47


def cliff_step__fall_costs_101(state, action, falling="restart"):
    """A fall costs 100 in all: the 1 of the ordinary step is not added to it."""
    cell = _move(state, action)
    if 37 <= cell <= 46:
        return (36, -101.0, False) if falling == "restart" else (cell, -101.0, True)
    return cell, -1.0, cell == 47


def cliff_step__wraps_around(state, action, falling="restart"):
    """You add 1 or 12 to the cell number without looking at walls: cell 23, right, becomes cell 24, a row
    below.
    """
    cell = min(max(state + [-12, 1, 12, -1][action], 0), 47)
    if 37 <= cell <= 46:
        return (36, -100.0, False) if falling == "restart" else (cell, -100.0, True)
    return cell, -1.0, cell == 47


def cliff_step__other_order(state, action, falling="restart"):
    """Your actions are in the order left, down, right, up (FrozenLake's). Here 0 to 3 are up, right,
    down, left.
    """
    cell = _move(state, [3, 2, 1, 0][action])
    if 37 <= cell <= 46:
        return (36, -100.0, False) if falling == "restart" else (cell, -100.0, True)
    return cell, -1.0, cell == 47


def run_episode__ignores_truncation(env, policy):
    """You wait for `terminated` only: an episode that the time limit cuts off never ends. Test
    `truncated` as well.
    """
    state, _ = env.reset()
    states, actions, rewards, terminated = [state], [], [], False
    while not terminated:
        actions.append(policy(state))
        state, reward, terminated, _, _ = env.step(actions[-1])
        states.append(state)
        rewards.append(reward)
    return states, actions, rewards, terminated


def run_episode__done_is_terminated(env, policy):
    """You merge `terminated` and `truncated` into one flag. A time limit is not an ending: chapter 4
    needs to know.
    """
    state, _ = env.reset()
    states, actions, rewards, done = [state], [], [], False
    while not done:
        actions.append(policy(state))
        state, reward, terminated, truncated, _ = env.step(actions[-1])
        done = terminated or truncated
        states.append(state)
        rewards.append(reward)
    return states, actions, rewards, done


def run_episode__stale_state(env, policy):
    """The policy sees the first state at every step: the state that `step` returns must become the
    current one.
    """
    state, _ = env.reset()
    states, actions, rewards = [state], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        actions.append(policy(state))
        next_state, reward, terminated, truncated, _ = env.step(actions[-1])
        states.append(next_state)
        rewards.append(reward)
    return states, actions, rewards, terminated


def run_episode__no_last_step(env, policy):
    """The loop stops before the last reward is written down, and that reward may be the only one that
    matters.
    """
    state, _ = env.reset()
    states, actions, rewards = [state], [], []
    while True:
        action = policy(state)
        state, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return states, actions, rewards, terminated
        states.append(state)
        actions.append(action)
        rewards.append(reward)


def run_episode__no_final_state(env, policy):
    """The final state is missing: T actions lie between T + 1 states."""
    state, _ = env.reset()
    states, actions, rewards = [], [], []
    terminated = truncated = False
    while not (terminated or truncated):
        states.append(state)
        actions.append(policy(state))
        state, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
    return states, actions, rewards, terminated


def episode_return__last_reward(rewards):
    """This is the last reward alone. The return adds up the rewards of all steps."""
    return float(rewards[-1]) if rewards else 0.0


def episode_return__mean(rewards):
    """This is the mean reward per step. The return is the sum, so a longer way costs more."""
    return float(np.mean(rewards)) if rewards else 0.0


def episode_return__skips_first(rewards):
    """The first reward is missing from the sum: in Python a list begins at index 0."""
    return float(sum(rewards[1:]))


def episode_return__empties_the_list(rewards):
    """The sum is right, but `pop` empties the caller's list, which the next step still needs."""
    total = 0.0
    while rewards:
        total += rewards.pop()
    return total


def episode_return__discounted(rewards):
    """The rewards are discounted. Cliff walking counts every step in full; discounting comes in chapter 2."""
    return float(sum(0.9**t * r for t, r in enumerate(rewards)))


def safe_policy__one_path(state):
    """This is a path, not a policy: off that path your function has no action to give."""
    path = [36, *range(24, -1, -12), *range(1, 12), 23, 35]
    return dict(zip(path, [0, 0, 0, *[1] * 11, 2, 2, 2], strict=True)).get(state)


def safe_policy__edge(state):
    """This walks along the edge of the cliff. It is the shortest way, 13 steps, but not the safe one."""
    row, col = divmod(state, 12)
    if col == 11:
        return 2
    return 1 if row < 3 else 0


def safe_policy__second_row(state):
    """This turns right one row too early: 15 steps, along the third row from the bottom, not along the
    top row.
    """
    row, col = divmod(state, 12)
    if col == 11:
        return 2
    return 1 if row < 2 else 0


def safe_policy__never_down(state):
    """It goes up and right and then pushes against the wall for ever: in the last column it must go down."""
    return 1 if state < 12 else 0


def safe_policy__down_too_early(state):
    """It comes down in the column before the last one and falls off the cliff just before the goal."""
    row, col = divmod(state, 12)
    if col >= 10:
        return 2
    return 1 if row == 0 else 0


def epsilon_greedy_probs__others_only(values, epsilon):
    """Your exploration never picks the best action. A random choice is among all actions, the best one
    too.
    """
    values = np.asarray(values, dtype=float)
    best = values == values.max()
    rest = max(len(values) - best.sum(), 1)
    probs = np.where(best, (1 - epsilon) / best.sum(), epsilon / rest)
    return probs / probs.sum()


def epsilon_greedy_probs__does_not_add_up(values, epsilon):
    """The best action gets 1 - epsilon instead of 1 - epsilon + epsilon / A: the sum is less than 1."""
    values = np.asarray(values, dtype=float)
    best = values == values.max()
    return np.where(best, (1 - epsilon) / best.sum(), epsilon / len(values))


def epsilon_greedy_probs__first_best(values, epsilon):
    """argmax gives a tie to the first action alone: with all values equal your agent prefers action 0."""
    probs = np.full(len(values), epsilon / len(values))
    probs[int(np.argmax(values))] += 1 - epsilon
    return probs


def epsilon_greedy_probs__swapped(values, epsilon):
    """epsilon and 1 - epsilon are swapped: your agent explores with probability 1 - epsilon."""
    values = np.asarray(values, dtype=float)
    best = values == values.max()
    return (1 - epsilon) / len(values) + epsilon * best / best.sum()


def epsilon_greedy_probs__proportional(values, epsilon):
    """The greedy part is shared in proportion to the values. It belongs to the best action only."""
    shifted = np.asarray(values, dtype=float) - np.min(values) + 1e-12
    return epsilon / len(values) + (1 - epsilon) * shifted / shifted.sum()


def update_mean__half_way(mean, count, value):
    """You move half-way to every new number: the last numbers then count most, and this is no mean."""
    return value if count == 1 else (mean + value) / 2


def update_mean__count_without_the_new_one(mean, count, value):
    """You divide by count + 1, but `count` already includes the new number."""
    return mean + (value - mean) / (count + 1)


def update_mean__sum(mean, count, value):
    """You add value / count to the old mean without taking the old mean's share away."""
    return mean + value / count


def update_mean__away(mean, count, value):
    """The sign is turned round: the mean moves away from the new number."""
    return mean - (value - mean) / count


def monte_carlo_update__return_so_far(Q, states, actions, rewards, alpha):
    """You add up the rewards before each step. An action is to be judged by what came after it."""
    Q, G = Q.copy(), 0.0
    totals = np.cumsum(rewards)
    for t in reversed(range(len(actions))):
        G = totals[t]
        Q[states[t], actions[t]] += alpha * (G - Q[states[t], actions[t]])
    return Q


def monte_carlo_update__whole_return(Q, states, actions, rewards, alpha):
    """Every step gets the return of the whole episode, also for rewards that came before it."""
    Q, G = Q.copy(), float(sum(rewards))
    for t in reversed(range(len(actions))):
        Q[states[t], actions[t]] += alpha * (G - Q[states[t], actions[t]])
    return Q


def monte_carlo_update__own_reward_only(Q, states, actions, rewards, alpha):
    """Each step is judged by its own reward alone: your agent cannot see the long run."""
    Q = Q.copy()
    for t in reversed(range(len(actions))):
        Q[states[t], actions[t]] += alpha * (rewards[t] - Q[states[t], actions[t]])
    return Q


def monte_carlo_update__shifted(Q, states, actions, rewards, alpha):
    """The reward of the step itself is left out: rewards[t] is the one that followed actions[t], it
    counts.
    """
    Q, G = Q.copy(), 0.0
    for t in reversed(range(len(actions))):
        Q[states[t], actions[t]] += alpha * (G - Q[states[t], actions[t]])
        G += rewards[t]
    return Q


def monte_carlo_update__in_place(Q, states, actions, rewards, alpha):
    """The numbers are right, but the caller's table is overwritten: work on Q.copy()."""
    G = 0.0
    for t in reversed(range(len(actions))):
        G += rewards[t]
        Q[states[t], actions[t]] += alpha * (G - Q[states[t], actions[t]])
    return Q


def monte_carlo_update__adds_the_return(Q, states, actions, rewards, alpha):
    """alpha times the return is added without subtracting the old value, so the values grow without end."""
    Q, G = Q.copy(), 0.0
    for t in reversed(range(len(actions))):
        G += rewards[t]
        Q[states[t], actions[t]] += alpha * G
    return Q
