"""Wrong versions of chapter 10's exercises; each docstring is the diagnosis that a learner reads."""

import copy
from types import SimpleNamespace

import numpy as np
import torch

from rlcourse.agents import episode_logprobs

# belief_update


def belief_update__forgets_the_move(belief, action, observation, P, O):
    """The state does not move in your update: first sum over where the action may have led."""
    joint = belief * O[action, :, observation]
    if joint.sum() <= 0:
        raise ValueError("impossible observation")
    return joint / joint.sum()


def belief_update__not_normalised(belief, action, observation, P, O):
    """This is the joint probability: divide by the probability of the observation, so that it sums to 1."""
    joint = (belief @ P[:, action]) * O[action, :, observation]
    if joint.sum() <= 0:
        raise ValueError("impossible observation")
    return joint


def belief_update__backwards(belief, action, observation, P, O):
    """P is used the wrong way round: sum over the states that were left, not over those arrived at."""
    joint = (P[:, action] @ belief) * O[action, :, observation]
    if joint.sum() <= 0:
        raise ValueError("impossible observation")
    return joint / joint.sum()


def belief_update__weighs_before_the_move(belief, action, observation, P, O):
    """The observation follows the move: it weighs the states arrived at, not the ones left."""
    joint = (belief * O[action, :, observation]) @ P[:, action]
    if joint.sum() <= 0:
        raise ValueError("impossible observation")
    return joint / joint.sum()


def belief_update__ignores_the_observation(belief, action, observation, P, O):
    """This is the prediction before the observation: what was seen must weigh it."""
    predicted = belief @ P[:, action]
    if (predicted * O[action, :, observation]).sum() <= 0:
        raise ValueError("impossible observation")
    return predicted


def belief_update__nan(belief, action, observation, P, O):
    """An impossible observation gives 0 / 0: raise a ValueError, a belief of NaN would spread."""
    joint = (belief @ P[:, action]) * O[action, :, observation]
    with np.errstate(invalid="ignore"):
        return joint / joint.sum()


def belief_update__in_place(belief, action, observation, P, O):
    """The old belief is overwritten: the caller still needs it."""
    belief[:] = (belief @ P[:, action]) * O[action, :, observation]
    if belief.sum() <= 0:
        raise ValueError("impossible observation")
    belief /= belief.sum()
    return belief


# merge_calls


def _row():
    return SimpleNamespace(ids=[], mask=[], logprobs=[])


def _same_number(completion, logprobs):
    if len(completion) != len(logprobs):
        raise ValueError("tokens and log-probs differ in number")


def _write(row, prompt, completion, logprobs, mask=0):
    new = prompt[len(row.ids) :]
    row.ids.extend(new + completion)
    row.mask.extend([mask] * len(new) + [1] * len(completion))
    row.logprobs.extend([0.0] * len(new) + logprobs)


def merge_calls__no_prefix_check(calls):
    """Every call is glued to the row, although the history came back with other ids: the log-probs then
    belong to tokens that are not in the row. Text that is decoded and encoded again need not give the
    same ids (trl#5224, Agent-R1#30, which ended in NaN)."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows:
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
    return rows


def merge_calls__never_merges(calls):
    """Every call is a row of its own: the history is then trained again and again, n rows for n turns."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
    return rows


def merge_calls__checks_only_the_prompt(calls):
    """You compare with the last prompt only: the completion after it may have come back with other ids."""
    rows, before = [], []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows or prompt[: len(before)] != before:
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
        before = prompt
    return rows


def merge_calls__checks_only_the_length(calls):
    """A prompt that is longer than the row need not contain it: compare the ids, not the lengths."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows or len(prompt) < len(rows[-1].ids):
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
    return rows


def merge_calls__tool_tokens_as_actions(calls):
    """Tool results have mask 1 in your rows: the policy would be trained on words that it did not choose.
    Only the completions are its own."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        fresh = not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids
        if fresh:
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs, mask=0 if fresh else 1)
    return rows


def merge_calls__mask_from_the_logprobs(calls):
    """The mask is read off the log-probs: a token of which the policy was sure has log-prob 0 too. What
    counts is who chose it."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids:
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
    for row in rows:
        row.mask[:] = [int(p != 0) for p in row.logprobs]
    return rows


def merge_calls__mask_longer_than_the_ids(calls):
    """mask and ids differ in length: a new prompt adds only what is new in it, to all three lists. A tool
    mask longer than its completion is trl#5144."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids:
            rows.append(_row())
        row = rows[-1]
        new = prompt[len(row.ids) :]
        row.ids.extend(new + completion)
        row.mask.extend([0] * len(prompt) + [1] * len(completion))
        row.logprobs.extend([0.0] * len(new) + logprobs)
    return rows


