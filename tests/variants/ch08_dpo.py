"""Correct but different versions of chapter 8's exercises."""

import torch
import torch.nn.functional as F


def sequence_logprobs__where(logprobs, mask):
    """Padding replaced by zero instead of multiplied."""
    return torch.where(mask.bool(), logprobs, torch.zeros_like(logprobs)).sum(dim=1)


def optimal_policy__softmax(ref_logprobs, rewards, beta):
    """With log_softmax, and Z from the difference."""
    logprobs = F.log_softmax(ref_logprobs + rewards / beta, dim=1)
    return logprobs, (ref_logprobs + rewards / beta - logprobs)[:, 0]


def implicit_rewards__no_grad(logprobs, ref_logprobs, beta):
    """The reference read without a graph."""
    with torch.no_grad():
        reference = beta * ref_logprobs
    return beta * logprobs - reference


def dpo_loss__cross_entropy(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """As binary cross entropy with a soft label."""
    z = beta * ((chosen - rejected) - (ref_chosen - ref_rejected).detach())
    return F.binary_cross_entropy_with_logits(z, torch.full_like(z, 1 - label_smoothing))


def dpo_gradient_weight__autograd(chosen, rejected, ref_chosen, ref_rejected, beta):
    """By differentiating the loss of each pair."""
    x = chosen.detach().clone().requires_grad_()
    z = beta * ((x - ref_chosen) - (rejected - ref_rejected)).to(x)
    return -torch.autograd.grad(F.softplus(-z).sum(), x)[0]


def ipo_loss__mse(chosen, rejected, ref_chosen, ref_rejected, tau):
    """By the library's mean squared error."""
    margin = (chosen - rejected) - (ref_chosen - ref_rejected).detach()
    return F.mse_loss(margin, torch.full_like(margin, 0.5 / tau))


def simpo_loss__softplus(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """With softplus(-z) for -log sigmoid(z)."""
    means = chosen / chosen_lengths - rejected / rejected_lengths
    return F.softplus(target_margin - beta * means).mean()
