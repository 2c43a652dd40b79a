"""Chapter 8: from the optimum of KL-regularised RLHF to direct preference optimisation."""

import torch
from rlcourse.lm import token_logprobs
from torch.nn.functional import logsigmoid

from solutions.ch07_rlhf import Pairs


def sequence_logprobs(logprobs, mask):
    """log pi(y | x) of whole replies: the sum over their tokens (eq-sequence-logprob).

    Args:
        logprobs: (B, T) log-probability of each reply token; any finite number after the end.
        mask: (B, T) 1.0 for the reply's tokens including its end, 0.0 for padding.

    Returns:
        (B,) the sum, not the mean: a longer reply has a smaller probability.
    """
    return (logprobs * mask).sum(-1)


def optimal_policy(ref_logprobs, rewards, beta):
    """The policy that maximises E[r] - beta KL(pi || ref), reply by reply (eq-dpo-optimum).

    Args:
        ref_logprobs: (M, N) log pi_ref of N replies to each of M prompts; rows sum to 1.
        rewards: (M, N) reward of every reply.
        beta: weight of the KL term, above 0.

    Returns:
        logprobs (M, N) of the optimum and log_z (M,), the log of the partition function.

    Source: Rafailov et al. (2023), eq. 4.
    """
    unnormalised = ref_logprobs + rewards / beta
    log_z = unnormalised.logsumexp(-1)
    return unnormalised - log_z[:, None], log_z


def implicit_rewards(logprobs, ref_logprobs, beta):
    """The reward for which a policy is optimal, up to a constant (eq-implicit-reward).

    Args:
        logprobs, ref_logprobs: (B,) of whole replies under the policy and the reference.
        beta: weight of the KL term.

    Returns:
        (B,) beta (log pi - log pi_ref). No gradient flows into the reference.
    """
    return beta * (logprobs - ref_logprobs.detach())


def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing=0.0):
    """Minus the log-likelihood of the preferences, mean over pairs (eq-dpo-loss, eq-cdpo).

    Args:
        chosen, rejected: (B,) log pi of the whole replies under the policy.
        ref_chosen, ref_rejected: (B,) the same under the frozen reference; no gradient.
        beta: weight of the KL term.
        label_smoothing: probability that a label is wrong, in [0, 0.5): 0 is DPO, more is
            conservative DPO.

    Returns:
        scalar tensor. Finite for any margin.

    Source: Rafailov et al. (2023), eq. 7; Mitchell (2023) for the smoothing.
    """
    margin = implicit_rewards(chosen, ref_chosen, beta)
    margin = margin - implicit_rewards(rejected, ref_rejected, beta)
    right, wrong = logsigmoid(margin), logsigmoid(-margin)
    return -((1 - label_smoothing) * right + label_smoothing * wrong).mean()


def dpo_gradient_weight(chosen, rejected, ref_chosen, ref_rejected, beta):
    """How hard DPO pulls at each pair (eq-dpo-gradient).

    Args: as for dpo_loss.

    Returns:
        (B,) beta sigmoid(r_rejected - r_chosen) with the implicit rewards: near beta where
        the policy ranks the pair wrongly, near 0 where it is right by a margin.

    Source: Rafailov et al. (2023), section 4.
    """
    margin = implicit_rewards(chosen, ref_chosen, beta)
    margin = margin - implicit_rewards(rejected, ref_rejected, beta)
    return beta * torch.sigmoid(-margin)


def ipo_loss(chosen, rejected, ref_chosen, ref_rejected, tau):
    """Squared distance of the log-ratio margin from 1 / (2 tau), mean over pairs (eq-ipo).

    Args:
        chosen, rejected: (B,) log pi of whole replies.
        ref_chosen, ref_rejected: (B,) the same under the reference; no gradient.
        tau: weight of the regulariser; the margin stops growing at 1 / (2 tau).

    Source: Azar et al. (2024), eq. 17.
    """
    margin = (chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach())
    return (margin - 1 / (2 * tau)).square().mean()


def simpo_loss(chosen, rejected, chosen_lengths, rejected_lengths, beta, target_margin):
    """Preferences by mean log-probability per token; mean over pairs (eq-simpo).

    Args:
        chosen, rejected: (B,) log pi of whole replies.
        chosen_lengths, rejected_lengths: (B,) number of tokens, including the end.
        beta: scale. target_margin: what the margin is asked to exceed, 0 or more.

    Source: Meng et al. (2024), eq. 6.
    """
    margin = beta * (chosen / chosen_lengths - rejected / rejected_lengths) - target_margin
    return -logsigmoid(margin).mean()


def kto_loss(chosen, rejected, ref_chosen, ref_rejected, beta, kl):
    """Each reply judged alone, as desirable or not, against a reference point `kl` (eq-kto).

    Args:
        kl: scalar, an estimate of KL(pi || ref); no gradient flows into it.

    Source: Ethayarajh et al. (2024), section 4, with both weights 1.
    """
    gain = torch.sigmoid(implicit_rewards(chosen, ref_chosen, beta) - beta * kl)
    loss = torch.sigmoid(beta * kl - implicit_rewards(rejected, ref_rejected, beta))
    return 2 - gain.mean() - loss.mean()


def symmetric_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """DPO plus the term that the article calls equivalent: minimal where margins are 0."""
    margin = implicit_rewards(chosen, ref_chosen, beta)
    margin = margin - implicit_rewards(rejected, ref_rejected, beta)
    return -(logsigmoid(margin) + logsigmoid(-margin)).mean()


def pair_logprobs(model, pairs):
    """log pi of the chosen and of the rejected replies: two (n,) tensors, from one pass."""
    prompts = torch.cat([pairs.prompts, pairs.prompts])
    tokens = torch.cat([pairs.chosen, pairs.rejected])
    mask = torch.cat([pairs.chosen_mask, pairs.rejected_mask])
    total = sequence_logprobs(token_logprobs(model, prompts, tokens), mask)
    return total.chunk(2)


def train_dpo(
    model, pairs, generator, steps=200, batch=64, lr=5e-4, beta=0.05, label_smoothing=0.0
):
    """Fit the preferences with dpo_loss. The reference is the model as it comes in: frozen,
    so its log-probabilities of all pairs are computed once, before the first step.

    The learning rate rises over 10 steps and then falls linearly to 0.

    Returns:
        (steps, 3) tensor: loss, mean log-ratio of the chosen, mean log-ratio of the rejected.
    """
    n = len(pairs.prompts)
    with torch.no_grad():
        blocks = [Pairs(*(x[i : i + 512] for x in pairs)) for i in range(0, n, 512)]
        reference = torch.cat([torch.stack(pair_logprobs(model, b)) for b in blocks], dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (1 - step / steps)
    )
    history = []
    for _ in range(steps):
        rows = torch.randint(n, (batch,), generator=generator)
        chosen, rejected = pair_logprobs(model, Pairs(*(x[rows] for x in pairs)))
        ref_chosen, ref_rejected = reference[:, rows]  # (batch,) each
        loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta, label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ratios = ((chosen - ref_chosen).mean(), (rejected - ref_rejected).mean())
        history.append(torch.stack([loss, *ratios]).detach())
    return torch.stack(history)
