"""Garnets: random stochastic MDPs, for tests and benchmarks. Every state-action pair has a few successors."""

import numpy as np

from rlcourse.envs.tables import TabularMDP


def garnet_lists(rng, n_states: int, n_actions: int, branching: int):
    """A garnet as lists of successors, which is how a large sparse MDP is stored.

    Args:
        rng: numpy Generator.
        branching: distinct successors of each state-action pair, at most n_states.

    Returns:
        next_states: (S, A, b) integers. probs: (S, A, b), rows from a flat Dirichlet distribution.
        rewards: (S, A, b) rewards of the transitions, standard normal.
    """
    pairs = n_states * n_actions
    chosen = np.stack([rng.choice(n_states, branching, replace=False) for _ in range(pairs)])
    shape = (n_states, n_actions, branching)
    probs = rng.dirichlet(np.ones(branching), pairs).reshape(shape)
    return chosen.reshape(shape), probs, rng.normal(size=shape)


def garnet(rng, n_states=6, n_actions=3, branching=3, gamma=0.9, n_terminal=0) -> TabularMDP:
    """A garnet as tables; the last `n_terminal` states are terminal."""
    next_states, probs, rewards = garnet_lists(rng, n_states, n_actions, branching)
    P = np.zeros((n_states, n_actions, n_states))
    R = np.zeros_like(P)
    np.put_along_axis(P, next_states, probs, axis=-1)
    np.put_along_axis(R, next_states, rewards, axis=-1)
    terminal = np.arange(n_states) >= n_states - n_terminal
    P[terminal], R[terminal] = 0.0, 0.0
    for s in np.flatnonzero(terminal):
        P[s, :, s] = 1.0
    rho0 = np.where(terminal, 0.0, 1.0) / (~terminal).sum()
    names = tuple(map(str, range(n_states))), tuple(map(str, range(n_actions)))
    return TabularMDP(P, R, rho0, gamma, terminal, *names)
