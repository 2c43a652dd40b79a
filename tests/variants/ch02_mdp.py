"""Correct but different versions of chapter 2's exercises."""

import itertools
import math

import numpy as np


def expected_rewards__einsum(P, R):
    """One einsum: the index n of the next state is summed away."""
    return np.einsum("san,san->sa", P, R)


def expected_rewards__loops(P, R):
    """The definition, entry by entry."""
    return [
        [sum(p * r for p, r in zip(*pair, strict=True)) for pair in zip(*s, strict=True)]
        for s in zip(P, R, strict=True)
    ]


def sample_trajectory__inverse_cdf(mdp, pi, rng, max_steps=1000):
    """One uniform number per draw, looked up in the cumulative probabilities; arrays and a plain tuple."""

    def draw(p):
        return min(int(np.searchsorted(np.cumsum(p), rng.random(), side="right")), len(p) - 1)

    s = draw(mdp.rho0)
    states, actions, rewards = [s], [], []
    for _ in range(max_steps):
        if mdp.terminal[s]:
            break
        a = draw(pi[s])
        n = draw(mdp.P[s, a])
        actions.append(a)
        rewards.append(mdp.R[s, a, n])
        states.append(n)
        s = n
    return np.array(states), np.array(actions, dtype=int), np.array(rewards), mdp.terminal[s]


def sample_trajectory__joint_draw(mdp, pi, rng, max_steps=1000):
    """Action and next state are drawn together, from pi[s, a] * P[s, a, s']."""
    states, actions, rewards = [rng.choice(len(mdp.rho0), p=mdp.rho0)], [], []
    while len(actions) < max_steps and not mdp.terminal[states[-1]]:
        joint = pi[states[-1]][:, None] * mdp.P[states[-1]]  # (A, S)
        a, n = divmod(rng.choice(joint.size, p=joint.ravel()), len(mdp.P))
        rewards.append(mdp.R[states[-1], a, n])
        actions.append(a)
        states.append(n)
    return states, actions, rewards, mdp.terminal[states[-1]]


def trajectory_logprob__vectorised(states, actions, mdp, pi):
    """Three sums of logs by array indexing."""
    s, a = np.array(states), np.array(actions, dtype=int)
    with np.errstate(divide="ignore"):
        parts = np.log(mdp.rho0[s[0]]), np.log(pi[s[:-1], a]).sum(), np.log(mdp.P[s[:-1], a, s[1:]]).sum()
    return sum(parts)


def trajectory_logprob__early_stop(states, actions, mdp, pi):
    """Adds plain Python logs and stops at the first impossible factor."""
    total, s = 0.0, states[0]
    for p in itertools.chain(
        [mdp.rho0[s]],
        *((pi[s, a], mdp.P[s, a, n]) for s, a, n in zip(states, actions, states[1:], strict=False)),
    ):
        if p == 0:
            return -math.inf
        total += math.log(p)
    return total


def discounted_return__power_series(rewards, gamma):
    """The definition, term by term."""
    return float(sum(gamma**k * r for k, r in enumerate(rewards)))


def discounted_return__dot_product(rewards, gamma):
    """Rewards times the vector of discount weights."""
    return np.dot(np.asarray(rewards, dtype=float), gamma ** np.arange(len(rewards)))


def returns_to_go__matrix(rewards, gamma):
    """A triangular matrix of discount weights times the rewards."""
    t = np.arange(len(rewards))
    delay = t[None, :] - t[:, None]  # (T, T)
    weights = np.where(delay >= 0, float(gamma) ** np.maximum(delay, 0), 0.0)
    return weights @ np.asarray(rewards, dtype=float)


def returns_to_go__accumulate(rewards, gamma):
    """itertools.accumulate over the reversed list; the result is a list."""
    backwards = itertools.accumulate(list(rewards)[::-1], lambda g, r: r + gamma * g)
    return [float(g) for g in backwards][::-1]


def monte_carlo_objective__running(sample_return, episodes):
    """Welford's running mean and sum of squares: no list of returns is kept."""
    if episodes <= 1:
        raise ValueError("at least two episodes")
    mean, squares = 0.0, 0.0
    for n in range(1, episodes + 1):
        g = sample_return()
        step = g - mean
        mean += step / n
        squares += step * (g - mean)
    return mean, math.sqrt(squares / (episodes - 1) / episodes)


def enumerate_trajectories__level_by_level(mdp, pi, horizon):
    """Breadth first: all trajectories of length t are extended to length t + 1."""
    finished, alive = [], [(p, ([s], [], [])) for s, p in enumerate(mdp.rho0) if p > 0]
    for t in range(horizon + 1):
        done = [mdp.terminal[states[-1]] for _, (states, _, _) in alive]
        finished += [
            (p, (*path, end)) for (p, path), end in zip(alive, done, strict=True) if end or t == horizon
        ]
        alive = [
            (p * pi[x[-1], a] * mdp.P[x[-1], a, n], (x + [n], y + [a], z + [mdp.R[x[-1], a, n]]))
            for (p, (x, y, z)), end in zip(alive, done, strict=True)
            if not end
            for a in range(pi.shape[1])
            for n in range(len(mdp.P))
            if pi[x[-1], a] * mdp.P[x[-1], a, n] > 0
        ]
    return finished
