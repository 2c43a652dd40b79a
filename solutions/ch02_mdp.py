"""Chapter 2: Markov decision processes, trajectories, returns, and the objective.

Tables are indexed P[s, a, s'] and R[s, a, s']. A policy is a table pi[s, a]; its rows
sum to 1.
"""

import itertools
from typing import NamedTuple

import numpy as np
from rlcourse.envs import TabularMDP


class Trajectory(NamedTuple):
    """One run; rewards[t] is R_{t+1}, the reward that follows actions[t]."""

    states: list  # T + 1 state numbers S_0 .. S_T
    actions: list  # T action numbers A_0 .. A_{T-1}
    rewards: list  # T floats R_1 .. R_T
    terminated: bool  # S_T is terminal; False means that we stopped watching


def expected_rewards(P, R):
    """Expected reward of each state and action (eq-expected-reward).

    Args:
        P: (S, A, S) transition probabilities P[s, a, s'].
        R: (S, A, S) reward of each transition; any number where P is 0. Not changed.

    Returns:
        (S, A) array, the mean of R_{t+1} given S_t = s and A_t = a.

    Source: Sutton and Barto (2018), eq. 3.5.
    """
    return (P * R).sum(axis=-1)  # (S, A)


def induced_chain(mdp, pi):
    """What is left when a policy makes the choices (eq-induced-chain).

    Args:
        mdp: a TabularMDP.
        pi: (S, A) action probabilities.

    Returns:
        P_pi: (S, S) probabilities of s' after s.
        r_pi: (S,) expected reward of the step that leaves s.
    """
    P_pi = np.einsum("sa,san->sn", pi, mdp.P)  # (S, S)
    r_pi = (pi * expected_rewards(mdp.P, mdp.R)).sum(axis=1)  # (S,)
    return P_pi, r_pi


def sample_trajectory(mdp, pi, rng, max_steps=1000):
    """Play one episode, as in the algorithm box of the chapter.

    Args:
        mdp: a TabularMDP; mdp.terminal[s] says where an episode ends.
        pi: (S, A) action probabilities.
        rng: numpy Generator, the only source of randomness.
        max_steps: stop after this many actions at the latest (truncation).

    Returns:
        A Trajectory, or a plain tuple in the same order: T + 1 states, T actions,
        T rewards, terminated. terminated is True if and only if the last state is
        terminal, also when that was the last step allowed. No action is taken in a
        terminal state.
    """
    states, actions, rewards = [int(rng.choice(len(mdp.rho0), p=mdp.rho0))], [], []
    while not mdp.terminal[states[-1]] and len(actions) < max_steps:
        s = states[-1]
        a = int(rng.choice(len(pi[s]), p=pi[s]))
        s_next = int(rng.choice(len(mdp.P), p=mdp.P[s, a]))
        actions.append(a)
        rewards.append(float(mdp.R[s, a, s_next]))
        states.append(s_next)
    return Trajectory(states, actions, rewards, bool(mdp.terminal[states[-1]]))


def trajectory_logprob(states, actions, mdp, pi):
    """Log of the probability of a trajectory (eq-trajectory-probability).

    Args:
        states: T + 1 state numbers.
        actions: T action numbers; T may be 0.
        mdp: a TabularMDP.
        pi: (S, A) action probabilities.

    Returns:
        log rho0(s_0) + sum over t of [log pi(a_t | s_t) + log P(s_{t+1} | s_t, a_t)],
        a float; -inf for an impossible trajectory, finite for a possible one.
    """
    factors = [mdp.rho0[states[0]]]
    for s, a, s_next in zip(states[:-1], actions, states[1:], strict=True):
        factors += [pi[s, a], mdp.P[s, a, s_next]]
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant
        return float(np.log(factors).sum())


def discounted_return(rewards, gamma):
    """Return of the first step of an episode (eq-return), in one pass from the end.

    Args:
        rewards: list of T floats, rewards[t] is R_{t+1}, the reward that follows A_t.
            Not changed.
        gamma: discount factor in [0, 1].

    Returns:
        G_0 = R_1 + gamma R_2 + gamma^2 R_3 + ..., a float; 0.0 for an empty list.

    Source: Sutton and Barto (2018), eq. 3.8 and 3.9.
    """
    g = 0.0
    for r in reversed(rewards):
        g = r + gamma * g
    return g


def returns_to_go(rewards, gamma):
    """The return of every step, by the backward recursion (eq-return-recursion).

    Args:
        rewards: T numbers, rewards[t] is R_{t+1}; a list or an array, integers allowed.
            Not changed.
        gamma: discount factor in [0, 1].

    Returns:
        (T,) float array of G_0 .. G_{T-1}; G_t is discounted from step t on.
    """
    returns = np.zeros(len(rewards))
    g = 0.0
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        returns[t] = g
    return returns


def monte_carlo_objective(sample_return, episodes):
    """Estimate J from independent episodes (eq-monte-carlo).

    Args:
        sample_return: function without arguments; a call plays one episode and returns
            its G_0.
        episodes: how many episodes to play, at least 2: exactly so many calls.

    Returns:
        mean: estimate of J, a float.
        stderr: its standard error, a float: the sample standard deviation (divisor
            episodes - 1) divided by the square root of episodes.

    Raises:
        ValueError: if episodes < 2; one episode says nothing about the spread.
    """
    if episodes < 2:
        raise ValueError(f"a standard error needs at least 2 episodes, not {episodes}")
    returns = np.array([sample_return() for _ in range(episodes)])
    return float(returns.mean()), float(returns.std(ddof=1) / np.sqrt(episodes))


