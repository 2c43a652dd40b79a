"""Correct but different versions of chapter 5's exercises."""

import numpy as np
import torch
from torch.nn import functional as F


def softmax_policy__torch(theta):
    """By torch's softmax, in double precision."""
    return torch.softmax(torch.tensor(theta, dtype=torch.float64), dim=1).numpy()


def score__autograd(theta, s, a):
    """By automatic differentiation of log_softmax."""
    x = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    x.log_softmax(1)[s, a].backward()
    return x.grad.numpy()


def exact_policy_gradient__autograd(mdp, theta):
    """By differentiating through the linear solve of J."""
    x = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    P, R, rho0 = (torch.tensor(v, dtype=torch.float64) for v in (mdp.P, mdp.R, mdp.rho0))
    pi = x.softmax(1)
    chain = torch.einsum("sa,sat->st", pi, P)
    reward = torch.einsum("sa,sat,sat->s", pi, P, R)
    V = torch.linalg.solve(torch.eye(len(P), dtype=torch.float64) - mdp.gamma * chain, reward)
    (rho0 @ V).backward()
    return x.grad.numpy()


def reinforce_gradient__autograd(theta, states, actions, rewards, gamma, baseline):
    """By differentiating the surrogate sum of weighted log-probabilities."""
    x = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    total = 0.0
    for t, (s, a) in enumerate(zip(states, actions, strict=True)):
        G = sum(gamma**k * r for k, r in enumerate(rewards[t:]))
        total = total + gamma**t * (G - baseline[s]) * x.log_softmax(1)[s, a]
    total.backward()
    return x.grad.numpy()


def batched_returns__by_definition(rewards, alive, gamma):
    """Every return as its own sum of discounted rewards."""
    masked = np.where(alive, rewards, 0.0)
    T = len(rewards)
    rows = [sum(gamma**k * masked[t + k] for k in range(T - t)) for t in range(T)]
    return np.where(alive, np.array(rows), 0.0)


def policy_loss__cross_entropy(logits, actions, advantages):
    """By the library's cross entropy, which is minus the log-probability."""
    return (F.cross_entropy(logits, actions, reduction="none") * advantages.detach()).mean()


def one_step_advantages__arithmetic_mask(rewards, values, next_values, terminated, gamma):
    """With the factor (1 - terminated)."""
    return rewards + gamma * (1.0 - terminated.astype(float)) * next_values - values
