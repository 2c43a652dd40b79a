"""Chapter 7: RLHF. Demonstrations, preferences, and PPO with four roles over tokens."""

import copy
from typing import NamedTuple

import torch
from rlcourse.lm import ScalarModel, sample, token_logprobs
from torch.nn.functional import logsigmoid, pad

from solutions.ch06_ppo import clipped_surrogate


def masked_mean(values, mask):
    """The mean over the tokens that count (eq-masked-mean).

    Args:
        values: any shape; finite numbers where the mask is 0.
        mask: same shape, 1.0 for what counts, 0.0 for padding; at least one 1.

    Returns:
        scalar tensor. Every token weighs the same, whichever reply it belongs to.
    """
    return (values * mask).sum() / mask.sum()


def sft_loss(logits, input_ids, reply_mask):
    """Minus the mean log-probability of the demonstrated reply tokens (eq-sft).

    Args:
        logits: (B, L, V); logits[:, i] predict token i + 1.
        input_ids: (B, L) ids of prompt, reply and padding in one row.
        reply_mask: (B, L) 1.0 at the reply's own tokens (its end included), 0.0 at the
            prompt and at padding. The first column is prompt.

    Returns:
        scalar tensor, the mean over all reply tokens of the batch.
    """
    logprobs = logits[:, :-1].log_softmax(-1)  # (B, L - 1, V)
    logprobs = logprobs.gather(-1, input_ids[:, 1:, None])[..., 0]  # (B, L - 1)
    return -masked_mean(logprobs, reply_mask[:, 1:])


def reward_model_loss(chosen_scores, rejected_scores):
    """Minus the log-likelihood of the preferences, mean over pairs (eq-rm-loss).

    Args:
        chosen_scores, rejected_scores: (B,) scores of the preferred and the other reply.

    Returns:
        scalar tensor, finite for any scores.

    Source: Ouyang et al. (2022), eq. 1.
    """
    return -logsigmoid(chosen_scores - rejected_scores).mean()


def last_token_scores(values, mask):
    """The number at the last own token of each reply: a score of the whole (eq-reply-score).

    Args:
        values: (B, T) one number per reply token.
        mask: (B, T) 1.0 for the reply's tokens, then 0.0; at least one 1 in each row.

    Returns:
        (B,) tensor; gradient flows to the chosen numbers only.
    """
    last = mask.sum(1).long() - 1  # (B,)
    return values.gather(1, last[:, None])[:, 0]


def token_rewards(scores, logprobs, ref_logprobs, mask, kl_coef):
    """What each token is paid: a share of the KL, and at the end the score (eq-rlhf-reward).

    Args:
        scores: (B,) reward of each whole reply.
        logprobs, ref_logprobs: (B, T) of the sampled tokens, under the policy that
            sampled them and under the reference; anything finite after the end.
        mask: (B, T) 1.0 for the reply's tokens, then 0.0.
        kl_coef: beta, weight of the KL term.

    Returns:
        (B, T) tensor without gradient: -kl_coef (logprobs - ref_logprobs), plus the score
        at the reply's last own token; 0.0 after it.

    Source: Ziegler et al. (2019), eq. 2; Ouyang et al. (2022), eq. 2.
    """
    last = mask.sum(1, keepdim=True).long() - 1  # (B, 1)
    kl_part = -kl_coef * (logprobs - ref_logprobs) * mask  # (B, T)
    return kl_part.scatter_add(1, last, scores[:, None]).detach()


def token_gae(rewards, values, mask, gamma, gae_lambda):
    """Advantages and value targets of the tokens of each reply (eq-token-gae).

    Args:
        rewards: (B, T) reward of each token.
        values: (B, T) the critic's value before each token; anything finite after the end.
        mask: (B, T) 1.0 for the reply's tokens, then 0.0.
        gamma, gae_lambda: discount factor, and GAE's lambda.

    Returns:
        advantages and targets (advantages + values), both (B, T), without gradient, 0.0
        after the end. A reply ends at its last own token: nothing is bootstrapped there.

    Source: Schulman et al. (2016), eq. 16.
    """
    values = values.detach() * mask
    advantages = torch.zeros_like(values)
    following = next_value = torch.zeros_like(values[:, 0])  # (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def masked_whiten(advantages, mask, eps=1e-8):
    """Shift and scale to mean 0 and deviation 1 over what counts (eq-masked-whiten).

    Args:
        advantages, mask: (B, T); mask is 1.0 for the replies' tokens, else 0.0.
        eps: added to the standard deviation, which is that of the population.

    Returns:
        (B, T) tensor, 0.0 at padding.
    """
    centred = (advantages - masked_mean(advantages, mask)) * mask
    return centred / (masked_mean(centred.square(), mask).sqrt() + eps)


