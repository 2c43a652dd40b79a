"""Wrong versions of chapter 3's exercises; each docstring is the diagnosis that a learner reads."""

import numpy as np


def action_values__most_likely(mdp, V):
    """You follow only the most likely next state. The value is the mean over all next states, weighted by
    P.
    """
    n = mdp.P.argmax(-1)
    rewards = np.take_along_axis(mdp.R, n[..., None], axis=-1)[..., 0]
    return rewards + mdp.gamma * V[n]


def action_values__best_case(mdp, V):
    """You take the best next state instead of the mean: the agent chooses its action, not where it lands."""
    return np.where(mdp.P > 0, mdp.R + mdp.gamma * V, -np.inf).max(-1)


def action_values__no_gamma(mdp, V):
    """The value of the next state is not discounted: gamma is missing."""
    return (mdp.P * (mdp.R + V)).sum(-1)


def action_values__reward_discounted(mdp, V):
    """You discount the immediate reward too: gamma belongs to the value of the next state only."""
    return mdp.gamma * (mdp.P * (mdp.R + V)).sum(-1)


def action_values__rewards_unweighted(mdp, V):
    """The rewards are summed without their probabilities: P weights the reward as well as the next value."""
    return mdp.R.sum(-1) + mdp.gamma * (mdp.P @ V)


def action_values__value_of_this_state(mdp, V):
    """You use V of the state you are in. V[:, None, None] runs along s; the next state is the last axis."""
    return (mdp.P * (mdp.R + mdp.gamma * V[:, None, None])).sum(-1)


def action_values__in_place(mdp, V):
    """The numbers are right, but `R += gamma * V` writes into the MDP: the next call starts from wrong
    rewards.
    """
    R = mdp.R
    R += mdp.gamma * V
    return (mdp.P * R).sum(-1)


def advantages__uniform_mean(Q, pi):
    """You subtract the plain mean over actions. The baseline is the mean under the policy, sum of pi * Q."""
    return Q - Q.mean(-1, keepdims=True)


def advantages__minus_best(Q, pi):
    """You subtract the best action's value: that is the negative regret, which is never positive."""
    return Q - Q.max(-1, keepdims=True)


def advantages__wrong_sign(Q, pi):
    """The sign is wrong: better than average must come out positive, Q - V and not V - Q."""
    return (pi * Q).sum(-1, keepdims=True) - Q


def advantages__wrong_axis(Q, pi):
    """`Q - V` subtracts V[a] from column a, because numpy lines V up with the last axis. Use V[:, None]."""
    return Q - (pi * Q).sum(-1)


def advantages__likeliest_action(Q, pi):
    """You compare with the value of the policy's most likely action, not with its mean over actions."""
    return Q - np.take_along_axis(Q, pi.argmax(-1)[:, None], axis=-1)


def advantages__normalised(Q, pi):
    """You divide by the standard deviation: some training loops do, but the advantage is a plain
    difference.
    """
    A = Q - (pi * Q).sum(-1, keepdims=True)
    return A / A.std()


def advantages__weighted(Q, pi):
    """You multiply by pi: this is each action's share in the mean, which sums to 0 without further
    weights.
    """
    return pi * (Q - (pi * Q).sum(-1, keepdims=True))


def advantages__in_place(Q, pi):
    """The numbers are right, but `Q -= V` overwrites the caller's action values."""
    Q -= (pi * Q).sum(-1, keepdims=True)
    return Q


def _solve(mdp, P_pi, r_pi):
    P_pi = np.where(mdp.terminal, 0.0, P_pi)
    return np.linalg.solve(np.eye(len(r_pi)) - mdp.gamma * P_pi, r_pi)


def _mean_tables(mdp, pi):
    return np.einsum("sa,san->sn", pi, mdp.P), np.einsum("sa,san,san->s", pi, mdp.P, mdp.R)


def evaluate_policy_exact__terminal_not_masked(mdp, pi):
    """Terminal states loop to themselves, so with gamma = 1 the matrix I - P_pi is singular. Mask them."""
    P_pi, r_pi = _mean_tables(mdp, pi)
    return np.linalg.solve(np.eye(len(r_pi)) - mdp.gamma * P_pi, r_pi)


def evaluate_policy_exact__policy_ignored(mdp, pi):
    """You average over the actions with equal weights: the policy is not used."""
    return _solve(mdp, *_mean_tables(mdp, np.full(mdp.P.shape[:2], 1 / mdp.P.shape[1])))


def evaluate_policy_exact__likeliest_action(mdp, pi):
    """You evaluate only the policy's most likely action. A stochastic policy is an average over its
    actions.
    """
    return _solve(mdp, *_mean_tables(mdp, np.eye(mdp.P.shape[1])[pi.argmax(-1)]))


