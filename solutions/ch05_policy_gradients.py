"""Chapter 5: the policy gradient, REINFORCE, baselines, and the actor-critic bridge."""

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from solutions.ch02_mdp import sample_trajectory
from solutions.ch03_bellman import action_values, evaluate_policy_exact


def softmax_policy(theta):
    """Action probabilities of a tabular softmax policy (eq-softmax-policy).

    Args:
        theta: (S, A) preferences, any real numbers, large ones too.

    Returns:
        pi: (S, A), every row positive and summing to 1. `theta` is left unchanged.

    Source: Sutton and Barto (2018), eq. 13.2.
    """
    z = np.exp(theta - theta.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def score(theta, s, a):
    """Gradient of log pi(a | s) with respect to all preferences (eq-softmax-score).

    Args:
        theta: (S, A) preferences of a softmax policy.
        s, a: the state and the action that was taken in it, integers.

    Returns:
        (S, A): row s holds one_hot(a) - pi(. | s), every other row is zero.
    """
    grad = np.zeros_like(theta, dtype=float)
    grad[s] = -softmax_policy(theta)[s]
    grad[s, a] += 1.0
    return grad


def exact_policy_gradient(mdp, theta):
    """The gradient of J(theta), computed without sampling (eq-pg-theorem).

    Args:
        mdp: a TabularMDP with gamma < 1.
        theta: (S, A) preferences of a softmax policy.

    Returns:
        (S, A): dJ / dtheta[s, a] = d(s) pi(a | s) A(s, a), where d(s) sums
        gamma^t Pr(S_t = s) over all t (it does not sum to 1).

    Source: Sutton et al. (2000), theorem 1.
    """
    pi = softmax_policy(theta)
    V = evaluate_policy_exact(mdp, pi)
    Q = action_values(mdp, V)
    P_pi = np.einsum("sa,sat->st", pi, mdp.P)  # (S, S)
    d = np.linalg.solve(np.eye(len(V)) - mdp.gamma * P_pi.T, mdp.rho0)  # (S,)
    return d[:, None] * pi * (Q - V[:, None])


def reinforce_gradient(theta, states, actions, rewards, gamma, baseline):
    """One episode's estimate of the gradient of J(theta) (eq-reinforce).

    Args:
        theta: (S, A) preferences of a softmax policy.
        states, actions, rewards: lists of T entries; rewards[t] follows actions[t].
        gamma: discount factor in [0, 1].
        baseline: (S,) what is subtracted from the return in each state; zeros for none.

    Returns:
        (S, A): sum over t of gamma^t (G_t - baseline[s_t]) times the score of step t.

    Source: Williams (1992); Sutton and Barto (2018), section 13.4.
    """
    grad, g = np.zeros_like(theta, dtype=float), 0.0
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        weight = gamma**t * (g - baseline[states[t]])
        grad += weight * score(theta, states[t], actions[t])
    return grad


def batched_returns(rewards, alive, gamma):
    """Returns-to-go of a batch of episodes of different lengths (eq-batched-returns).

    Args:
        rewards: (T, B) reward of step t in episode b; anything after the episode's end.
        alive: (T, B) bool, True while episode b is still running at step t.
        gamma: discount factor in [0, 1].

    Returns:
        (T, B) float32: G[t, b]; 0 where the episode is over. Inputs are left unchanged.
    """
    returns = np.zeros(rewards.shape, np.float32)
    g = np.zeros(rewards.shape[1], np.float32)
    for t in reversed(range(len(rewards))):
        g = np.where(alive[t], rewards[t] + gamma * g, 0.0)
        returns[t] = g
    return returns


def policy_loss(logits, actions, advantages):
    """A loss whose gradient is minus the policy gradient (eq-pg-loss).

    Args:
        logits: (N, A) of the policy; receives gradient.
        actions: (N,) int64, the actions that were taken.
        advantages: (N,) how much better each was than expected; receive no gradient.

    Returns:
        scalar tensor: minus the mean of log pi(a | s) times its advantage.
    """
    logprobs = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]  # (N,)
    return -(logprobs * advantages.detach()).mean()


def one_step_advantages(rewards, values, next_values, terminated, gamma):
    """TD errors as advantages: the critic's view of one step (eq-one-step-advantage).

    Args:
        rewards, values, next_values: (N,) floats; next_values are the critic's at s'.
        terminated: (N,) bool: s' is terminal, nothing follows (not a time limit).
        gamma: discount factor.

    Returns:
        (N,): r + gamma V(s') - V(s), without the V(s') term where terminated.
    """
    return rewards + gamma * np.where(terminated, 0.0, next_values) - values


