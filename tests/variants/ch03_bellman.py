"""Correct but different versions of chapter 3's exercises."""

import numpy as np


def action_values__mean_reward_first(mdp, V):
    """R(s, a) first, then a matrix product for the future."""
    return np.einsum("san,san->sa", mdp.P, mdp.R) + mdp.gamma * mdp.P @ V


def action_values__loops(mdp, V):
    """The definition, one state and action at a time."""
    S, A, _ = mdp.P.shape
    rows = [[sum(mdp.P[s, a] * (mdp.R[s, a] + mdp.gamma * V)) for a in range(A)] for s in range(S)]
    return np.array(rows)


def advantages__pairwise(Q, pi):
    """The mean of the differences Q[s, a] - Q[s, b] over b."""
    return np.einsum("sb,sab->sa", pi, Q[:, :, None] - Q[:, None, :])


def evaluate_policy_exact__living_states_only(mdp, pi):
    """Solves only for the states that are not terminal."""
    alive = ~mdp.terminal
    P = np.einsum("sa,san->sn", pi, mdp.P)[np.ix_(alive, alive)]
    r = (pi * (mdp.P * mdp.R).sum(-1)).sum(-1)[alive]
    V = np.zeros(len(alive))
    V[alive] = np.linalg.inv(np.eye(alive.sum()) - mdp.gamma * P) @ r
    return V


def evaluate_policy_exact__neumann(mdp, pi):
    """Adds up the rewards of 2, 4, 8, … steps."""
    P = mdp.gamma * np.einsum("sa,san->sn", pi, mdp.P)
    V = (pi * (mdp.P * mdp.R).sum(-1)).sum(-1)
    for _ in range(16):
        V, P = V + P @ V, P @ P
    return V


def greedy_policy__row_by_row(Q, tie_tol=1e-9):
    """One state at a time."""
    pi = np.zeros(Q.shape)
    for s, row in enumerate(Q):
        best = np.flatnonzero(row.max() - row <= tie_tol)
        pi[s, best] = 1 / len(best)
    return pi


def policy_iteration__solves_itself(mdp, pi):
    """Stops when the greedy policy's support is the policy's."""
    pi, rounds = np.array(pi), 0
    eye = np.eye(len(pi))
    while True:
        P = np.einsum("sa,san->sn", pi, mdp.P) * ~mdp.terminal
        V = np.linalg.solve(eye - mdp.gamma * P, np.einsum("sa,san,san->s", pi, mdp.P, mdp.R))
        rounds += 1
        Q = np.einsum("san,san->sa", mdp.P, mdp.R + mdp.gamma * V)
        best = np.abs(Q - Q.max(1, keepdims=True)) <= 1e-9
        improved = best / best.sum(1, keepdims=True)
        if np.abs(improved - pi).max() == 0:
            return improved, V, rounds
        pi = improved


def value_iteration__while_loop(mdp, tol=1e-8, max_sweeps=100_000):
    """A while loop and a list of all iterates."""
    history = [np.zeros(len(mdp.P))]
    while len(history) <= max_sweeps:
        Q = np.einsum("san,san->sa", mdp.P, mdp.R) + mdp.gamma * mdp.P @ history[-1]
        history.append(np.amax(Q, axis=1))
        step = np.linalg.norm(history[-1] - history[-2], np.inf)
        if mdp.gamma * step <= tol * (1 - mdp.gamma):
            return history[-1], len(history) - 1
    raise RuntimeError("too few sweeps")


def value_iteration__loops(mdp, tol=1e-8, max_sweeps=100_000):
    """State by state, but into a fresh array."""
    S, A, _ = mdp.P.shape
    mean_reward = (mdp.P * mdp.R).sum(-1)
    V = [0.0] * S
    for k in range(1, max_sweeps + 1):
        new = [max(mean_reward[s, a] + mdp.gamma * (mdp.P[s, a] @ V) for a in range(A)) for s in range(S)]
        change = max(abs(x - y) for x, y in zip(new, V, strict=True))
        V = new
        if mdp.gamma * change <= (1 - mdp.gamma) * tol:
            return np.array(V), k
    raise RuntimeError("too few sweeps")


def tables_from_gym__terminal_first(table):
    """Finds the terminal states first and skips their rows."""
    S, A = len(table), len(table[0])
    ends = {n for s in range(S) for a in range(A) for _, n, _, terminated in table[s][a] if terminated}
    P, paid = np.zeros((S, A, S)), np.zeros((S, A, S))
    for s in range(S):
        for a in range(A):
            if s in ends:
                P[s, a, s] = 1.0
                continue
            for p, n, r, _ in table[s][a]:
                P[s, a, n] += p
                paid[s, a, n] += p * r
    R = np.where(P > 0, paid / np.where(P > 0, P, 1.0), 0.0)
    return P, R, np.isin(np.arange(S), list(ends))
