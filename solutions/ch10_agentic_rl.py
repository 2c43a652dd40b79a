"""Chapter 10: from a reply to an episode: beliefs, rows, masks, credit over turns, a loop."""

import copy
import random
from typing import NamedTuple

import numpy as np
import torch
from rlcourse.agents import StopReason, episode_logprobs, rollout


def belief_update(belief, action, observation, P, O):
    """What an agent knows about the hidden state after one more step (eq-belief).

    Args:
        belief: (S,) numpy, probability of each state before the step.
        action, observation: what was done, and what was seen after it; integers.
        P: (S, A, S) P[s, a, s'], probability that action a leads from s to s'.
        O: (A, S, Z) O[a, s', o], probability to see o after action a led to s'.

    Returns:
        (S,) the belief after the step. No input is changed.

    Raises:
        ValueError: if the observation has probability 0 under the belief.
    """
    joint = (belief @ P[:, action]) * O[action, :, observation]  # (S,)
    if joint.sum() <= 0:
        raise ValueError(f"observation {observation} cannot follow action {action}")
    return joint / joint.sum()


class Row(NamedTuple):
    """One row of training data: three lists of the same length."""

    ids: list
    mask: list  # 1 where the policy chose the token, else 0
    logprobs: list  # 0.0 where mask is 0


def merge_calls(calls):
    """The model calls of one episode as few rows of training data.

    Args:
        calls: list of (prompt_ids, completion_ids, completion_logprobs), lists, in order. A
            prompt is all that the model was given, history included.

    Returns:
        list of Row. A call whose prompt begins with all ids of the last row extends that
        row: what is new in the prompt with mask 0, then the completion with mask 1. Any
        other call starts a new row: the history was tokenised anew, cut or summarised.
        The calls are left unchanged.

    Raises:
        ValueError: if a completion and its log-probs differ in number.
    """
    rows = []
    for prompt, completion, logprobs in calls:
        if len(completion) != len(logprobs):
            raise ValueError(f"{len(completion)} tokens, but {len(logprobs)} log-probs")
        if not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids:
            rows.append(Row([], [], []))
        row = rows[-1]
        new = prompt[len(row.ids) :]
        row.ids.extend(new + completion)
        row.mask.extend([0] * len(new) + [1] * len(completion))
        row.logprobs.extend([0.0] * len(new) + logprobs)
    return rows


