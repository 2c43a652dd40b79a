"""Chapter 3: value functions, Bellman equations, and planning with a known model.

`mdp` is a rlcourse.envs.TabularMDP: P[s, a, s'], R[s, a, s'], gamma, terminal[s].
A terminal state loops to itself with reward 0.
"""

import numpy as np

from solutions.ch02_mdp import induced_chain


def action_values(mdp, V):
    """Value of each action if the values of the next states are V (eq-q-from-v).

    Args:
        mdp: tables with S states and A actions.
        V: (S,) state values. V^pi gives Q^pi, V* gives Q*.

    Returns:
        Q: (S, A), Q[s, a] = sum over s' of P[s, a, s'] (R[s, a, s'] + gamma V[s']).

    Source: Sutton and Barto (2018), eq. 4.6.
    """
    return (mdp.P * (mdp.R + mdp.gamma * V)).sum(-1)  # (S, A)


def state_values(Q, pi):
    """The policy's mean of Q[s, a] over actions, (S,) (eq-v-from-q)."""
    return (pi * Q).sum(-1)  # (S,)


def advantages(Q, pi):
    """How much better each action is than the policy's own average (eq-advantage).

    Args:
        Q: (S, A) action values of the policy.
        pi: (S, A) action probabilities, rows sum to 1.

    Returns:
        (S, A), Q[s, a] - V[s], where V is the mean of Q under pi. Not normalised.
    """
    return Q - state_values(Q, pi)[:, None]  # (S, A)


def evaluate_policy_exact(mdp, pi):
    """V^pi by solving (I - gamma P_pi) V = r_pi (eq-bellman-matrix).

    A terminal state has value 0: the columns of P_pi that lead into one are set to 0.
    Then gamma = 1 works too, if pi ends every episode with probability 1 (if not, the
    system is singular).

    Args:
        mdp: tables with S states and A actions; gamma in [0, 1].
        pi: (S, A) action probabilities.

    Returns:
        (S,) values; 0 in terminal states.
    """
    P_pi, r_pi = induced_chain(mdp, pi)  # (S, S), (S,)
    P_pi[:, mdp.terminal] = 0.0
    return np.linalg.solve(np.eye(len(r_pi)) - mdp.gamma * P_pi, r_pi)


def evaluation_sweeps(mdp, pi, sweeps):
    """Policy evaluation by sweeps from V_0 = 0 (eq-evaluation-sweep).

    Returns all iterates, (sweeps + 1, S).
    """
    history = [np.zeros(len(mdp.P))]
    for _ in range(sweeps):
        history.append(state_values(action_values(mdp, history[-1]), pi))
    return np.array(history)


def greedy_policy(Q, tie_tol=1e-9):
    """The policy that takes the best actions, ties in equal shares (eq-optimal-policy).

    Args:
        Q: (S, A) action values.
        tie_tol: an action within tie_tol of the row's best counts as best.

    Returns:
        pi: (S, A) floats, 1 / (number of best actions) on each best action, else 0.
    """
    best = Q >= Q.max(-1, keepdims=True) - tie_tol  # (S, A)
    return best / best.sum(-1, keepdims=True)


def value_iteration(mdp, tol=1e-8, max_sweeps=100_000):
    """Optimal values by optimality backups (eq-value-iteration, eq-stop-bound).

    Starts from V_0 = 0. Sweeps are synchronous: V_k is computed from V_{k-1} alone.
    Stops at the first k with gamma max|V_k - V_{k-1}| <= (1 - gamma) tol, which makes
    max|V_k - V*| <= tol. With gamma = 1 it stops when nothing changes any more.

    Args:
        mdp: tables with S states and A actions; gamma in [0, 1].
        tol: the largest error of V that is accepted.
        max_sweeps: give up after so many sweeps.

    Returns:
        V: (S,), the iterate V_k; k: the number of sweeps done.

    Raises:
        RuntimeError: if max_sweeps sweeps were not enough.
    """
    V = np.zeros(len(mdp.P))
    for k in range(1, max_sweeps + 1):
        V_old, V = V, action_values(mdp, V).max(-1)
        change = np.abs(V - V_old).max()
        if mdp.gamma * change <= (1 - mdp.gamma) * tol:
            return V, k
    raise RuntimeError(f"not converged after {max_sweeps} sweeps")


def policy_iteration(mdp, pi):
    """Evaluate exactly, act greedily, until nothing changes (eq-policy-improvement).

    Args:
        mdp: tables with S states and A actions; gamma in [0, 1].
        pi: (S, A) first policy; if gamma = 1 it must end every episode.

    Returns:
        pi: (S, A) optimal policy, equal shares among ties (as greedy_policy);
        V: (S,) its exact values; rounds: the number of evaluations done.
    """
    rounds = 0
    while True:
        V, rounds = evaluate_policy_exact(mdp, pi), rounds + 1
        improved = greedy_policy(action_values(mdp, V))
        if np.array_equal(improved, pi):
            return pi, V, rounds
        pi = improved


def tables_from_gym(table):
    """Gymnasium's `env.unwrapped.P` as arrays, with terminal states handled right.

    Args:
        table: `table[s][a]` is a list of outcomes (probability, next state, reward,
            terminated). Several outcomes of one (s, a) may lead to the same state.

    Returns:
        P: (S, A, S) transition probabilities;
        R: (S, A, S) mean reward of each transition, 0 where P is 0;
        terminal: (S,) bool, the states that some outcome enters with terminated = True.
            They loop to themselves with reward 0, whatever the table says of them.
    """
    n_states, n_actions = len(table), len(table[0])
    P, R = np.zeros((2, n_states, n_actions, n_states))
    terminal = np.zeros(n_states, dtype=bool)
    for s in range(n_states):
        for a in range(n_actions):
            for p, s_next, r, terminated in table[s][a]:
                P[s, a, s_next] += p
                R[s, a, s_next] += p * r
                terminal[s_next] |= terminated
    R = np.divide(R, P, out=np.zeros_like(R), where=P > 0)
    P[terminal], R[terminal] = 0.0, 0.0
    P[terminal, :, terminal] = 1.0
    return P, R, terminal


def sparse_value_iteration(next_states, probs, rewards, gamma, tol=1e-8):
    """Value iteration for large sparse MDPs with a span stop (eq-span-bounds).

    Args:
        next_states, probs, rewards: (S, A, b), the b successors of each pair (s, a).
            A pair's probabilities sum to 1; pad shorter lists with probability 0.
        gamma: in [0, 1).
        tol: the largest error of V that is accepted.

    Returns:
        V: (S,) values with max|V - V*| <= tol; k: the number of sweeps done.

    Source: bounds of MacQueen (1966); Puterman (1994), section 6.6.
    """
    after = np.ascontiguousarray(next_states.T)  # (b, A, S): sums over b and max over A
    p = np.ascontiguousarray(gamma * probs.T)  # (b, A, S)  then run along memory
    r = np.ascontiguousarray((probs * rewards).sum(-1).T)  # (A, S)
    V, k = np.zeros(len(next_states)), 0
    while True:
        V_old, V = V, (r + (p * V[after]).sum(0)).max(0)  # (b, A, S) -> (A, S) -> (S,)
        k += 1
        low = gamma / (1 - gamma) * (V - V_old).min()
        high = gamma / (1 - gamma) * (V - V_old).max()
        if high - low <= 2 * tol:
            return V + (low + high) / 2, k