def evaluate_policy_exact__transposed(mdp, pi):
    """The transition matrix is transposed: row s of P_pi holds where s leads to. This runs time backwards."""
    P_pi, r_pi = _mean_tables(mdp, pi)
    return _solve(mdp, P_pi.T, r_pi)


def evaluate_policy_exact__no_gamma(mdp, pi):
    """gamma is missing from the matrix I - gamma P_pi: this is the undiscounted value."""
    return _solve(mdp._replace(gamma=1 - 1e-9), *_mean_tables(mdp, pi))


def evaluate_policy_exact__rewards_unweighted(mdp, pi):
    """The mean reward lacks the transition probabilities: r_pi is the sum of pi * P * R over actions and
    s'.
    """
    return _solve(mdp, _mean_tables(mdp, pi)[0], np.einsum("sa,san->s", pi, mdp.R))


def evaluate_policy_exact__one_backup(mdp, pi):
    """This is one step of lookahead, r + gamma P r, not the solution of the equation: V stands on both
    sides.
    """
    P_pi, r_pi = _mean_tables(mdp, pi)
    return r_pi + mdp.gamma * P_pi @ r_pi


def evaluate_policy_exact__in_place(mdp, pi):
    """The numbers are right, but you set P of the MDP itself to 0 where it leads into a terminal state."""
    r_pi = np.einsum("sa,san,san->s", pi, mdp.P, mdp.R)
    mdp.P[:, :, mdp.terminal] = 0.0
    return np.linalg.solve(np.eye(len(r_pi)) - mdp.gamma * np.einsum("sa,san->sn", pi, mdp.P), r_pi)


def greedy_policy__first_of_ties(Q, tie_tol=1e-9):
    """argmax gives the whole probability to the first of several best actions: ties share it equally."""
    return np.eye(Q.shape[1])[Q.argmax(-1)]


def greedy_policy__exact_comparison(Q, tie_tol=1e-9):
    """`Q == Q.max()` misses ties that differ in the last digit: compare within tie_tol."""
    best = Q == Q.max(-1, keepdims=True)
    return best / best.sum(-1, keepdims=True)


def greedy_policy__relative_tolerance(Q, tie_tol=1e-9):
    """np.isclose adds a relative tolerance of 1e-5, so that large values tie by mistake: set rtol=0."""
    best = np.isclose(Q, Q.max(-1, keepdims=True), atol=tie_tol)
    return best / best.sum(-1, keepdims=True)


def greedy_policy__not_shared(Q, tie_tol=1e-9):
    """Every tied action gets probability 1: divide by the number of best actions, so that rows sum to 1."""
    return (Q >= Q.max(-1, keepdims=True) - tie_tol).astype(float)


def greedy_policy__one_maximum_for_all(Q, tie_tol=1e-9):
    """You take the maximum over the whole table: each state has its own best action (axis=-1)."""
    best = Q >= Q.max() - tie_tol
    return best / np.maximum(best.sum(-1, keepdims=True), 1)


def greedy_policy__lowest(Q, tie_tol=1e-9):
    """You take the smallest value. Q is a reward to gain, not a cost to avoid."""
    best = Q <= Q.min(-1, keepdims=True) + tie_tol
    return best / best.sum(-1, keepdims=True)