def reinforce_tabular(mdp, rng, updates=300, batch=8, lr=0.05, baseline=None):
    """REINFORCE with a softmax table; J after every update, computed exactly.

    Args:
        mdp: a TabularMDP. rng: a numpy Generator.
        updates, batch, lr: gradient steps, episodes per step, step size.
        baseline: None, or a function pi -> (S,) that gives the baseline of each state.

    Returns:
        (updates + 1,) the exact J(theta) before the first and after every update.
    """
    theta = np.zeros(mdp.P.shape[:2])
    J = [mdp.rho0 @ evaluate_policy_exact(mdp, softmax_policy(theta))]
    for _ in range(updates):
        pi = softmax_policy(theta)
        b = np.zeros(len(theta)) if baseline is None else baseline(pi)
        grad = np.zeros_like(theta)
        for _ in range(batch):
            episode = sample_trajectory(mdp, pi, rng)
            steps = (episode.states[:-1], episode.actions, episode.rewards)
            grad += reinforce_gradient(theta, *steps, mdp.gamma, b) / batch
        theta = theta + lr * grad
        J.append(mdp.rho0 @ evaluate_policy_exact(mdp, softmax_policy(theta)))
    return np.array(J)


def actor_critic_tabular(mdp, rng, updates=300, batch=8, lr=0.05, lr_critic=0.2):
    """One-step actor-critic: REINFORCE with a learned V, and TD errors for returns.

    Returns:
        (updates + 1,) the exact J(theta) before the first and after every update.
    """
    theta, V = np.zeros(mdp.P.shape[:2]), np.zeros(len(mdp.P))
    J = [mdp.rho0 @ evaluate_policy_exact(mdp, softmax_policy(theta))]
    for _ in range(updates):
        pi, grad = softmax_policy(theta), np.zeros_like(theta)
        for _ in range(batch):
            s, a, r = (np.array(x) for x in sample_trajectory(mdp, pi, rng)[:3])
            ended = mdp.terminal[s[1:]]
            delta = one_step_advantages(r, V[s[:-1]], V[s[1:]], ended, mdp.gamma)
            for t in range(len(r)):
                grad += mdp.gamma**t * delta[t] * score(theta, s[t], a[t]) / batch
            np.add.at(V, s[:-1], lr_critic * delta / batch)
        theta = theta + lr * grad
        J.append(mdp.rho0 @ evaluate_policy_exact(mdp, softmax_policy(theta)))
    return np.array(J)


def network(inputs, outputs, hidden=64):
    """One hidden layer of tanh units."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


@torch.no_grad()
def play_episodes(envs, actor, seed):
    """One whole episode in every copy of the environment.

    Returns:
        tensors obs (T, B, obs_dim) and actions (T, B); arrays rewards (T, B) and alive
        (T, B), which is True for the steps that belong to the episode.
    """
    x, _ = envs.reset(seed=seed)
    running = np.ones(envs.num_envs, bool)
    steps = []
    while running.any():
        obs = torch.from_numpy(x)
        action = torch.multinomial(actor(obs).softmax(-1), 1)[:, 0]  # (B,)
        x, reward, terminated, truncated, _ = envs.step(action.numpy())
        steps.append((obs, action, reward * running, running.copy()))
        running &= ~(terminated | truncated)
    obs, actions, rewards, alive = zip(*steps, strict=True)
    return torch.stack(obs), torch.stack(actions), np.stack(rewards), np.stack(alive)


def reinforce(seed, baseline="value", batch=32, max_steps=500_000, lr=1e-2, gamma=0.99):
    """REINFORCE on CartPole-v1 until a batch's mean return is 475, or out of steps.

    Args:
        seed: of the weights, the actions and the environments.
        baseline: "value" (a learned critic) or "none".
        batch: episodes per update. max_steps: environment steps in all.

    Returns:
        (U, 2) array: environment steps so far and mean return of the batch, per update.
    """
    torch.manual_seed(seed)
    envs = gym.make_vec("CartPole-v1", batch, vectorization_mode="vector_entry_point")
    actor, critic = network(4, 2), network(4, 1)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    steps, curve = 0, []
    while steps < max_steps and (not curve or curve[-1][1] < 475):
        episode_seed = seed * 100_003 + len(curve)
        obs, actions, rewards, alive = play_episodes(envs, actor, episode_seed)
        mask = torch.from_numpy(alive)
        returns = batched_returns(rewards, alive, gamma) / 20
        returns = torch.from_numpy(returns)[mask]  # (N,)
        values = critic(obs[mask])[:, 0]  # (N,)
        advantages = returns - values.detach() if baseline == "value" else returns
        advantages = advantages / (advantages.square().mean().sqrt() + 1e-8)
        loss = policy_loss(actor(obs[mask]), actions[mask], advantages)
        loss = loss + (values - returns).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += int(alive.sum())
        curve.append((steps, rewards.sum(0).mean()))
    return np.array(curve)