def masked_policy_loss(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """Minus the clipped surrogate, mean over the policy's tokens (eq-masked-objective).

    Args:
        logprobs: (B, L) under the policy that is trained. old_logprobs: (B, L) under the
            one that sampled; no gradient. advantages: (B, L) or (B, 1); no gradient.
        mask: (B, L) 1.0 where the policy chose the token, 0.0 elsewhere. Where it is 0 the
            (B, L) tensors may hold anything, NaN and infinity too.
        clip_eps: the ratio is clipped to [1 - clip_eps, 1 + clip_eps].

    Returns:
        scalar: the mean over all policy tokens of the batch, whatever row they are in. 0,
        with gradient 0, if there are none. No input is changed.
    """
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    advantages = torch.where(chosen, advantages.detach(), 0.0)  # (B, L)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -surrogate.sum() / chosen.sum().clamp(min=1)


def trajectory_advantages(rewards, questions, episodes, eps=1e-4):
    """Each episode against those of the same question (eq-trajectory-advantage).

    Args:
        rewards: (B,) float, the reward of each training row's episode.
        questions, episodes: (B,) ids, any integers, rows in any order. An episode that was
            split into several rows occurs several times, with the same reward. The same
            episode id under another question is another episode.
        eps: may be 0 if no question has several episodes that all got the same reward.

    Returns:
        (B,) in rewards' dtype: (reward - mean) / (std + eps). Mean and sample std (n - 1)
        are over episodes, each once. 0 if the question has one episode.
    """
    advantages = torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question  # (B,)
        reward_of = dict(zip(episodes[rows].tolist(), rewards[rows].tolist(), strict=True))
        if len(reward_of) > 1:
            group = rewards.new_tensor(list(reward_of.values()))  # (episodes,)
            advantages[rows] = (rewards[rows] - group.mean()) / (group.std() + eps)
    return advantages


def turn_returns(turn_rewards, turn, gamma=1.0):
    """What is still to come, from the turn of each token on (eq-turn-return).

    Args:
        turn_rewards: (B, K) float, K at least 1: paid after assistant turn k; 0 after the
            last turn of an episode.
        turn: (B, L) long, the turn in which the policy chose the token; -1 for all other
            tokens. A turn may be without tokens; its reward counts all the same.
        gamma: discount per turn, not per token.

    Returns:
        (B, L) in turn_rewards' dtype: the sum over j >= k of gamma^(j - k)
        turn_rewards[:, j] for a token of turn k; 0 where turn is -1.
    """
    returns, future = torch.zeros_like(turn_rewards), 0.0
    for k in reversed(range(turn_rewards.shape[1])):
        future = turn_rewards[:, k] + gamma * future
        returns[:, k] = future
    of_token = returns.gather(1, turn.clamp(min=0))  # (B, L)
    return torch.where(turn >= 0, of_token, 0.0)


@torch.no_grad()
def masked_gae(rewards, values, mask, gamma, gae_lambda):
    """GAE in which the next state of a token is the policy's next token (eq-masked-gae).

    Args:
        rewards, values: (B, L) float; anything, NaN too, where mask is 0.
        mask: (B, L) 1.0 where the policy chose the token. Tokens with 0 in between are
            skipped: no discount, no value, no TD error.
        gamma, gae_lambda: both per policy token.

    Returns:
        advantages and value targets (advantages + values), (B, L) each in values' dtype,
        without gradient, 0 where mask is 0. After a row's last policy token the episode is
        over: nothing is bootstrapped. No input is changed.
    """
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0), torch.where(chosen, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * gae_lambda * next_advantage
        advantages[:, t] = torch.where(chosen[:, t], advantage, 0.0)
        next_value = torch.where(chosen[:, t], values[:, t], next_value)
        next_advantage = torch.where(chosen[:, t], advantage, next_advantage)
    return advantages, advantages + values


def scalar_reward(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """Success, cost and risk as one number (eq-multi-objective, eq-gate).

    Args:
        success, cost, risk: floats, or float tensors of one shape; left unchanged.
        cost_weight, risk_weight: at least 0, else a ValueError.
        max_risk: if not None, success counts only where risk <= max_risk. Cost and risk
            are subtracted everywhere.

    Returns:
        success - cost_weight * cost - risk_weight * risk, elementwise.
    """
    if cost_weight < 0 or risk_weight < 0:
        raise ValueError("a negative weight would reward cost or risk")
    if max_risk is not None:
        success = success * (risk <= max_risk)
    return success - cost_weight * cost - risk_weight * risk


def pareto_front(points):
    """Which points no other point dominates (eq-pareto).

    Args:
        points: (N, 3) numpy, columns success (more is better), cost and risk (less is
            better). N may be 0.

    Returns:
        (N,) bool. A point dominates another if it is at least as good in all three columns
        and better in one; of equal points neither dominates. A row with NaN is not on the
        front and dominates nothing.
    """
    losses = points * np.array([-1, 1, 1])  # less is better in every column
    a, b = losses[:, None], losses[None]
    dominates = (a <= b).all(-1) & (a < b).any(-1)  # [i, j]: i dominates j
    return ~dominates.any(0) & ~np.isnan(losses).any(1)


class EpisodeRecord(NamedTuple):
    """What an episode leaves behind."""

    messages: list  # {"role": "user" | "assistant" | "tool", "content": text}
    rewards: list  # one for every assistant turn
    reason: str  # a StopReason


def run_agent(env, policy, max_turns):
    """One episode of a policy that reads and writes text. It ends with exactly one reason.

    Args:
        env: env.reset() gives the user's text; env.step(text) gives a Step(text, reward,
            done, reason, cost, risk). Reset once, never stepped after done.
        policy: policy(messages) gives the assistant's text. It gets a copy that it may
            change. What it raises goes to the caller.
        max_turns: assistant turns at most; below 1 a ValueError, before env is touched.

    Returns:
        EpisodeRecord. A step's text becomes a tool message, an empty one too; only after
        the last step, done or not, is an empty text left out. reason is that of the step
        that was done, "turn_limit" after max_turns turns without an end, "tool_error" if
        env.step raised an Exception (that turn has reward 0.0 and no tool message).
    """
    if max_turns < 1:
        raise ValueError(f"max_turns must be at least 1, not {max_turns}")
    messages, rewards = [{"role": "user", "content": env.reset()}], []
    while True:
        text = policy(copy.deepcopy(messages))
        messages.append({"role": "assistant", "content": text})
        try:
            step = env.step(text)
        except Exception:
            return EpisodeRecord(messages, [*rewards, 0.0], StopReason.TOOL_ERROR)
        rewards.append(step.reward)
        last = step.done or len(rewards) == max_turns
        if step.text or not last:
            messages.append({"role": "tool", "content": step.text})
        if last:
            reason = step.reason if step.done else StopReason.TURN_LIMIT
            return EpisodeRecord(messages, rewards, reason)


def grpo_update(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """One training step: advantages once, then a few updates on the same batch.

    Args:
        model: the policy, without dropout; optimizer changes its parameters in place.
        batch: has ids, mask and the sampler's logprobs, (B, L) each; every row is an
            episode of its own. A row without policy tokens trains nothing, but its reward
            counts in its group.
        rewards, questions: (B,) reward of every episode and id of its question.
        clip_eps: see masked_policy_loss. updates: how often the batch is used.
        max_grad_norm: the gradient's norm is cut to this before each step.

    Returns:
        list of floats: the loss of each update, before its step.
    """
    episodes = torch.arange(len(rewards), device=rewards.device)
    advantages = trajectory_advantages(rewards, questions, episodes)[:, None]  # (B, 1)
    losses = []
    for _ in range(updates):
        logprobs = episode_logprobs(model, batch.ids)
        loss = masked_policy_loss(logprobs, batch.logprobs, advantages, batch.mask, clip_eps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


class Settings(NamedTuple):
    """Settings of train_agent; the defaults are agentic GRPO as the course runs it."""

    steps: int = 40
    questions: int = 16  # per step
    group_size: int = 8  # episodes of each question
    updates: int = 2  # on each batch
    lr: float = 3e-4
    cost_weight: float = 0.05
    risk_weight: float = 0.0
    max_risk: float | None = None  # the gate; None for none
    progress: float = 0.0  # paid for each milestone
    progress_once: bool = True  # for the first time only
    counted: str = "policy"  # tokens in the loss: "policy", "reply" or "all"


def episode_reward(episode, cfg):
    """The scalar reward of one episode: success, cost, risk, and perhaps progress."""
    reached = [m for m in episode.milestones if m is not None]
    progress = len(set(reached)) if cfg.progress_once else len(reached)
    reward = scalar_reward(
        episode.success,
        episode.cost,
        episode.risk,
        cfg.cost_weight,
        cfg.risk_weight,
        cfg.max_risk,
    )
    return float(reward) + cfg.progress * progress


def count_tokens(model, batch, counted):
    """The batch with the mask of an experiment. "policy": all that the policy chose. "reply":
    only the words of the final reply, after its verb. "all": tool results too, as if the
    policy had written them."""
    if counted == "policy":
        return batch
    if counted == "reply":
        last = batch.turn.amax(1, keepdim=True)  # (B, 1)
        words = (batch.turn == last) & (
            batch.turn.roll(1, 1) == last
        )  # not the first: the verb
        submitted = torch.tensor([e.reason == "submitted" for e in batch.episodes])
        words = words & submitted.to(words.device)[:, None]
        return batch._replace(mask=words.float())
    first = batch.mask.argmax(1, keepdim=True)  # (B, 1) where the policy's first token stands
    lengths = torch.tensor([len(e.ids) for e in batch.episodes], device=first.device)
    places = torch.arange(batch.ids.shape[1], device=first.device)[None]
    everything = ((places >= first) & (places < lengths[:, None])).float()
    with torch.no_grad():
        return batch._replace(mask=everything, logprobs=episode_logprobs(model, batch.ids))


def train_agent(
    world, model, tokenizer, seed, cfg=None, reward=episode_reward, after_step=None
):
    """Agentic GRPO: play groups of episodes, score what they did, update the policy.

    Args:
        world: gives tasks("train", n, rng), env(task), max_tokens.
        model, tokenizer: the policy, changed in place, and its tokenizer.
        seed: of tasks and samples. cfg: Settings. reward: reward(episode, cfg) of
            one episode. after_step: None, or called with (step, model).

    Returns:
        list of (mean reward, success, cost, risk), one per step.
    """
    cfg, history = cfg or Settings(), []
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    questions = torch.arange(cfg.questions).repeat_interleave(cfg.group_size)  # (B,)
    for step in range(cfg.steps):
        tasks = world.tasks("train", cfg.questions, rng)
        envs = [world.env(task) for task in tasks for _ in range(cfg.group_size)]
        batch = rollout(
            model, tokenizer, envs, max_tokens=world.max_tokens, generator=generator
        )
        rewards = torch.tensor([reward(e, cfg) for e in batch.episodes])  # (B,)
        batch = count_tokens(model, batch, cfg.counted)
        grpo_update(
            model,
            optimizer,
            batch,
            rewards.to(batch.ids.device),
            questions.to(batch.ids.device),
            updates=cfg.updates,
        )
        facts = [(e.success, e.cost, e.risk) for e in batch.episodes]
        history.append([rewards.mean().item(), *np.mean(facts, axis=0).tolist()])
        if after_step:
            after_step(step + 1, model)
    return history
