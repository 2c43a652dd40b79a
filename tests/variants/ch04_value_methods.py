"""Correct but different versions of chapter 4's exercises."""

import numpy as np
import torch


def q_learning_update__weighted_mean(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """The new value as a weighted mean of old value and target."""
    old = Q[s][a]
    target = reward + gamma * (1 - int(terminated)) * np.max(Q[s_next])
    Q[s][a] = float((1 - alpha) * old + alpha * target)
    return float(target - old)


def sarsa_update__branches(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """Two branches instead of a factor."""
    if terminated:
        error = reward - Q[s][a]
    else:
        error = reward - Q[s][a] + gamma * Q[s_next][a_next]
    Q[s][a] = Q[s][a] + alpha * error
    return error


def expected_sarsa_target__probabilities(q_next, reward, terminated, epsilon, gamma):
    """The probabilities written out, ties sharing."""
    q = np.array(q_next)
    best = q == q.max()
    pi = epsilon / len(q) + (1 - epsilon) * best / best.sum()
    return reward + gamma * (not terminated) * float(pi @ q)


def visit_step_size__explicit(counts, s, a, power):
    """A fraction."""
    n = counts[s][a] + 1
    counts[s][a] = n
    return 1.0 / n**power


def double_q_update__argmax(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """With NumPy's argmax."""
    choice = int(np.argmax(Q[s_next]))
    delta = reward + gamma * Q_other[s_next][choice] * (not terminated) - Q[s][a]
    Q[s][a] = Q[s][a] + alpha * delta
    return delta


def n_step_targets__recursion(rewards, next_values, terminated, truncated, n, gamma):
    """By recursion on n: inside an episode G(n)[t] = r[t] + gamma G(n - 1)[t + 1]."""
    if n < 1:
        raise ValueError("n must be at least 1")
    rewards = np.asarray(rewards, dtype=float)
    one_step = rewards + gamma * np.where(terminated, 0.0, next_values)
    inside = ~(np.asarray(terminated) | np.asarray(truncated))
    inside[-1] = False
    targets = one_step
    for _ in range(min(n, len(rewards)) - 1):
        targets = np.where(inside, rewards + gamma * np.roll(targets, -1), one_step)
    return targets


def dqn_loss__where(online, target, batch, gamma, double=False):
    """Row indexing, torch.where and the library's mean squared error."""
    obs, actions, rewards, next_obs, terminated = batch
    rows = torch.arange(len(rewards))
    next_q = target(next_obs).detach()
    value = next_q[rows, online(next_obs).argmax(-1)] if double else next_q.amax(-1)
    y = torch.where(terminated, rewards, rewards + gamma * value)
    return torch.nn.functional.mse_loss(online(obs)[rows, actions], y)