def greedy_policy__softmax(Q, tie_tol=1e-9):
    """This is a softmax: it gives every action some probability. Greedy means the best actions only."""
    e = np.exp(Q - Q.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def greedy_policy__tolerance_fixed(Q, tie_tol=1e-9):
    """The parameter tie_tol is not used: 1e-9 stands in the code."""
    best = Q >= Q.max(-1, keepdims=True) - 1e-9
    return best / best.sum(-1, keepdims=True)


def _q(mdp, V):
    return (mdp.P * (mdp.R + mdp.gamma * V)).sum(-1)


def _exact(mdp, pi):
    return _solve(mdp, *_mean_tables(mdp, pi))


def _greedy(Q):
    best = Q >= Q.max(-1, keepdims=True) - 1e-9
    return best / best.sum(-1, keepdims=True)


def policy_iteration__one_round(mdp, pi):
    """You improve once and stop. The improved policy has other values, so another improvement may follow."""
    improved = _greedy(_q(mdp, _exact(mdp, pi)))
    return improved, _exact(mdp, improved), 2


def policy_iteration__stale_values(mdp, pi):
    """The values belong to the policy before the last improvement: evaluate again before you return."""
    V, rounds, old = _exact(mdp, pi), 1, None
    while True:
        improved = _greedy(_q(mdp, V))
        if np.array_equal(improved, pi):
            return pi, V if old is None else old, rounds
        pi, old = improved, V
        V, rounds = _exact(mdp, pi), rounds + 1


def policy_iteration__myopic(mdp, pi):
    """You improve with the immediate rewards only: greedy means greedy for R + gamma V, not for R."""
    improved = _greedy((mdp.P * mdp.R).sum(-1))
    return improved, _exact(mdp, improved), 1 if np.array_equal(improved, pi) else 2


def policy_iteration__first_of_ties(mdp, pi):
    """Ties are broken by argmax: right values, but the policy leaves out actions that are just as good."""
    rounds = 0
    while True:
        V, rounds = _exact(mdp, pi), rounds + 1
        Q = _q(mdp, V)
        improved = np.eye(Q.shape[1])[np.round(Q, 9).argmax(-1)]
        if np.array_equal(improved, pi):
            return pi, V, rounds
        pi = improved


def policy_iteration__counts_improvements(mdp, pi):
    """The count is one short: the last evaluation, which finds nothing to improve, is work done too."""
    for rounds in range(1000):
        V = _exact(mdp, pi)
        improved = _greedy(_q(mdp, V))
        if np.array_equal(improved, pi):
            return pi, V, rounds
        pi = improved


def policy_iteration__first_policy_forever(mdp, pi):
    """You evaluate the first policy in every round: the loop never uses the policy that it has improved."""
    V = _exact(mdp, pi)
    return _greedy(_q(mdp, V)), V, 1


def policy_iteration__worst_action(mdp, pi):
    """You improve towards the smallest action value, so the policy gets worse with every round."""
    for rounds in range(1, 100):
        V = _exact(mdp, pi)
        improved = _greedy(-_q(mdp, V))
        if np.array_equal(improved, pi) or mdp.gamma == 1:
            return pi, V, rounds
        pi = improved


def policy_iteration__in_place(mdp, pi):
    """The result is right, but `pi[:] = improved` overwrites the caller's first policy."""
    rounds = 0
    while True:
        V, rounds = _exact(mdp, pi), rounds + 1
        improved = _greedy(_q(mdp, V))
        if np.array_equal(improved, pi):
            return pi, V, rounds
        pi[:] = improved


def _iterate(mdp, tol, max_sweeps, backup=None, size=None):
    backup = backup or (lambda V: _q(mdp, V).max(-1))
    size = size or (lambda d: np.abs(d).max())
    V = np.zeros(len(mdp.P))
    for k in range(1, max_sweeps + 1):
        V_old, V = V, backup(V)
        if mdp.gamma * size(V - V_old) <= (1 - mdp.gamma) * tol:
            return V, k
    raise RuntimeError("not converged")


def value_iteration__naive_stop(mdp, tol=1e-8, max_sweeps=100_000):
    """You stop when a sweep changes V by less than tol. The error may be gamma / (1 - gamma) times larger."""
    V = np.zeros(len(mdp.P))
    for k in range(1, max_sweeps + 1):
        V_old, V = V, _q(mdp, V).max(-1)
        if np.abs(V - V_old).max() <= tol:
            return V, k
    raise RuntimeError("not converged")


def value_iteration__signed_change(mdp, tol=1e-8, max_sweeps=100_000):
    """The change has no absolute value: falling values look like convergence, and you stop at once."""
    return _iterate(mdp, tol, max_sweeps, size=lambda d: d.max())


def value_iteration__mean_change(mdp, tol=1e-8, max_sweeps=100_000):
    """You stop on the mean change over the states: the bound needs the largest change of any state."""
    return _iterate(mdp, tol, max_sweeps, size=lambda d: np.abs(d).mean())


def value_iteration__best_case(mdp, tol=1e-8, max_sweeps=100_000):
    """You take the maximum over next states as well: the agent chooses its action, not where it lands."""

    def backup(V):
        return np.where(mdp.P > 0, mdp.R + mdp.gamma * V, -np.inf).max((-2, -1))

    return _iterate(mdp, tol, max_sweeps, backup)


def value_iteration__mean_over_actions(mdp, tol=1e-8, max_sweeps=100_000):
    """You average over the actions: this evaluates the random policy. The optimal value takes the maximum."""
    if mdp.gamma == 1:
        max_sweeps = 1
    return _iterate(mdp, tol, max_sweeps, lambda V: _q(mdp, V).mean(-1))


def value_iteration__most_likely(mdp, tol=1e-8, max_sweeps=100_000):
    """You follow only the most likely next state: this ignores the transition probabilities."""
    n = mdp.P.argmax(-1)
    rewards = np.take_along_axis(mdp.R, n[..., None], axis=-1)[..., 0]
    return _iterate(mdp, tol, max_sweeps, lambda V: (rewards + mdp.gamma * V[n]).max(-1))


def value_iteration__argmax(mdp, tol=1e-8, max_sweeps=100_000):
    """You return argmax, the numbers of the best actions. The value is max, what the best action is worth."""
    V, k = _iterate(mdp, tol, max_sweeps)
    return _q(mdp, V).argmax(-1), k


def value_iteration__in_place(mdp, tol=1e-8, max_sweeps=100_000):
    """You update V in place, state by state (Gauss-Seidel): it converges too, but these are no synchronous
    sweeps.
    """

    def backup(V):
        V = V.copy()
        for s in range(len(V)):
            V[s] = (mdp.P[s] * (mdp.R[s] + mdp.gamma * V)).sum(-1).max()
        return V

    return _iterate(mdp, tol, max_sweeps, backup)


def value_iteration__previous_iterate(mdp, tol=1e-8, max_sweeps=100_000):
    """You return V_{k-1}, the iterate before the last sweep: the bound holds for V_k."""
    V = np.zeros(len(mdp.P))
    for k in range(1, max_sweeps + 1):
        V_new = _q(mdp, V).max(-1)
        if mdp.gamma * np.abs(V_new - V).max() <= (1 - mdp.gamma) * tol:
            return V, k
        V = V_new
    raise RuntimeError("not converged")


def value_iteration__silent(mdp, tol=1e-8, max_sweeps=100_000):
    """When max_sweeps run out you return V as if it had converged. Raise RuntimeError, so that nobody
    trusts it.
    """
    V, k, change = np.zeros(len(mdp.P)), 0, np.inf
    while k < max_sweeps and mdp.gamma * change > (1 - mdp.gamma) * tol:
        V_old, V, k = V, _q(mdp, V).max(-1), k + 1
        change = np.abs(V - V_old).max()
    return V, k


def value_iteration__divides_by_zero(mdp, tol=1e-8, max_sweeps=100_000):
    """tol * (1 - gamma) / gamma divides by 0 when gamma = 0: multiply the change by gamma instead."""
    V = np.zeros(len(mdp.P))
    for k in range(1, max_sweeps + 1):
        V_old, V = V, _q(mdp, V).max(-1)
        if np.abs(V - V_old).max() <= tol * (1 - mdp.gamma) / float(mdp.gamma):
            return V, k
    raise RuntimeError("not converged")


def _tables(table, add_p=True, add_r=True, divide=True, entered=True, absorb=True, keep_reward=False):
    n_states, n_actions = len(table), len(table[0])
    P, R = np.zeros((2, n_states, n_actions, n_states))
    terminal = np.zeros(n_states, dtype=bool)
    for s in range(n_states):
        for a in range(n_actions):
            for p, n, r, terminated in table[s][a]:
                P[s, a, n] = P[s, a, n] + p if add_p else p
                R[s, a, n] = R[s, a, n] + (p * r if divide else r) if add_r else r
                terminal[n if entered else s] |= terminated
    if add_r and divide:
        R = np.divide(R, P, out=np.zeros_like(R), where=P > 0)
    if absorb:
        P[terminal], R[terminal] = 0.0, 0.0
        P[terminal, :, terminal] = 1.0
        if keep_reward:
            R[terminal, :, terminal] = -1.0
    return P, R, terminal


def tables_from_gym__overwrites(table):
    """Outcomes that lead to the same state overwrite each other: use P[s, a, s_next] += p, so that rows
    sum to 1.
    """
    return _tables(table, add_p=False)


def tables_from_gym__last_reward(table):
    """If several outcomes lead to the same state you keep the last reward: take their weighted mean."""
    return _tables(table, add_r=False)


def tables_from_gym__summed_rewards(table):
    """You add up the rewards of outcomes that lead to the same state. Weight them by p and divide by P."""
    return _tables(table, divide=False)


def tables_from_gym__rewards_not_divided(table):
    """R holds p * r: the probability then counts twice, once in R and once in P * R. Divide by P."""
    P, R, terminal = _tables(table)
    return P, P * R, terminal


def tables_from_gym__flag_ignored(table):
    """The flag `terminated` never reaches the tables: the goal's own row goes on, and the episode never
    ends.
    """
    return _tables(table, absorb=False)


def tables_from_gym__leaves_instead_of_enters(table):
    """You mark the state that is left. `terminated` belongs to the state that the outcome enters."""
    return _tables(table, entered=False)


def tables_from_gym__empty_rows(table):
    """Terminal rows are all zero, so P is no distribution there: let the state loop to itself with reward
    0.
    """
    P, R, terminal = _tables(table)
    P[terminal] = 0.0
    return P, R, terminal


def tables_from_gym__reward_after_the_end(table):
    """The terminal state loops but still pays the step reward: after the end every reward is 0."""
    return _tables(table, keep_reward=True)