def train_sft(model, prompts, demos, generator, steps=200, batch=64, lr=2e-3, prompt_loss=0):
    """Imitate demos = (tokens, mask). prompt_loss=1 counts the prompt as well.

    Returns:
        (steps,) tensor of losses.
    """
    tokens, mask = demos
    ids = torch.cat([prompts, tokens], 1)  # (n, P + T)
    counted = torch.cat([torch.full_like(prompts, prompt_loss, dtype=mask.dtype), mask], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - step / steps)
    )
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(ids), (batch,), generator=generator)
        loss = sft_loss(model(input_ids=ids[rows]).logits, ids[rows], counted[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses)


class Pairs(NamedTuple):
    """Preference pairs: n prompts, and for each a chosen and a rejected reply."""

    prompts: torch.Tensor  # (n, P)
    chosen: torch.Tensor  # (n, T) tokens
    chosen_mask: torch.Tensor  # (n, T)
    rejected: torch.Tensor  # (n, T)
    rejected_mask: torch.Tensor  # (n, T)


def sample_pairs(world, model, n, generator, temperature=0.125, drop_ties=True):
    """Two replies of the model to each prompt, ranked by a Bradley-Terry rater.

    The rater sees world.score and prefers the better reply with probability
    sigmoid(difference / temperature). With drop_ties, pairs of equal score are left out;
    otherwise a fair coin ranks them.
    """
    device, width = next(model.parameters()).device, world.max_new_tokens
    prompts = world.prompts(n, generator).to(device)
    replies = []
    for _ in range(2):
        tokens, _, mask = sample(model, prompts, width, generator=generator)
        missing = (0, width - tokens.shape[1])
        replies.append((pad(tokens, missing, value=world.pad), pad(mask, missing)))
    (first, first_mask), (second, second_mask) = replies
    gap = world.score(prompts, first) - world.score(prompts, second)  # (n,)
    first_wins = torch.rand(n, generator=generator).to(gap) < torch.sigmoid(gap / temperature)
    w = first_wins[:, None]
    pairs = Pairs(
        prompts,
        torch.where(w, first, second),
        torch.where(w, first_mask, second_mask),
        torch.where(w, second, first),
        torch.where(w, second_mask, first_mask),
    )
    keep = gap.abs() > 1e-6 if drop_ties else torch.ones_like(first_wins)
    return Pairs(*(x[keep] for x in pairs))


def reply_scores(reward_model, prompts, tokens, mask):
    """(B,) the reward model's score of each reply: its output at the reply's last token."""
    values = reward_model(torch.cat([prompts, tokens], 1))[:, prompts.shape[1] :]  # (B, T)
    return last_token_scores(values, mask)


def train_reward_model(model, pairs, generator, steps=200, batch=64, lr=1e-3):
    """A reward model that starts from the body of a language model; returned frozen."""
    reward_model = ScalarModel(model)
    optimizer = torch.optim.AdamW(reward_model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
    )
    for _ in range(steps):
        rows = torch.randint(len(pairs.prompts), (batch,), generator=generator)
        prompts, chosen, chosen_mask, rejected, rejected_mask = (x[rows] for x in pairs)
        tokens, mask = torch.cat([chosen, rejected]), torch.cat([chosen_mask, rejected_mask])
        scores = reply_scores(reward_model, prompts.repeat(2, 1), tokens, mask)  # (2 batch,)
        loss = reward_model_loss(*scores.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reward_model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return reward_model.requires_grad_(False)


@torch.no_grad()
def agreement(reward_model, world, pairs):
    """Share of pairs that the reward model ranks as the true score does."""
    prompts, chosen, chosen_mask, rejected, rejected_mask = pairs
    margin = reply_scores(reward_model, prompts, chosen, chosen_mask)
    margin = margin - reply_scores(reward_model, prompts, rejected, rejected_mask)
    gold = world.score(prompts, chosen) - world.score(prompts, rejected)
    return ((margin > 0) == (gold > 0)).float().mean().item()


class Settings(NamedTuple):
    """Settings of train_ppo; the defaults suit the course's small models."""

    steps: int = 24
    batch: int = 256  # replies per step
    epochs: int = 2  # passes over them
    minibatch: int = 128
    lr: float = 3e-4  # of the policy
    critic_lr: float = 1e-3
    kl_coef: float = 0.3  # beta: weight of the KL to the reference, in the reward
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_eps: float = 0.2


@torch.no_grad()
def collect(world, model, critic, reference, reward_fn, generator, cfg):
    """Sample replies and work out what to learn from them; no parameter changes.

    Returns:
        (prompts, tokens, mask, old logprobs, advantages, targets) and the means of score,
        true reward and KL to the reference. The true reward is only looked at.
    """
    device = next(model.parameters()).device
    prompts = world.prompts(cfg.batch, generator).to(device)
    tokens, old, mask = sample(model, prompts, world.max_new_tokens, generator=generator)
    scores = reward_fn(prompts, tokens, mask)  # (B,)
    ref_logprobs = token_logprobs(reference, prompts, tokens)  # (B, T)
    rewards = token_rewards(scores, old, ref_logprobs, mask, cfg.kl_coef)
    values = critic(torch.cat([prompts, tokens], 1))[:, prompts.shape[1] - 1 : -1]  # (B, T)
    advantages, targets = token_gae(rewards, values, mask, cfg.gamma, cfg.gae_lambda)
    batch = (prompts, tokens, mask, old, masked_whiten(advantages, mask), targets)
    kl = ((old - ref_logprobs) * mask).sum(1)  # (B,)
    gold = world.reward(prompts, tokens)
    return batch, torch.stack([scores.mean(), gold.mean(), kl.mean()]).tolist()


def train_ppo(world, model, reward_fn, generator, cfg=None, after_step=None):
    """RLHF with PPO: a policy and a critic in training, a reference and a scorer frozen.

    Args:
        world: gives prompts(n, generator), reward(prompts, tokens), max_new_tokens.
        model: the policy; changed in place. A frozen copy of it is the reference.
        reward_fn: (prompts, tokens, mask) -> (B,), a reward model or a verifier.
        generator: torch Generator, on the CPU, for prompts, samples and minibatches.
        cfg: a Settings.
        after_step: called with the step's number and its row; True ends the training.

    Returns:
        one row (mean score, mean true reward, mean KL to the reference) per step, measured
        on the samples before the step's updates.
    """
    cfg = cfg or Settings()
    reference, critic = copy.deepcopy(model).requires_grad_(False), ScalarModel(model)
    groups = [
        {"params": list(model.parameters()), "lr": cfg.lr},
        {"params": list(critic.parameters()), "lr": cfg.critic_lr},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for step in range(cfg.steps):
        batch, row = collect(world, model, critic, reference, reward_fn, generator, cfg)
        for _ in range(cfg.epochs):
            order = torch.randperm(cfg.batch, generator=generator)
            for rows in order.split(cfg.minibatch):
                prompts, tokens, mask, old, advantages, targets = (x[rows] for x in batch)
                logprobs = token_logprobs(model, prompts, tokens)  # (b, T)
                surrogate = clipped_surrogate(logprobs, old, advantages, cfg.clip_eps)
                values = critic(torch.cat([prompts, tokens], 1))[:, prompts.shape[1] - 1 : -1]
                loss = -masked_mean(surrogate, mask)
                loss = loss + 0.5 * masked_mean((values - targets).square(), mask)
                optimizer.zero_grad()
                loss.backward()
                for network in (model, critic):
                    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        history.append(row)
        if after_step and after_step(step + 1, row):
            break
    return history
