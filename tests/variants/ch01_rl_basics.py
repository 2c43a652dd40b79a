"""Correct but different versions of chapter 1's exercises."""

import numpy as np


def cliff_step__one_number(state, action, falling="restart"):
    """Works on the cell number, with the walls as conditions."""
    blocked = [state < 12, state % 12 == 11, state >= 36, state % 12 == 0][action]
    cell = state if blocked else state + [-12, 1, 12, -1][action]
    if 37 <= cell <= 46:
        return (36, -100, False) if falling == "restart" else (cell, -100, True)
    return cell, -1, cell == 47


def run_episode__while_true(env, policy):
    """Leaves an endless loop with break."""
    observation, info = env.reset()
    states, actions, rewards = [observation], [], []
    while True:
        actions.append(policy(states[-1]))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        states.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            return states, actions, rewards, terminated


def episode_return__loop(rewards):
    """Adds up by hand, from the back."""
    total = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        total += rewards[t]
    return total


def safe_policy__table(state):
    """A table of arrows; one letter per cell."""
    table = ["r" * 11 + "d", "u" * 11 + "d", "u" * 11 + "d", "u" * 11 + "d"]
    return "urdl".index(table[state // 12][state % 12])


def epsilon_greedy_probs__loop(values, epsilon):
    """Gives each action its share, one at a time."""
    best = [i for i, v in enumerate(values) if v == max(values)]
    probs = [epsilon / len(values)] * len(values)
    for i in best:
        probs[i] += (1 - epsilon) / len(best)
    return np.array(probs)


def update_mean__weights(mean, count, value):
    """A weighted mean of the old mean and the new number."""
    return mean * (count - 1) / count + value / count


def monte_carlo_update__sums(Q, states, actions, rewards, alpha):
    """Sums the rest of the episode anew at every step."""
    table = np.array(Q, dtype=float)
    for t in range(len(actions) - 1, -1, -1):
        old = table[states[t], actions[t]]
        table[states[t], actions[t]] = (1 - alpha) * old + alpha * sum(rewards[t:])
    return table