def enumerate_trajectories(mdp, pi, horizon):
    """All trajectories of at most `horizon` steps, with their probabilities.

    Args:
        mdp: a TabularMDP.
        pi: (S, A) action probabilities.
        horizon: number of steps after which an unfinished episode is cut; may be 0.

    Returns:
        List of (probability, Trajectory), in any order: every trajectory with positive
        probability that reaches a terminal state or has `horizon` steps, once. The
        probabilities sum to 1. Plain tuples will do.
    """
    found = []

    def extend(p, states, actions, rewards):
        s = states[-1]
        if mdp.terminal[s] or len(actions) == horizon:
            terminated = bool(mdp.terminal[s])
            found.append((p, Trajectory(states, actions, rewards, terminated)))
            return
        for a in np.flatnonzero(pi[s]).tolist():
            for s_next in np.flatnonzero(mdp.P[s, a]).tolist():
                r = float(mdp.R[s, a, s_next])
                p_next = p * pi[s, a] * mdp.P[s, a, s_next]
                extend(p_next, [*states, s_next], [*actions, a], [*rewards, r])

    for s in np.flatnonzero(mdp.rho0).tolist():
        extend(mdp.rho0[s], [s], [], [])
    return found


def objective_bounds(mdp, pi, horizon):
    """Bounds on J from all trajectories of at most `horizon` steps (eq-tail-bound).

    Returns (lower, upper): the part of J that was seen, plus the least and the most
    that the unfinished trajectories can still collect. Needs gamma < 1.
    """
    seen, unfinished = 0.0, 0.0
    for p, (_, _, rewards, terminated) in enumerate_trajectories(mdp, pi, horizon):
        seen += p * discounted_return(rewards, mdp.gamma)
        unfinished += p * (not terminated)
    possible = mdp.R[mdp.P > 0]
    tail = unfinished * mdp.gamma**horizon / (1 - mdp.gamma)
    return seen + tail * possible.min(), seen + tail * possible.max()


def objective_by_states(mdp, pi, horizon=400):
    """J, step by step: push the state distribution along (eq-objective-states).

    Returns the expected discounted reward of the first `horizon` steps, a float. What
    is left out is at most gamma^horizon / (1 - gamma) times the largest reward.
    """
    P_pi, r_pi = induced_chain(mdp, pi)
    d, J = mdp.rho0, 0.0  # d[s] = Pr(S_t = s)
    for t in range(horizon):
        J += mdp.gamma**t * (d @ r_pi)
        d = d @ P_pi
    return float(J)


def best_by_brute_force(mdp, looks):
    """The best deterministic policy that acts alike in states that look alike.

    looks: (S,) integers, the observation that the agent gets in each state, numbered from
    0. With looks = 0 .. S-1 it sees the state. Returns (J, action for each observation).
    """
    A = mdp.P.shape[1]
    choices = itertools.product(range(A), repeat=max(looks) + 1)
    tables = {c: np.eye(A)[np.array(c)[looks]] for c in choices}  # each (S, A)
    return max((objective_by_states(mdp, pi), c) for c, pi in tables.items())


def with_last_action(mdp):
    """The same world for an agent that remembers its last action.

    The new state number is s * (A + 1) + m, where m is 0 before the first action and
    1 + a after action a. Returns a TabularMDP with S * (A + 1) states.
    """
    S, A = mdp.P.shape[:2]
    P, R = np.zeros((2, S, A + 1, A, S, A + 1))
    for a in range(A):
        P[:, :, a, :, 1 + a] = mdp.P[:, None, a]
        R[:, :, a, :, 1 + a] = mdp.R[:, None, a]
    rho0 = np.zeros((S, A + 1))
    rho0[:, 0] = mdp.rho0
    n = S * (A + 1)
    P, R = P.reshape(n, A, n), R.reshape(n, A, n)  # (S (A + 1), A, S (A + 1))
    terminal = np.repeat(mdp.terminal, A + 1)
    return mdp._replace(P=P, R=R, rho0=rho0.ravel(), terminal=terminal, states=())


def token_mdp(answers, vocabulary, max_tokens):
    """Writing a reply token by token, as an MDP with gamma = 1.

    A state is a tuple (prompt, token, token, ...), an action the next token, which is
    appended. A reply ends with the token "." or at max_tokens. The last step pays 1 if
    the reply equals the prompt's entry in `answers` (a dict from prompt to tuple of
    tokens), every other step 0.
    """
    states = [(prompt,) for prompt in answers]
    for s in states:  # the list grows while we walk along it
        if len(s) <= max_tokens and s[-1] != ".":
            states += [(*s, token) for token in vocabulary]
    number = {s: i for i, s in enumerate(states)}
    P, R = np.zeros((2, len(states), len(vocabulary), len(states)))
    for i, s in enumerate(states):
        for a, token in enumerate(vocabulary):
            j = number.get((*s, token), i)  # a finished reply stays as it is
            P[i, a, j] = 1.0
            R[i, a, j] = float(j != i and states[j][1:] == answers[s[0]])
    rho0 = np.array([len(s) == 1 for s in states]) / len(answers)
    terminal = P[range(len(states)), 0, range(len(states))] == 1
    return TabularMDP(P, R, rho0, 1.0, terminal, tuple(states), tuple(vocabulary))