def merge_calls__prompt_again(calls):
    """The whole prompt is written again: a continued row already has its beginning."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids:
            rows.append(_row())
        row = rows[-1]
        row.ids.extend(prompt + completion)
        row.mask.extend([0] * len(prompt) + [1] * len(completion))
        row.logprobs.extend([0.0] * len(prompt) + logprobs)
    return rows


def merge_calls__no_length_check(calls):
    """A completion whose log-probs differ in number slips through: all later tokens get the log-prob of
    another token. Refuse it."""
    rows = []
    for prompt, completion, logprobs in calls:
        if not rows or prompt[: len(rows[-1].ids)] != rows[-1].ids:
            rows.append(_row())
        _write(rows[-1], prompt, completion, logprobs)
    return rows


def merge_calls__writes_into_the_prompt(calls):
    """The row is the caller's own prompt list, and you append to it: start from a copy."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        if rows and prompt[: len(rows[-1].ids)] == rows[-1].ids:
            _write(rows[-1], prompt, completion, logprobs)
            continue
        mask, scores = [0] * len(prompt) + [1] * len(completion), [0.0] * len(prompt) + logprobs
        prompt.extend(completion)
        rows.append(SimpleNamespace(ids=prompt, mask=mask, logprobs=scores))
    return rows


def merge_calls__any_earlier_row(calls):
    """You continue an earlier row: only the last row may grow, the others are finished."""
    rows = []
    for prompt, completion, logprobs in calls:
        _same_number(completion, logprobs)
        fitting = [row for row in rows if prompt[: len(row.ids)] == row.ids]
        if not fitting:
            rows.append(_row())
        _write(fitting[-1] if fitting else rows[-1], prompt, completion, logprobs)
    return rows


# masked_policy_loss


def _surrogate(log_ratio, advantages, clip_eps):
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip_eps, 1 + clip_eps) * advantages)


