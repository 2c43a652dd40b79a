"""Correct but different versions of chapter 10's exercises."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from rlcourse.agents import StopReason, episode_logprobs


def belief_update__loop(belief, action, observation, P, O):
    """State by state."""
    S = len(belief)
    joint = [O[action, t, observation] * sum(belief[s] * P[s, action, t] for s in range(S)) for t in range(S)]
    total = sum(joint)
    if total == 0:
        raise ValueError("this cannot be seen")
    return [x / total for x in joint]


def belief_update__in_logarithms(belief, action, observation, P, O):
    """With logarithms, which do not underflow."""
    with np.errstate(divide="ignore"):
        joint = np.log(np.einsum("s,st->t", belief, P[:, action])) + np.log(O[action, :, observation])
    if np.isneginf(joint).all():
        raise ValueError("this cannot be seen")
    weights = np.exp(joint - joint.max())
    return weights / weights.sum()


@dataclass
class Row:
    ids: list = field(default_factory=list)
    mask: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)


def merge_calls__token_by_token(calls):
    """Compares and appends token by token, with a float mask."""
    rows = []
    for prompt, completion, logprobs in calls:
        if len(completion) != len(logprobs):
            raise ValueError("tokens and log-probs differ in number")
        known = len(rows[-1].ids) if rows else 0
        same = bool(rows) and known <= len(prompt)
        same = same and all(a == b for a, b in zip(rows[-1].ids, prompt, strict=False))
        if not same:
            rows.append(Row())
            known = 0
        for token in prompt[known:]:
            rows[-1].ids.append(token), rows[-1].mask.append(0.0), rows[-1].logprobs.append(0.0)
        for token, logprob in zip(completion, logprobs, strict=True):
            rows[-1].ids.append(token), rows[-1].mask.append(1.0), rows[-1].logprobs.append(logprob)
    return rows


def merge_calls__groups_first(calls):
    """First finds which calls belong together, then writes each row once."""
    if any(len(c) != len(p) for _, c, p in calls):
        raise ValueError("tokens and log-probs differ in number")
    groups, end = [], None
    for call in calls:
        if end is None or call[0][: len(end)] != end:
            groups.append([])
        groups[-1].append(call)
        end = [*call[0], *call[1]]
    rows = []
    for group in groups:
        ids = [*group[-1][0], *group[-1][1]]
        row = Row(ids, [0] * len(ids), [0.0] * len(ids))
        for prompt, completion, logprobs in group:
            at = slice(len(prompt), len(prompt) + len(completion))
            row.mask[at], row.logprobs[at] = [1] * len(completion), list(logprobs)
        rows.append(row)
    return rows


def masked_policy_loss__selects(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """Takes the policy's tokens out of the tensors first."""
    chosen = mask > 0
    new, old = logprobs[chosen], old_logprobs.detach()[chosen]
    a = advantages.detach().expand(mask.shape)[chosen]
    ratio = torch.exp(new - old)
    losses = torch.maximum(-a * ratio, -a * torch.clamp(ratio, 1 - clip_eps, 1 + clip_eps))
    return losses.sum() / max(len(losses), 1)


