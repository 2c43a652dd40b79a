"""Wrong versions of chapter 5's exercises; each docstring is the diagnosis that a learner reads."""

import numpy as np


def _softmax(theta):
    z = np.exp(theta - theta.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def softmax_policy__overflows(theta):
    """exp of a large preference is infinite: subtract each row's maximum first, it cancels in the ratio."""
    z = np.exp(theta)
    return z / z.sum(axis=1, keepdims=True)


def softmax_policy__over_states(theta):
    """You normalise down the columns: the probabilities must sum to 1 over the actions of one state."""
    z = np.exp(theta - theta.max(axis=0, keepdims=True))
    return z / z.sum(axis=0, keepdims=True)


def softmax_policy__over_everything(theta):
    """The whole table sums to 1: every row is a distribution of its own (keepdims and axis=1)."""
    z = np.exp(theta - theta.max())
    return z / z.sum()


def softmax_policy__in_place(theta):
    """The numbers are right, but `theta -= max` writes into the caller's preferences: work on a copy."""
    theta -= theta.max(axis=1, keepdims=True)
    z = np.exp(theta)
    return z / z.sum(axis=1, keepdims=True)


def softmax_policy__clipped(theta):
    """You cut large preferences off: two of them then look equal. Subtract the row's maximum instead."""
    z = np.exp(np.clip(theta, -500.0, 500.0))
    return z / z.sum(axis=1, keepdims=True)


def softmax_policy__linear(theta):
    """You divided the preferences themselves by their sum: the softmax exponentiates them first."""
    return theta / theta.sum(axis=1, keepdims=True)


def score__of_pi(theta, s, a):
    """This is the gradient of pi(a | s), not of log pi(a | s): divide by pi(a | s)."""
    pi, grad = _softmax(theta)[s], np.zeros_like(theta, dtype=float)
    grad[s] = -pi * pi[a]
    grad[s, a] += pi[a]
    return grad


def score__only_taken(theta, s, a):
    """You changed only the taken action: raising it lowers the others, so they get -pi(. | s)."""
    grad = np.zeros_like(theta, dtype=float)
    grad[s, a] = 1.0 - _softmax(theta)[s, a]
    return grad


def score__sign(theta, s, a):
    """The sign is turned around: it is one_hot(a) - pi, so that a step along it makes `a` more likely."""
    grad = np.zeros_like(theta, dtype=float)
    grad[s] = _softmax(theta)[s]
    grad[s, a] -= 1.0
    return grad


def score__all_rows(theta, s, a):
    """Only the row of state s depends on pi(. | s): every other row of the gradient is zero."""
    grad = -_softmax(theta)
    grad[:, a] += 1.0
    return grad


def score__integer_table(theta, s, a):
    """zeros_like of whole numbers is a table of integers, and cuts -pi to 0: ask for dtype=float."""
    grad = np.zeros_like(theta)
    grad[s] = -_softmax(theta)[s]
    grad[s, a] += 1
    return grad


def _parts(mdp, theta):
    pi = _softmax(theta)
    P = np.einsum("sa,sat->st", pi, mdp.P)
    r = np.einsum("sat,sat->sa", mdp.P, mdp.R)
    V = np.linalg.solve(np.eye(len(P)) - mdp.gamma * P, (pi * r).sum(1))
    Q = r + mdp.gamma * mdp.P @ V
    d = np.linalg.solve(np.eye(len(P)) - mdp.gamma * P.T, mdp.rho0)
    return pi, P, V, Q, d


def exact_policy_gradient__normalised_visits(mdp, theta):
    """Your state weights sum to 1: right direction, but the gradient is 1 / (1 - gamma) times longer."""
    pi, P, V, Q, d = _parts(mdp, theta)
    return (d / d.sum())[:, None] * pi * (Q - V[:, None])


def exact_policy_gradient__undiscounted_visits(mdp, theta):
    """Your weights are undiscounted counts of the states: a state reached at step t counts gamma^t."""
    pi, P, V, Q, d = _parts(mdp, theta)
    w, p = np.zeros_like(d), mdp.rho0
    for _ in range(200):
        w, p = w + p, p @ P
    return w[:, None] * pi * (Q - V[:, None])


def exact_policy_gradient__start_only(mdp, theta):
    """You weigh states by rho0: the gradient counts every visit, not only where episodes start."""
    pi, P, V, Q, d = _parts(mdp, theta)
    return mdp.rho0[:, None] * pi * (Q - V[:, None])


def exact_policy_gradient__without_pi(mdp, theta):
    """The factor pi(a | s) is missing: the gradient of pi(a | s) is pi times the score."""
    pi, P, V, Q, d = _parts(mdp, theta)
    return d[:, None] * (Q - V[:, None])


def exact_policy_gradient__q_for_advantage(mdp, theta):
    """You weigh with Q where the softmax leaves Q - V: the score is one_hot - pi, and its -pi brings -V."""
    pi, P, V, Q, d = _parts(mdp, theta)
    return d[:, None] * pi * Q


def exact_policy_gradient__not_transposed(mdp, theta):
    """You solved with P where P transposed belongs: visits flow forwards, from s to s'."""
    pi, P, V, Q, d = _parts(mdp, theta)
    d = np.linalg.solve(np.eye(len(P)) - mdp.gamma * P, mdp.rho0)
    return d[:, None] * pi * (Q - V[:, None])


def _reinforce(theta, states, actions, weights):
    grad = np.zeros_like(theta, dtype=float)
    for s, a, w in zip(states, actions, weights, strict=True):
        row = -_softmax(theta)[s]
        row[a] += 1.0
        grad[s] += w * row
    return grad


def _returns(rewards, gamma):
    g, out = 0.0, []
    for r in reversed(rewards):
        g = r + gamma * g
        out.insert(0, g)
    return out


def reinforce_gradient__without_gamma_t(theta, states, actions, rewards, gamma, baseline):
    """The factor gamma^t is missing: with gamma < 1 this is not the gradient of the discounted objective."""
    G = _returns(rewards, gamma)
    return _reinforce(theta, states, actions, [g - baseline[s] for g, s in zip(G, states, strict=True)])


def reinforce_gradient__rewards_for_returns(theta, states, actions, rewards, gamma, baseline):
    """You weigh each score with its own reward: an action is judged by everything that follows, G_t."""
    pairs = enumerate(zip(rewards, states, strict=True))
    return _reinforce(theta, states, actions, [gamma**t * (r - baseline[s]) for t, (r, s) in pairs])


def reinforce_gradient__whole_return(theta, states, actions, rewards, gamma, baseline):
    """Every score is weighted with G_0: unbiased, but rewards before t are noise; use G_t times gamma^t."""
    g = _returns(rewards, gamma)[0]
    return _reinforce(theta, states, actions, [g - gamma**t * baseline[s] for t, s in enumerate(states)])


def reinforce_gradient__no_baseline(theta, states, actions, rewards, gamma, baseline):
    """The baseline is never used: subtract baseline[s_t] from G_t."""
    G = _returns(rewards, gamma)
    return _reinforce(theta, states, actions, [gamma**t * g for t, g in enumerate(G)])


def reinforce_gradient__baseline_by_time(theta, states, actions, rewards, gamma, baseline):
    """You took baseline[t]: the baseline belongs to the state, baseline[states[t]]."""
    b = [baseline[t % len(baseline)] for t in range(len(states))]
    G = _returns(rewards, gamma)
    return _reinforce(theta, states, actions, [gamma**t * (G[t] - b[t]) for t in range(len(G))])


def reinforce_gradient__overwrites(theta, states, actions, rewards, gamma, baseline):
    """A second visit overwrites the first: use += so that all visits of a state add up."""
    G, grad = _returns(rewards, gamma), np.zeros_like(theta, dtype=float)
    for t, (s, a) in enumerate(zip(states, actions, strict=True)):
        row = -_softmax(theta)[s]
        row[a] += 1.0
        grad[s] = gamma**t * (G[t] - baseline[s]) * row
    return grad


def batched_returns__ignores_alive(rewards, alive, gamma):
    """Rewards after an episode's end leak into it: where `alive` is False the return is 0."""
    out, g = np.zeros(rewards.shape, np.float32), np.zeros(rewards.shape[1], np.float32)
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        out[t] = g
    return out


def batched_returns__forwards(rewards, alive, gamma):
    """You run from the first step to the last: these are discounted sums of the past, not of the future."""
    out, g = np.zeros(rewards.shape, np.float32), np.zeros(rewards.shape[1], np.float32)
    for t in range(len(rewards)):
        g = np.where(alive[t], rewards[t] + gamma * g, 0.0)
        out[t] = g
    return out


def batched_returns__whole_episode(rewards, alive, gamma):
    """Every step got the return of step 0: step t's return starts at its own reward."""
    g = np.zeros(rewards.shape[1], np.float32)
    for t in reversed(range(len(rewards))):
        g = np.where(alive[t], rewards[t] + gamma * g, 0.0)
    return np.where(alive, g, 0.0).astype(np.float32)


def batched_returns__erases(rewards, alive, gamma):
    """The numbers are right, but you set the caller's rewards to 0 after the end: use np.where, or a copy."""
    rewards[~alive] = 0.0
    out, g = np.zeros(rewards.shape, np.float32), np.zeros(rewards.shape[1], np.float32)
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        out[t] = g
    return out


def batched_returns__undiscounted(rewards, alive, gamma):
    """gamma is never used: these are plain sums of the rewards to come."""
    masked = np.where(alive, rewards, 0.0)
    return np.where(alive, masked[::-1].cumsum(0)[::-1], 0.0).astype(np.float32)


def policy_loss__sign(logits, actions, advantages):
    """The sign is turned around: an optimiser minimises, so the loss is minus the objective."""
    return (logits.log_softmax(-1).gather(1, actions[:, None])[:, 0] * advantages.detach()).mean()


def policy_loss__not_detached(logits, actions, advantages):
    """Gradient flows into the advantages: detach them, or the critic learns to please the actor."""
    return -(logits.log_softmax(-1).gather(1, actions[:, None])[:, 0] * advantages).mean()


def policy_loss__probabilities(logits, actions, advantages):
    """You weigh pi(a | s), not log pi(a | s): samples from the policy already carry one factor pi."""
    return -(logits.softmax(-1).gather(1, actions[:, None])[:, 0] * advantages.detach()).mean()


def policy_loss__sum(logits, actions, advantages):
    """This is the sum over the samples: with a mean, the step size does not depend on the batch size."""
    return -(logits.log_softmax(-1).gather(1, actions[:, None])[:, 0] * advantages.detach()).sum()


def policy_loss__log_of_softmax(logits, actions, advantages):
    """log(softmax(x)) is -inf once a probability rounds to 0: use log_softmax."""
    return -(logits.softmax(-1).log().gather(1, actions[:, None])[:, 0] * advantages.detach()).mean()


def policy_loss__outer_product(logits, actions, advantages):
    """Shapes (N, 1) and (N,) multiply to (N, N): every log-probability met every advantage."""
    return -(logits.log_softmax(-1).gather(1, actions[:, None]) * advantages.detach()).mean()


def one_step_advantages__leaks(rewards, values, next_values, terminated, gamma):
    """V(s') counts although s' is terminal: multiply it with (1 - terminated), nothing follows the end."""
    return rewards + gamma * next_values - values


def one_step_advantages__only_terminal(rewards, values, next_values, terminated, gamma):
    """The mask is turned around: you keep V(s') where the episode ended and drop it where it goes on."""
    return rewards + gamma * np.where(terminated, next_values, 0.0) - values


def one_step_advantages__target(rewards, values, next_values, terminated, gamma):
    """This is the TD target r + gamma V(s'): the advantage subtracts V(s)."""
    return rewards + gamma * np.where(terminated, 0.0, next_values)


def one_step_advantages__undiscounted(rewards, values, next_values, terminated, gamma):
    """gamma is never used: the value of the next state is discounted once."""
    return rewards + np.where(terminated, 0.0, next_values) - values


def one_step_advantages__erases(rewards, values, next_values, terminated, gamma):
    """The numbers are right, but you set the caller's next_values to 0: use np.where, or a copy."""
    next_values[terminated] = 0.0
    return rewards + gamma * next_values - values


def one_step_advantages__masks_everything(rewards, values, next_values, terminated, gamma):
    """A terminated step counts too: only its V(s') is dropped, its reward and V(s) stay."""
    return np.where(terminated, 0.0, rewards + gamma * next_values - values)