def masked_policy_loss__multiplies(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """NaN times 0 is NaN: a mask that multiplies does not remove what is not a number (verl#6361). Choose
    with torch.where, before exp."""
    surrogate = _surrogate(logprobs - old_logprobs.detach(), advantages.detach(), clip_eps)
    return -(surrogate * mask).sum() / mask.sum().clamp(min=1)


def masked_policy_loss__where_at_the_end(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The value is right, its gradient is NaN: torch.where at the end hides a NaN in the value, but the
    gradient still runs through exp and gives 0 times NaN. Replace the log-ratio before exp (verl#6361)."""
    surrogate = _surrogate(logprobs - old_logprobs.detach(), advantages.detach(), clip_eps)
    return -torch.where(mask.bool(), surrogate, 0.0).sum() / mask.sum().clamp(min=1)


def masked_policy_loss__keeps_advantages(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The log-ratio is masked, the advantages are not: at tool tokens they may hold anything."""
    log_ratio = torch.where(mask.bool(), logprobs - old_logprobs.detach(), 0.0)
    surrogate = _surrogate(log_ratio, advantages.detach(), clip_eps)
    return -(surrogate * mask).sum() / mask.sum().clamp(min=1)


def masked_policy_loss__tool_tokens_in_the_count(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """You divide by all tokens, tool results and padding too: the longer the tool's answers, the smaller
    the gradient (slime PR #365). Count the policy's tokens."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    return (
        -_surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps).sum() / mask.numel()
    )


def masked_policy_loss__no_mask(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The mask is not used: the policy is trained on the tool's words. "Probably fine to treat tool
    results as model output" (trl PR #2810) is what this chapter's lab measures."""
    return -_surrogate(logprobs - old_logprobs.detach(), advantages.detach(), clip_eps).mean()


def masked_policy_loss__filled_with_one(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """Masked log-probs are filled with 0 and the old ones with 1, and nothing masks the result: every tool
    token counts with the ratio 1/e (Flash-RL#19)."""
    new = logprobs.masked_fill(mask == 0, 0.0)
    old = old_logprobs.detach().masked_fill(mask == 0, 1.0)
    return -_surrogate(new - old, advantages.detach(), clip_eps).sum() / mask.sum().clamp(min=1)


def masked_policy_loss__row_means(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """This is the mean of the rows' means: a token of a long episode weighs less than one of a short one.
    Here every policy token of the batch weighs the same."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    surrogate = _surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps)
    return -(surrogate.sum(1) / chosen.sum(1).clamp(min=1)).mean()


def masked_policy_loss__sign(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The sign is turned around: an optimizer goes downhill, so the loss is minus the surrogate."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    surrogate = _surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps)
    return surrogate.sum() / chosen.sum().clamp(min=1)


def masked_policy_loss__never_clips(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """The ratio is never clipped: the second update on the same batch could go as far as it likes."""
    chosen = mask.bool()
    ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0).exp()
    return -(ratio * torch.where(chosen, advantages.detach(), 0.0)).sum() / chosen.sum().clamp(min=1)


def masked_policy_loss__only_clipped(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """Only the clipped ratio is used: take the smaller of clipped and unclipped, so that a token that went
    the wrong way can come back."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    ratio = log_ratio.exp().clamp(1 - clip_eps, 1 + clip_eps)
    return -(ratio * torch.where(chosen, advantages.detach(), 0.0)).sum() / chosen.sum().clamp(min=1)


def masked_policy_loss__trains_the_sampler(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """Gradient flows into old_logprobs or into the advantages: both are data, detach them."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs, 0.0)
    return -_surrogate(log_ratio, torch.where(chosen, advantages, 0.0), clip_eps).sum() / chosen.sum().clamp(
        min=1
    )


def masked_policy_loss__nan_when_empty(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """A batch without policy tokens divides 0 by 0: the NaN would reach all parameters."""
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    surrogate = _surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps)
    return -surrogate.sum() / chosen.sum()


def masked_policy_loss__zero_times_the_sum(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """A batch without policy tokens costs 0 times the sum of its log-probs: they may be NaN or infinite,
    and so is the product. Choose with torch.where there too."""
    chosen = mask.bool()
    if not chosen.any():
        return 0.0 * logprobs.sum()
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    surrogate = _surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps)
    return -surrogate.sum() / chosen.sum()


def masked_policy_loss__constant_when_empty(logprobs, old_logprobs, advantages, mask, clip_eps=0.2):
    """A batch without policy tokens gives a constant: backward needs a loss that depends on the policy,
    even if its gradient is 0."""
    chosen = mask.bool()
    if not chosen.any():
        return torch.zeros((), dtype=logprobs.dtype)
    log_ratio = torch.where(chosen, logprobs - old_logprobs.detach(), 0.0)
    return (
        -_surrogate(log_ratio, torch.where(chosen, advantages.detach(), 0.0), clip_eps).sum() / chosen.sum()
    )


# trajectory_advantages


def _advantages(rewards, questions, episodes, eps=1e-4, correction=1):
    out = torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question
        of = dict(zip(episodes[rows].tolist(), rewards[rows].tolist(), strict=True))
        if len(of) > 1:
            group = rewards.new_tensor(list(of.values()))
            out[rows] = (rewards[rows] - group.mean()) / (group.std(correction=correction) + eps)
    return out


def trajectory_advantages__rows_counted(rewards, questions, episodes, eps=1e-4):
    """Mean and std are over rows: an episode that was split into three rows counts three times in its
    group's baseline (Agent-Lightning, rollout_level_advantage.py). Count every episode once."""
    return _advantages(rewards, questions, torch.arange(len(rewards)), eps)


def trajectory_advantages__whole_batch(rewards, questions, episodes, eps=1e-4):
    """You compare with the whole batch: an episode competes with those of the same question only, or an
    easy question's failures would look good."""
    return _advantages(rewards, torch.zeros_like(questions), episodes, eps)


def trajectory_advantages__population_std(rewards, questions, episodes, eps=1e-4):
    """This is the population std (divided by n): the convention here is the sample std (n - 1)."""
    return _advantages(rewards, questions, episodes, eps, correction=0)


def trajectory_advantages__eps_in_variance(rewards, questions, episodes, eps=1e-4):
    """eps belongs outside the square root: std + eps, not sqrt(var + eps)."""
    out = torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question
        of = dict(zip(episodes[rows].tolist(), rewards[rows].tolist(), strict=True))
        if len(of) > 1:
            group = rewards.new_tensor(list(of.values()))
            out[rows] = (rewards[rows] - group.mean()) / (group.var() + eps).sqrt()
    return out


def trajectory_advantages__single_is_nan(rewards, questions, episodes, eps=1e-4):
    """A question with a single episode has no sample std: 0 / 0. Its advantage is 0, there is nothing to
    compare it with."""
    out = torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question
        of = dict(zip(episodes[rows].tolist(), rewards[rows].tolist(), strict=True))
        group = rewards.new_tensor(list(of.values()))
        out[rows] = (rewards[rows] - group.mean()) / (group.std() + eps)
    return out


def trajectory_advantages__ids_across_questions(rewards, questions, episodes, eps=1e-4):
    """You look for an episode's first row in the whole batch: episode 0 of another question is another
    episode, so some groups lose theirs."""
    seen, first = set(), []
    for episode in episodes.tolist():
        first.append(episode not in seen)
        seen.add(episode)
    first, out = torch.tensor(first, dtype=torch.bool), torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question
        group = rewards[rows & first]
        if len(group) > 1:
            out[rows] = (rewards[rows] - group.mean()) / (group.std() + eps)
    return out


def trajectory_advantages__equal_rewards_merged(rewards, questions, episodes, eps=1e-4):
    """You take the different rewards, not the different episodes: two episodes with the same reward are
    two."""
    out = torch.zeros_like(rewards)
    for question in questions.unique():
        rows = questions == question
        group = rewards[rows].unique()
        if len(episodes[rows].unique()) > 1:
            std = group.std() if len(group) > 1 else 0.0
            out[rows] = (rewards[rows] - group.mean()) / (std + eps)
    return out


def trajectory_advantages__first_row_only(rewards, questions, episodes, eps=1e-4):
    """Only the first row of an episode has an advantage: all of its rows are trained with it."""
    out, seen = _advantages(rewards, questions, episodes, eps), set()
    for i, key in enumerate(zip(questions.tolist(), episodes.tolist(), strict=True)):
        if key in seen:
            out[i] = 0.0
        seen.add(key)
    return out


def trajectory_advantages__split_by_rows(rewards, questions, episodes, eps=1e-4):
    """An episode's advantage is divided among its rows: each row gets all of it, its tokens did all of the
    work."""
    keys = list(zip(questions.tolist(), episodes.tolist(), strict=True))
    count = rewards.new_tensor([keys.count(key) for key in keys])
    return _advantages(rewards, questions, episodes, eps) / count


def trajectory_advantages__float32_inside(rewards, questions, episodes, eps=1e-4):
    """Mean and std are computed in float32: torch.tensor makes float32 of Python's numbers, whatever dtype
    rewards has (rewards.new_tensor keeps it)."""
    return _advantages(rewards.float(), questions, episodes, eps).to(rewards.dtype)


def trajectory_advantages__only_neighbours(rewards, questions, episodes, eps=1e-4):
    """You take a run of rows for a group: the rows of a question may stand anywhere in the batch."""
    run, runs = 0, []
    for i, question in enumerate(questions.tolist()):
        run += i > 0 and question != questions[i - 1].item()
        runs.append(run)
    return _advantages(rewards, torch.tensor(runs, dtype=torch.long), episodes, eps)


# turn_returns


def _to_go(turn_rewards, gamma):
    out, future = torch.zeros_like(turn_rewards), 0.0
    for k in reversed(range(turn_rewards.shape[1])):
        future = turn_rewards[:, k] + gamma * future
        out[:, k] = future
    return out


def _spread(of_turn, turn):
    return torch.where(turn >= 0, of_turn.gather(1, turn.clamp(min=0)), 0.0)


def turn_returns__index_minus_one(turn_rewards, turn, gamma=1.0):
    """Turn -1 is read as the last turn: tool tokens and padding get its return. An index -1 that quietly
    means the end is also how a reward came to lie on the padding in verl#6310."""
    return _to_go(turn_rewards, gamma)[torch.arange(len(turn))[:, None], turn]


def turn_returns__stops_at_the_tool(turn_rewards, turn, gamma=1.0):
    """A tool's answer ends your sum: mask 0 is not the end of the episode. For gamma 0.5 and a reward at
    the end you give 0, 0, 1 where 0.5, 0, 1 is right; the returns of verl#6376 broke off in the same
    way."""
    out = torch.zeros(turn.shape, dtype=turn_rewards.dtype)
    for i, row in enumerate(turn.tolist()):
        for t, k in enumerate(row):
            end = t
            while end + 1 < len(row) and row[end + 1] >= 0:
                end += 1
            if k >= 0:
                out[i, t] = sum(gamma ** (j - k) * turn_rewards[i, j] for j in range(k, row[end] + 1))
    return out


def turn_returns__discount_per_token(turn_rewards, turn, gamma=1.0):
    """You discount per token: here gamma counts turns, so a long answer is no reason to care less."""
    out, future = torch.zeros(turn.shape, dtype=turn_rewards.dtype), torch.zeros(len(turn)).to(turn_rewards)
    for i, row in enumerate(turn.tolist()):
        future, following = 0.0, None
        for t in reversed(range(len(row))):
            if row[t] >= 0:
                future = future * gamma if following is not None else 0.0
                if row[t] != following:
                    future = future + turn_rewards[i, row[t]]
                following = row[t]
                out[i, t] = future
    return out


def turn_returns__own_reward_only(turn_rewards, turn, gamma=1.0):
    """A token gets the reward of its own turn only: what its turn made possible later counts too."""
    return _spread(turn_rewards, turn)


def turn_returns__whole_episode(turn_rewards, turn, gamma=1.0):
    """Every token gets the return of the whole episode: rewards that were paid before a turn are not its
    merit, they only add noise."""
    total = _to_go(turn_rewards, gamma)[:, :1]
    return torch.where(turn >= 0, total.expand(turn.shape), 0.0)


def turn_returns__discount_from_the_start(turn_rewards, turn, gamma=1.0):
    """You discount from the start of the episode: gamma^(j - k) counts from the token's own turn."""
    weights = gamma ** torch.arange(turn_rewards.shape[1]).to(turn_rewards)
    return _spread(_to_go(turn_rewards * weights, 1.0), turn)


def turn_returns__from_the_next_turn(turn_rewards, turn, gamma=1.0):
    """The reward of the token's own turn is missing: the sum begins with j = k."""
    return _spread(_to_go(turn_rewards, gamma) - turn_rewards, turn)


def turn_returns__past_instead_of_future(turn_rewards, turn, gamma=1.0):
    """You sum over the turns before: a return looks ahead, not back."""
    return _spread(_to_go(turn_rewards.flip(1), gamma).flip(1), turn)


# masked_gae


def _gae(rewards, values, gamma, gae_lambda):
    out, ahead, advantage = torch.zeros_like(values), torch.zeros_like(values[:, 0]), 0.0
    for t in reversed(range(values.shape[1])):
        advantage = rewards[:, t] + gamma * ahead - values[:, t] + gamma * gae_lambda * advantage
        out[:, t], ahead = advantage, values[:, t]
    return out


def _skip(rewards, values, mask, gamma, gae_lambda):
    out, ahead, following = torch.zeros_like(values), torch.zeros_like(values[:, 0]), 0.0
    following = torch.zeros_like(ahead)
    for t in reversed(range(values.shape[1])):
        m = mask[:, t] > 0
        advantage = rewards[:, t] + gamma * ahead - values[:, t] + gamma * gae_lambda * following
        out[:, t] = torch.where(m, advantage, 0.0)
        ahead, following = torch.where(m, values[:, t], ahead), torch.where(m, advantage, following)
    return out


def masked_gae__over_tool_tokens(rewards, values, mask, gamma, gae_lambda):
    """GAE runs over the tool's tokens and is masked only at the end: their values, TD errors and discounts
    are in the policy's advantages (verl PR #2337)."""
    chosen = mask.bool()
    out = torch.where(chosen, _gae(rewards.detach(), values.detach(), gamma, gae_lambda), 0.0)
    return out, torch.where(chosen, out + values.detach(), 0.0)


def masked_gae__discounts_tool_tokens(rewards, values, mask, gamma, gae_lambda):
    """Tool tokens count as time: with value and reward 0 they still cost a discount each, and the value of
    the next action is lost behind them. Skip them."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    out = torch.where(chosen, _gae(rewards, values, gamma, gae_lambda), 0.0)
    return out, out + values


def masked_gae__stops_at_tool_tokens(rewards, values, mask, gamma, gae_lambda):
    """A tool token ends your sum: mask 0 is not the end of the episode (the returns of verl#6376 were
    reset in the same way). What follows the tool's answer belongs to the action before it."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    out, ahead, following = torch.zeros_like(values), torch.zeros_like(values[:, 0]), 0.0
    for t in reversed(range(values.shape[1])):
        advantage = rewards[:, t] + gamma * ahead - values[:, t] + gamma * gae_lambda * following
        out[:, t] = following = torch.where(chosen[:, t], advantage, 0.0)
        ahead = values[:, t]
    return out, out + values


def masked_gae__multiplies(rewards, values, mask, gamma, gae_lambda):
    """NaN times 0 is NaN: choose with torch.where instead of multiplying with the mask (verl#6361)."""
    rewards, values = rewards.detach() * mask, values.detach() * mask
    out = _skip(rewards, values, mask, gamma, gae_lambda)
    return out, out + values


def masked_gae__tool_rewards_count(rewards, values, mask, gamma, gae_lambda):
    """Rewards at tool tokens are added to the action before them: a penalty per token, such as the KL,
    must not be summed over words that the policy did not choose (slime#1370)."""
    rewards, values = rewards.detach().clone(), torch.where(mask.bool(), values, 0.0).detach()
    for i in range(len(mask)):
        last = None
        for t in range(mask.shape[1]):
            if mask[i, t]:
                last = t
            elif last is not None:
                rewards[i, last] += rewards[i, t]
    out = _skip(rewards, values, mask, gamma, gae_lambda)
    return out, out + values


def masked_gae__bootstraps_the_end(rewards, values, mask, gamma, gae_lambda):
    """After the last policy token its own value is bootstrapped: the episode is over, nothing comes."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    rewards = rewards.clone()
    for i in range(len(mask)):
        if chosen[i].any():
            last = chosen[i].nonzero()[-1, 0]
            rewards[i, last] += gamma * values[i, last]
    out = _skip(rewards, values, mask, gamma, gae_lambda)
    return out, out + values


def masked_gae__no_lambda(rewards, values, mask, gamma, gae_lambda):
    """gae_lambda is not used: the advantages are discounted with gamma times lambda."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    out = _skip(rewards, values, mask, gamma, 1.0)
    return out, out + values


def masked_gae__targets_are_td(rewards, values, mask, gamma, gae_lambda):
    """Your targets are reward plus next value: the target of a value is its advantage plus the value
    itself."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    td = _skip(rewards, values, mask, gamma, 0.0)
    return _skip(rewards, values, mask, gamma, gae_lambda), td + values


def masked_gae__trains_the_critic(rewards, values, mask, gamma, gae_lambda):
    """The result carries gradient into the values: the policy's loss would train the critic. Compute it
    under torch.no_grad."""
    chosen = mask.bool()
    rewards, values = torch.where(chosen, rewards, 0.0), torch.where(chosen, values, 0.0)
    out = _skip(rewards, values, mask, gamma, gae_lambda)
    return out, out + values


def masked_gae__targets_not_masked(rewards, values, mask, gamma, gae_lambda):
    """The targets of tool tokens are their values: they may be anything, give 0 there."""
    chosen = mask.bool()
    rewards, clean = torch.where(chosen, rewards, 0.0).detach(), torch.where(chosen, values, 0.0).detach()
    out = _skip(rewards, clean, mask, gamma, gae_lambda)
    return out, out + values.detach()


# scalar_reward


def _not_negative(*weights):
    if min(weights) < 0:
        raise ValueError("negative weight")


def scalar_reward__adds(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """Cost and risk are added: they are subtracted, with weights that are not negative."""
    _not_negative(cost_weight, risk_weight)
    if max_risk is not None:
        success = success * (risk <= max_risk)
    return success + cost_weight * cost + risk_weight * risk


def scalar_reward__swapped_weights(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """The weights are swapped: cost_weight belongs to cost, risk_weight to risk."""
    _not_negative(cost_weight, risk_weight)
    if max_risk is not None:
        success = success * (risk <= max_risk)
    return success - risk_weight * cost - cost_weight * risk


def scalar_reward__truthy_gate(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """max_risk 0 is taken for no gate: 0 is false in Python, so ask `is not None`."""
    _not_negative(cost_weight, risk_weight)
    if max_risk:
        success = success * (risk <= max_risk)
    return success - cost_weight * cost - risk_weight * risk


def scalar_reward__strict_gate(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """The gate is closed at max_risk itself: a risk that is just allowed is allowed."""
    _not_negative(cost_weight, risk_weight)
    if max_risk is not None:
        success = success * (risk < max_risk)
    return success - cost_weight * cost - risk_weight * risk


def scalar_reward__gate_forgives_cost(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """Behind the gate the whole reward is 0: cost and risk still count there, else a reckless failure
    costs nothing."""
    _not_negative(cost_weight, risk_weight)
    reward = success - cost_weight * cost - risk_weight * risk
    return reward if max_risk is None else reward * (risk <= max_risk)


def scalar_reward__no_gate(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """max_risk is not used: a success above it must not count."""
    _not_negative(cost_weight, risk_weight)
    return success - cost_weight * cost - risk_weight * risk


def scalar_reward__any_weights(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """Negative weights are taken: they reward cost or risk. Refuse them."""
    if max_risk is not None:
        success = success * (risk <= max_risk)
    return success - cost_weight * cost - risk_weight * risk


def scalar_reward__in_place(success, cost, risk, cost_weight, risk_weight, max_risk=None):
    """The caller's success is overwritten by the gate: *= changes a tensor in place."""
    _not_negative(cost_weight, risk_weight)
    if max_risk is not None:
        success *= risk <= max_risk
    return success - cost_weight * cost - risk_weight * risk


# pareto_front


def _front(losses, dominates):
    return ~dominates.any(0) & ~np.isnan(losses).any(1)


def pareto_front__all_less(points):
    """In all three columns less is better for you: of success, more is better."""
    a, b = points[:, None], points[None]
    return _front(points, (a <= b).all(-1) & (a < b).any(-1))


def pareto_front__strictly_better_in_all(points):
    """You ask for better in all columns: at least as good in all and better in one is enough."""
    losses = points * np.array([-1, 1, 1])
    return _front(losses, (losses[:, None] < losses[None]).all(-1))


def pareto_front__equal_points_kill_each_other(points):
    """Equal points remove each other, and every point would remove itself: to dominate, a point must be
    better in at least one column."""
    losses = points * np.array([-1, 1, 1])
    dominates = (losses[:, None] <= losses[None]).all(-1) & ~np.eye(len(points), dtype=bool)
    return _front(losses, dominates)


def pareto_front__better_in_one(points):
    """Better in one column does not dominate: it must also be at least as good in the others."""
    losses = points * np.array([-1, 1, 1])
    return _front(losses, (losses[:, None] < losses[None]).any(-1))


def pareto_front__transposed(points):
    """These are the points that dominate none: you read the table of who dominates whom along the wrong
    axis."""
    losses = points * np.array([-1, 1, 1])
    a, b = losses[:, None], losses[None]
    return _front(losses, ((a <= b).all(-1) & (a < b).any(-1)).T)


def pareto_front__nan_on_the_front(points):
    """A row with NaN compares as neither better nor worse, so nothing dominates it: take it out."""
    losses = points * np.array([-1, 1, 1])
    a, b = losses[:, None], losses[None]
    return ~((a <= b).all(-1) & (a < b).any(-1)).any(0)


def pareto_front__infinity_is_out(points):
    """np.isfinite takes out infinite numbers too: only NaN is no number, so ask np.isnan."""
    losses = points * np.array([-1, 1, 1])
    a, b = losses[:, None], losses[None]
    return ~((a <= b).all(-1) & (a < b).any(-1)).any(0) & np.isfinite(losses).all(1)


def pareto_front__nan_dominates(points):
    """NaN is taken for the best possible value: an agent that was not measured beats nobody."""
    losses = points * np.array([-1, 1, 1])
    filled = np.nan_to_num(losses, nan=-np.inf)
    a, b = filled[:, None], filled[None]
    return _front(losses, (a <= b).all(-1) & (a < b).any(-1))


def pareto_front__best_of_a_column(points):
    """You keep only what is best in some column: a point in the middle stays too if nothing dominates it."""
    losses = points * np.array([-1, 1, 1])
    if not len(losses):
        return np.zeros(0, dtype=bool)
    a, b = losses[:, None], losses[None]
    front = _front(losses, (a <= b).all(-1) & (a < b).any(-1))
    clean = np.where(np.isnan(losses).any(1, keepdims=True), np.inf, losses)
    return front & (clean == clean.min(0)).any(1)


def pareto_front__weighted_sum(points):
    """You keep the best point of a weighted sum: one set of weights finds one point, the front has many."""
    score = points @ np.array([1.0, -1.0, -1.0])
    return score == np.nanmax(score) if np.isfinite(score).any() else np.zeros(len(points), dtype=bool)


# run_agent


class _Messages(list):
    def say(self, role, content):
        self.append({"role": role, "content": content})


def _run(
    env,
    policy,
    max_turns,
    *,
    limit="turn_limit",
    tool_role="tool",
    extra=0,
    step_after_done=False,
    shared=None,
    last_text="if any",
    on_error="tool_error",
    error_reward=True,
    keep_broken_turn=True,
    policy_errors=False,
    reset_each_turn=False,
    limit_first=False,
    middle_empty=True,
    silence_ends=False,
):
    if max_turns < 1:
        raise ValueError("max_turns")
    messages, rewards = _Messages(), []
    messages.say("user", env.reset())
    done = False
    while not done and len(rewards) < max_turns + extra:
        if reset_each_turn and rewards:
            env.reset()
        own = {None: copy.deepcopy(messages), "list": messages, "dicts": list(messages)}[shared]
        try:
            text = policy(own)
        except Exception:
            if not policy_errors:
                raise
            return SimpleNamespace(messages=messages, rewards=[*rewards, 0.0], reason="tool_error")
        if silence_ends and not text:
            break
        messages.say("assistant", text)
        try:
            step = env.step(text)
        except Exception:
            if on_error is None:
                raise
            if not keep_broken_turn:
                del messages[-1]
            rewards += [0.0] if error_reward and keep_broken_turn else []
            return SimpleNamespace(messages=messages, rewards=rewards, reason=on_error)
        rewards.append(step.reward)
        done = step.done and not (limit_first and len(rewards) == max_turns)
        last = done or len(rewards) == max_turns + extra
        show = {"if any": bool(step.text), "always": True, "never": False}[last_text] if last else True
        if not last and not middle_empty:
            show = bool(step.text)
        if show:
            messages.say(tool_role, step.text)
    if done and step_after_done:
        env.step("")
    return SimpleNamespace(messages=list(messages), rewards=rewards, reason=step.reason if done else limit)


def run_agent__limit_is_success(env, policy, max_turns):
    """An episode that ran out of turns is called submitted: a stop in the middle is not a success, and the
    statistics must tell them apart (StopReason of tinker-cookbook)."""
    return _run(env, policy, max_turns, limit="submitted")


def run_agent__no_reason_at_the_limit(env, policy, max_turns):
    """An episode that ran out of turns has no reason: every episode ends with exactly one."""
    return _run(env, policy, max_turns, limit=None)


def run_agent__limit_beats_the_end(env, policy, max_turns):
    """An episode that ends in its last allowed turn is called turn_limit: look at step.done first."""
    return _run(env, policy, max_turns, limit_first=True)


def run_agent__tool_speaks_as_assistant(env, policy, max_turns):
    """The tool's answer is recorded as the assistant's: a verifier would read it as if the model had said
    it, and pay for it (verl#6392)."""
    return _run(env, policy, max_turns, tool_role="assistant")


def run_agent__tool_speaks_as_user(env, policy, max_turns):
    """The tool's answer is recorded as the user's: its role is "tool"."""
    return _run(env, policy, max_turns, tool_role="user")


def run_agent__one_turn_too_many(env, policy, max_turns):
    """There is one turn more than max_turns."""
    return _run(env, policy, max_turns, extra=1)


def run_agent__steps_after_the_end(env, policy, max_turns):
    """The world is stepped once more after it said done."""
    return _run(env, policy, max_turns, step_after_done=True)


def run_agent__hands_out_its_list(env, policy, max_turns):
    """The policy gets the record itself: whatever it writes there becomes part of the episode."""
    return _run(env, policy, max_turns, shared="list")


def run_agent__shallow_copy(env, policy, max_turns):
    """The list is copied, its messages are not: copy the dicts too (copy.deepcopy)."""
    return _run(env, policy, max_turns, shared="dicts")


def run_agent__drops_the_last_answer(env, policy, max_turns):
    """The answer to the last turn is lost: it is kept if it has any text."""
    return _run(env, policy, max_turns, last_text="never")


def run_agent__keeps_an_empty_last_answer(env, policy, max_turns):
    """After the last step an empty answer becomes a message: nobody said it and nobody will read it."""
    return _run(env, policy, max_turns, last_text="always")


def run_agent__skips_empty_answers(env, policy, max_turns):
    """An empty answer in the middle is left out: two assistant messages then stand side by side."""
    return _run(env, policy, max_turns, middle_empty=False)


def run_agent__crashes(env, policy, max_turns):
    """A tool that raises ends the whole run: a broken episode is data, not a crash. Catch the error of
    env.step, and of nothing else."""
    return _run(env, policy, max_turns, on_error=None)


def run_agent__forgets_the_broken_turn(env, policy, max_turns):
    """The turn in which the tool broke is left out: the policy did speak, keep its message, with reward 0."""
    return _run(env, policy, max_turns, keep_broken_turn=False)


def run_agent__no_reward_for_the_broken_turn(env, policy, max_turns):
    """A reward is missing: there is one for every assistant turn, 0 for the one in which the tool broke."""
    return _run(env, policy, max_turns, error_reward=False)


def run_agent__hides_errors_of_the_policy(env, policy, max_turns):
    """An error of the policy is recorded as the tool's: your own bugs would look like a bad world."""
    return _run(env, policy, max_turns, policy_errors=True)


def run_agent__resets_every_turn(env, policy, max_turns):
    """The world is reset in every turn: it forgets what the agent has done."""
    return _run(env, policy, max_turns, reset_each_turn=True)


def run_agent__an_empty_reply_ends_it(env, policy, max_turns):
    """You stop when the policy says nothing: an empty reply is a turn, and only the world says done."""
    return _run(env, policy, max_turns, silence_ends=True)


# grpo_update


def _loss(logprobs, batch, advantages, mask, clip_eps, old=None, rows=False):
    chosen = mask.bool()
    log_ratio = torch.where(chosen, logprobs - (batch.logprobs if old is None else old), 0.0)
    surrogate = _surrogate(log_ratio, torch.where(chosen, advantages, 0.0), clip_eps)
    if rows:
        return -(surrogate.sum(1) / chosen.sum(1).clamp(min=1)).mean()
    return -surrogate.sum() / chosen.sum().clamp(min=1)


def _grpo(
    model,
    optimizer,
    batch,
    rewards,
    questions,
    clip_eps,
    updates,
    max_grad_norm,
    *,
    advantages=None,
    mask=None,
    old="sampler",
    rows=False,
    sign=1,
    cut="before",
    zero="before",
    as_float=True,
):
    mask = batch.mask if mask is None else mask
    if advantages is None:
        advantages = _advantages(rewards, questions, torch.arange(len(rewards)))
    losses = []
    for update in range(updates):
        logprobs = episode_logprobs(model, batch.ids)
        if old == "fresh" or (old == "first" and update == 0):
            reference = logprobs.detach()
        elif old == "sampler":
            reference = batch.logprobs
        loss = sign * _loss(logprobs, batch, advantages[:, None], mask, clip_eps, reference, rows)
        if zero == "before" or (zero == "once" and update == 0):
            optimizer.zero_grad()
        loss.backward()
        if cut == "before":
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        if cut == "each":
            for parameter in model.parameters():
                torch.nn.utils.clip_grad_norm_(parameter, max_grad_norm)
        optimizer.step()
        if cut == "after":
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        if zero == "after":
            optimizer.zero_grad()
        losses.append(loss.item() if as_float else loss.detach())
    return losses


def grpo_update__tool_tokens_train(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """Tool results are trained as if the policy had written them: use batch.mask."""
    mask = torch.ones_like(batch.mask)
    mask[:, 0] = 0
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, mask=mask)


def grpo_update__mask_from_the_padding(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """You look for padding by its id: where the end token has the same id, the policy never learns to stop
    (trl#4974). The mask already says what the policy chose."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, mask=batch.mask * (batch.ids != 0))


def grpo_update__groups_mixed(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """All episodes are compared with all: pass the questions on, an episode competes within its question."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(
        *case, advantages=_advantages(rewards, torch.zeros_like(questions), torch.arange(len(rewards)))
    )


def grpo_update__raw_rewards(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The rewards are used as they are: without the group's mean even a silent group pushes."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, advantages=rewards)


def grpo_update__questions_as_episodes(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The episode ids are those of the questions: each question then seems to have one episode, and
    nothing is learned. Here every row is an episode of its own."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, advantages=_advantages(rewards, questions, questions))


def grpo_update__drops_empty_episodes(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """Episodes without policy tokens are left out of the mean of their group: the others then look better
    or worse than they were. Train nothing on them, but count their reward (compare verl#6310)."""
    some = batch.mask.sum(1) > 0
    advantages = torch.zeros_like(rewards)
    advantages[some] = _advantages(rewards[some], questions[some], torch.arange(int(some.sum())))
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, advantages=advantages)


def grpo_update__old_logprobs_of_the_model(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The old log-probs are computed by the model before the first update: the tokens were drawn by the
    sampler, whose log-probs are in the batch and may differ."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, old="first")


def grpo_update__ratio_always_one(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The old log-probs are those of the current model in each update: the ratio is always 1, nothing is
    ever clipped."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, old="fresh")


def grpo_update__default_clip_eps(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """clip_eps is not passed on to the loss: it is 0.2 whatever is asked for."""
    case = (model, optimizer, batch, rewards, questions, 0.2, updates, max_grad_norm)
    return _grpo(*case)


def grpo_update__norm_not_cut(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The gradient's norm is never cut: one odd batch may throw the model far away."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, cut="never")


def grpo_update__norm_cut_after_the_step(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The norm is cut after the step, when the gradient has already been used, and the loss is a tensor:
    cut between backward and step, and give loss.item()."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, cut="after", as_float=False)


def grpo_update__norm_of_each_parameter(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The norm is cut for each parameter on its own, which turns the gradient: pass all parameters at once
    to clip_grad_norm_."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, cut="each")


def grpo_update__gradients_add_up(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """zero_grad is missing: backward adds to the gradients of all updates before."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, zero="never")


def grpo_update__zero_grad_once(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """zero_grad stands before the loop: the second update also takes the first one's gradient."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, zero="once")


def grpo_update__zero_grad_after_the_step(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """zero_grad only follows the step: a gradient that was left over from before gets into the first
    update."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, zero="after")


def grpo_update__uphill(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The step goes uphill in the loss: good episodes become rarer."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, sign=-1)


def grpo_update__one_update(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """There is one update, whatever `updates` says."""
    return _grpo(model, optimizer, batch, rewards, questions, clip_eps, 1, max_grad_norm)


def grpo_update__row_means(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The loss is the mean of the rows' means: here every policy token of the batch weighs the same."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, rows=True)


def grpo_update__tensors(
    model, optimizer, batch, rewards, questions, clip_eps=0.2, updates=2, max_grad_norm=1.0
):
    """The losses are tensors: they keep memory alive, and a log wants numbers. Use loss.item()."""
    case = (model, optimizer, batch, rewards, questions, clip_eps, updates, max_grad_norm)
    return _grpo(*case, as_float=False)