def masked_policy_loss__by_sign(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """By the sign of the advantage: one edge each, with masked_fill."""
    off = mask == 0
    a = advantages.detach().expand_as(logprobs).masked_fill(off, 0.0)
    ratio = (logprobs - old_logprobs.detach()).masked_fill(off, 0.0).exp()
    bounded = torch.where(a > 0, ratio.clamp(max=1 + clip_eps), ratio.clamp(min=1 - clip_eps))
    return -(bounded * a).sum() / mask.sum().clamp(min=1)


def trajectory_advantages__sparse(rewards, questions, episodes, eps=1e-4):
    """With unique pairs and sums per question."""
    if not len(rewards):
        return rewards.clone()
    pairs, of_row = torch.stack([questions, episodes]).unique(dim=1, return_inverse=True)
    of_episode = torch.zeros(pairs.shape[1], dtype=rewards.dtype)
    of_episode[of_row] = rewards
    _, group = pairs[0].unique(return_inverse=True)
    zeros = torch.zeros(int(group.max()) + 1, dtype=rewards.dtype)
    n = zeros.index_add(0, group, torch.ones_like(of_episode))
    centred = of_episode - (zeros.index_add(0, group, of_episode) / n)[group]
    std = (zeros.index_add(0, group, centred.square()) / (n - 1).clamp(min=1)).sqrt()
    advantages = torch.where(n[group] > 1, centred / (std[group] + eps), 0.0)
    return advantages[of_row]


def trajectory_advantages__dicts(rewards, questions, episodes, eps=1e-4):
    """With a dict of dicts and plain numbers."""
    groups = {}
    rows = list(zip(rewards.tolist(), questions.tolist(), episodes.tolist(), strict=True))
    for reward, question, episode in rows:
        groups.setdefault(question, {})[episode] = reward
    out = []
    for reward, question, _ in rows:
        group = list(groups[question].values())
        mean = math.fsum(group) / len(group)
        if len(group) == 1:
            out.append(0.0)
            continue
        std = math.sqrt(math.fsum((r - mean) ** 2 for r in group) / (len(group) - 1))
        out.append((reward - mean) / (std + eps))
    return torch.tensor(out, dtype=rewards.dtype)


def turn_returns__matrix(turn_rewards, turn, gamma=1.0):
    """One triangular matrix of discounts."""
    K = turn_rewards.shape[1]
    k = torch.arange(K)
    distance = (k[:, None] - k[None]).to(turn_rewards.dtype)  # [j, k]
    discounts = torch.where(distance >= 0, gamma ** distance.clamp(min=0), 0.0)
    padded = torch.cat([turn_rewards @ discounts, torch.zeros_like(turn_rewards[:, :1])], dim=1)
    return padded.gather(1, torch.where(turn < 0, K, turn))


def turn_returns__loop(turn_rewards, turn, gamma=1.0):
    """Token by token."""
    out = torch.zeros(turn.shape, dtype=turn_rewards.dtype)
    for i, row in enumerate(turn.tolist()):
        for t, k in enumerate(row):
            for j in range(turn_rewards.shape[1] - 1, k - 1, -1) if k >= 0 else ():
                out[i, t] = turn_rewards[i, j] + gamma * out[i, t]
    return out


def masked_gae__compact(rewards, values, mask, gamma, gae_lambda):
    """Takes each row's policy tokens out, computes GAE and puts it back."""
    advantages, targets = torch.zeros_like(values).detach(), torch.zeros_like(values).detach()
    for i in range(len(mask)):
        chosen = mask[i].bool()
        r, v = rewards[i][chosen].tolist(), values[i][chosen].tolist()
        out, following = [0.0] * len(r), 0.0
        for k in reversed(range(len(r))):
            ahead = v[k + 1] if k + 1 < len(v) else 0.0
            following = out[k] = r[k] + gamma * ahead - v[k] + gamma * gae_lambda * following
        advantages[i, chosen] = values.new_tensor(out)
        targets[i, chosen] = values.new_tensor([a + b for a, b in zip(out, v, strict=True)])
    return advantages, targets


def masked_gae__lambda_returns(rewards, values, mask, gamma, gae_lambda):
    """By the recursion of the targets: G = r + gamma ((1 - lambda) V' + lambda G')."""
    r, v = rewards.detach(), values.detach()
    targets = torch.zeros_like(v)
    ahead, future = torch.zeros(len(v), dtype=v.dtype), torch.zeros(len(v), dtype=v.dtype)
    for t in range(v.shape[1] - 1, -1, -1):
        on = mask[:, t] == 1
        target = r[:, t] + gamma * ((1 - gae_lambda) * ahead + gae_lambda * future)
        targets[:, t] = torch.where(on, target, 0.0)
        ahead, future = torch.where(on, v[:, t], ahead), torch.where(on, target, future)
    return torch.where(mask == 1, targets - v, 0.0), targets


def scalar_reward__gate_first(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """With a factor that is 1 without a gate."""
    for weight in (cost_weight, risk_weight):
        if weight < 0:
            raise ValueError("negative weight")
    gate = 1.0 if max_risk is None else 1.0 * (risk <= max_risk)
    return gate * success - (cost_weight * cost + risk_weight * risk)


def scalar_reward__where(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """With tensors throughout."""
    if not (cost_weight >= 0 and risk_weight >= 0):
        raise ValueError("negative weight")
    success, cost, risk = (torch.as_tensor(x, dtype=torch.float64) for x in (success, cost, risk))
    if max_risk is not None:
        success = torch.where(risk > max_risk, torch.zeros_like(success), success)
    return success - cost_weight * cost - risk_weight * risk


def pareto_front__loop(points):
    """Point against point."""
    front = np.ones(len(points), dtype=bool)
    for i, (s, c, r) in enumerate(points):
        if np.isnan(points[i]).any():
            front[i] = False
            continue
        for other in points:
            if other[0] >= s and other[1] <= c and other[2] <= r and tuple(other) != (s, c, r):
                front[i] = False
    return front


def pareto_front__best_first(points):
    """Sorted, so that a point can only be dominated by one before it."""
    front = np.zeros(len(points), dtype=bool)
    whole = [i for i in range(len(points)) if not np.isnan(points[i]).any()]
    kept = []
    for i in sorted(whole, key=lambda i: (-points[i, 0], points[i, 1], points[i, 2])):
        p = (-points[i, 0], points[i, 1], points[i, 2])
        if not any(q != p and all(a <= b for a, b in zip(q, p, strict=True)) for q in kept):
            kept.append(p)
            front[i] = True
    return front


class EpisodeRecord(NamedTuple):
    messages: list
    rewards: list
    reason: str


def run_agent__for_else(env, policy, max_turns):
    """A for loop whose else is the turn limit; plain strings as reasons."""
    if max_turns <= 0:
        raise ValueError("at least one turn")
    messages, rewards, reason = [{"role": "user", "content": env.reset()}], [], "turn_limit"
    for turn in range(1, max_turns + 1):
        text = policy([{**m} for m in messages])
        messages += [{"role": "assistant", "content": text}]
        rewards += [0.0]
        try:
            step = env.step(text)
        except Exception:
            reason = "tool_error"
            break
        rewards[-1] = float(step.reward)
        over = step.done or turn == max_turns
        if not (over and step.text == ""):
            messages += [{"role": "tool", "content": step.text}]
        if step.done:
            reason = step.reason
            break
    return EpisodeRecord(messages, rewards, reason)


def run_agent__recursive(env, policy, max_turns):
    """One turn, then the rest."""
    if max_turns < 1:
        raise ValueError("at least one turn")

    def rest(messages, rewards):
        text = policy([dict(m) for m in messages])
        messages = [*messages, {"role": "assistant", "content": text}]
        try:
            answer = env.step(text)
        except Exception:
            return EpisodeRecord(messages, [*rewards, 0.0], StopReason.TOOL_ERROR)
        rewards = [*rewards, answer.reward]
        said = [*messages, {"role": "tool", "content": answer.text}]
        if not answer.done and len(rewards) < max_turns:
            return rest(said, rewards)
        reason = answer.reason if answer.done else StopReason.TURN_LIMIT
        return EpisodeRecord(said if answer.text else messages, rewards, reason)

    return rest([{"role": "user", "content": env.reset()}], [])


def _advantages(rewards, questions):
    out = torch.zeros_like(rewards)
    for i, q in enumerate(questions.tolist()):
        group = rewards[questions == q]
        if len(group) > 1:
            out[i] = (rewards[i] - group.mean()) / (group.std() + 1e-4)
    return out[:, None]


def grpo_update__flat(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """Only the policy's tokens, as one long list."""
    chosen = batch.mask.bool()
    a = _advantages(rewards, questions).expand(batch.mask.shape)[chosen]
    losses = []
    for _ in range(updates):
        model.zero_grad()
        ratio = (episode_logprobs(model, batch.ids)[chosen] - batch.logprobs[chosen]).exp()
        surrogate = torch.min(ratio * a, ratio.clip(1 - clip_eps, 1 + clip_eps) * a)
        loss = -surrogate.sum() / max(1, int(chosen.sum()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), max_grad_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def grpo_update__own_forward(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """Row by row, with the model called directly and gradients added up within one update."""
    advantages, losses = _advantages(rewards, questions), []
    count = batch.mask.sum().clamp(min=1)
    for _ in range(updates):
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for ids, mask, old, a in zip(batch.ids, batch.mask, batch.logprobs, advantages, strict=True):
            logits = model(input_ids=ids[None, :-1]).logits[0].log_softmax(-1)
            new = logits.gather(1, ids[1:, None])[:, 0]
            ratio = torch.where(mask[1:].bool(), new - old[1:], 0.0).exp()
            kept = torch.minimum(ratio * a, ratio.clamp(1 - clip_eps, 1 + clip_eps) * a)
            loss = -(kept * mask[1:]).sum() / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        losses.append(total)
    return losses
