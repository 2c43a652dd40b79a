"""Correct but different versions of chapter 11's exercises."""

import copy
import itertools
import math
import sqlite3
import statistics
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


def write_verified__step_by_step(connection, statements, verify):
    """Each part with its own try."""
    if connection.in_transaction:
        raise ValueError("finish your own transaction first")

    def give_up(answer=None):
        if connection.in_transaction:
            connection.rollback()
        return answer

    try:
        connection.execute("BEGIN IMMEDIATE TRANSACTION")
    except sqlite3.Error:
        return "failed"
    try:
        for sql, parameters in statements:
            connection.execute(sql, parameters).close()
    except sqlite3.Error:
        return give_up("failed")
    except BaseException:
        give_up()
        raise
    try:
        keep = verify(connection)
    except BaseException:
        give_up()
        raise
    if not keep:
        return give_up("rejected")
    try:
        connection.commit()
    except sqlite3.Error:
        return give_up("failed")
    return "committed"


class _FromVerify(Exception):
    """Carries an error past the handler of sqlite3.Error."""


def write_verified__wrapped_error(connection, statements, verify):
    """One try; the error of verify travels in an envelope. With a cursor."""
    if connection.in_transaction:
        raise ValueError("open transaction")
    cursor, answer = connection.cursor(), "failed"
    try:
        cursor.execute("begin immediate")
        for statement in statements:
            cursor.execute(*statement)
        try:
            answer = "committed" if verify(connection) else "rejected"
        except BaseException as error:
            raise _FromVerify from error
        cursor.execute("commit" if answer == "committed" else "rollback")
    except sqlite3.Error:
        answer = "failed"
    except _FromVerify as envelope:
        raise envelope.__cause__ from None
    finally:
        if connection.in_transaction:
            cursor.execute("rollback")
    return answer


def episode_from_log__by_step(rows):
    """A dict from step to row; a tuple-like record of another kind."""
    by_step = {row["step"]: row for row in rows}
    if set(by_step) != set(range(len(rows))):
        raise ValueError("steps")
    got = SimpleNamespace(ids=[], mask=[], behaviour_logprobs=[], reward=None)
    outcomes = 0
    for step in range(len(rows)):
        row = by_step[step]
        if row["kind"] == "outcome":
            outcomes += 1
            got.reward = row["value"]
            continue
        if row["kind"] == "action":
            if len(row.get("logprobs") or []) != len(row["ids"]):
                raise ValueError("logprobs")
            pairs = [(i, 1.0, p) for i, p in zip(row["ids"], row["logprobs"], strict=True)]
        elif row["kind"] in ("user", "observation"):
            pairs = [(i, 0.0, 0.0) for i in row["ids"]]
        else:
            raise ValueError("kind")
        for token, chosen, logprob in pairs:
            got.ids.append(token)
            got.mask.append(chosen)
            got.behaviour_logprobs.append(logprob)
    if outcomes > 1:
        raise ValueError("outcomes")
    return got


class _Episode(NamedTuple):
    ids: list
    mask: list
    behaviour_logprobs: list
    reward: float | None = None


def episode_from_log__chained(rows):
    """Checks first, then one comprehension per column."""
    rows = sorted(copy.deepcopy(rows), key=lambda row: row["step"])
    text = [row for row in rows if row["kind"] != "outcome"]
    for i, row in enumerate(rows):
        if row["step"] != i:
            raise ValueError(f"step {i}")
    for row in text:
        if row["kind"] not in {"user", "observation", "action"}:
            raise ValueError(row["kind"])
        if row["kind"] == "action":
            given = row.get("logprobs")
            if given is None or len(given) != len(row["ids"]):
                raise ValueError("logprobs")
        else:
            row["logprobs"] = [0.0 for _ in row["ids"]]
    ends = [row["value"] for row in rows if row["kind"] == "outcome"]
    if len(ends) >= 2:
        raise ValueError("outcomes")
    return _Episode(
        list(itertools.chain.from_iterable(row["ids"] for row in text)),
        [row["kind"] == "action" for row in text for _ in row["ids"]],
        list(itertools.chain.from_iterable(row["logprobs"] for row in text)),
        *ends,
    )


def trajectory_pairs__waiting(outcomes, questions):
    """A queue of winners and one of losers for each question."""
    queues = {}
    for i, (outcome, question) in enumerate(zip(outcomes.tolist(), questions.tolist(), strict=True)):
        won, lost = queues.setdefault(question, ([], []))
        if not math.isnan(outcome):
            (won if outcome > 0.5 else lost).append(i)
    found = [pair for won, lost in queues.values() for pair in zip(won, lost, strict=False)]
    return torch.tensor(found).long().reshape(len(found), 2)


def trajectory_pairs__masks(outcomes, questions):
    """Tensors all the way: rank within the question, then matching ranks."""
    parts = [torch.empty(0, 2, dtype=torch.long)]
    names = questions.tolist()
    for question in sorted(set(names), key=names.index):
        mine = torch.nonzero(questions.eq(question)).squeeze(1)
        mine = mine[~outcomes[mine].isnan()]
        won, lost = mine[outcomes[mine] > 0.5], mine[~(outcomes[mine] > 0.5)]
        n = min(len(won), len(lost))
        parts.append(torch.stack([won[:n], lost[:n]], 1))
    return torch.cat(parts)


def trajectory_dpo_loss__loop(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Pair by pair, with indexing instead of torch.where."""
    policy = mask > 0
    total = logprobs[policy].sum() * 0
    for w, l in pairs.tolist():
        up = (logprobs[w][policy[w]] - ref_logprobs.detach()[w][policy[w]]).sum()
        down = (logprobs[l][policy[l]] - ref_logprobs.detach()[l][policy[l]]).sum()
        total = total + F.softplus(beta * (down - up)) / len(pairs)
    return total


def trajectory_dpo_loss__cross_entropy(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """As binary cross entropy; masked_fill on both sides."""
    other = mask == 0
    own = logprobs.masked_fill(other, 0).sum(1) - ref_logprobs.detach().masked_fill(other, 0).sum(1)
    z = beta * (own.index_select(0, pairs[:, 0]) - own.index_select(0, pairs[:, 1]))
    if len(pairs) == 0:
        return z.sum()
    return F.binary_cross_entropy_with_logits(z, torch.ones_like(z))


def truncated_weights__loop(logprobs, behaviour_logprobs, mask, cap, level):
    """Row by row, only over the policy's tokens."""
    if cap <= 0:
        raise ValueError("cap")
    if level not in {"token", "sequence"}:
        raise ValueError("level")
    weights = torch.zeros_like(logprobs, requires_grad=False)
    with torch.no_grad():
        for row, lp, mu, m in zip(weights, logprobs, behaviour_logprobs, mask, strict=True):
            mine = m > 0
            log_ratio = lp[mine] - mu[mine]
            if level == "sequence":
                log_ratio = log_ratio.sum().repeat(len(log_ratio))
            row[mine] = torch.exp(torch.clamp(log_ratio, max=math.log(cap)))
    return weights


@torch.no_grad()
def truncated_weights__minimum(logprobs, behaviour_logprobs, mask, cap, level):
    """masked_fill on both sides, torch.minimum in logs, and exp(-inf) for weight 0."""
    if level not in ("token", "sequence"):
        raise ValueError(level)
    if cap <= 0:
        raise ValueError(cap)
    other = mask == 0
    ratio = logprobs.masked_fill(other, 0) - behaviour_logprobs.masked_fill(other, 0)
    if level == "sequence":
        ratio = ratio.sum(1, keepdim=True) + torch.zeros_like(ratio)
    limit = torch.full_like(ratio, cap).log()
    return torch.minimum(ratio, limit).masked_fill(other, -math.inf).exp()


def off_policy_loss__selected(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """The policy's tokens picked out as one long vector."""
    policy = mask.bool()
    log_ratio = (logprobs - behaviour_logprobs).detach().masked_fill(~policy, 0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(mask)
    elif level not in ("token", None):
        raise ValueError(level)
    if level is not None and cap <= 0:
        raise ValueError(cap)
    scale = 1.0 if level is None else log_ratio[policy].clamp(max=math.log(cap)).exp()
    scale = scale * advantages.detach()[:, None].expand_as(mask)[policy]
    return -(scale * logprobs[policy]).sum() / max(int(policy.sum()), 1)


def off_policy_loss__loop(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """Episode by episode."""
    if level not in ("token", "sequence", None) or (level and not cap > 0):
        raise ValueError("level or cap")
    total, count = logprobs[mask > 0].sum() * 0, 0
    for lp, mu, a, m in zip(logprobs, behaviour_logprobs, advantages.tolist(), mask > 0, strict=True):
        own, count = lp[m], count + int(m.sum())
        log_ratio = (own - mu[m]).detach()
        if level == "sequence":
            log_ratio = log_ratio.sum()
        if level is None:
            log_ratio, limit = torch.zeros_like(own), 0.0
        else:
            limit = math.log(cap)
        total = total - (log_ratio.clamp(max=limit).exp() * a * own).sum()
    return total / max(count, 1)


def estimate_success__loop(outcomes, observed, propensity, clip=None):
    """One outcome at a time."""
    top = bottom = 0.0
    for y, seen, p in zip(outcomes, observed, propensity, strict=True):
        if not seen:
            continue
        if not 0 < p <= 1:
            raise ValueError(p)
        w = 1 / p if clip is None else min(1 / p, clip)
        top, bottom = top + w * y, bottom + w
    return float(top / bottom) if bottom else float("nan")


def estimate_success__average(outcomes, observed, propensity, clip=None):
    """np.where for the unobserved, then numpy's weighted average."""
    p = np.where(observed, propensity, 1.0)
    if (~(p > 0) | ~(p <= 1)).any():
        raise ValueError("propensity")
    weights = np.where(observed, 1 / p, 0.0)
    weights = weights if clip is None else weights.clip(max=clip)
    if not weights.any():
        return math.nan
    return float(np.average(np.where(observed, outcomes, 0.0), weights=weights))


def admit__standard_library(old_outcomes, new_outcomes, margin, confidence=0.95):
    """With the statistics module."""
    old, new = [float(x) for x in old_outcomes], [float(x) for x in new_outcomes]
    if len(old) != len(new) or len(old) < 2 or margin < 0 or any(x != x for x in old + new):
        raise ValueError("outcomes or margin")
    d = [b - a for a, b in zip(old, new, strict=True)]
    error = statistics.stdev(d) / len(d) ** 0.5
    return statistics.fmean(d) + margin >= statistics.NormalDist().inv_cdf(confidence) * error


def admit__by_torch(old_outcomes, new_outcomes, margin, confidence=0.95):
    """With torch in double precision."""
    old = torch.as_tensor(np.array(old_outcomes, dtype=float))
    new = torch.as_tensor(np.array(new_outcomes, dtype=float))
    if old.shape != new.shape or old.numel() < 2 or margin < 0 or (old + new).isnan().any():
        raise ValueError("outcomes or margin")
    d = new - old
    standard_error = (d.var() / len(d)).sqrt()
    z = -statistics.NormalDist().inv_cdf(1 - confidence)
    return (d.mean() - z * standard_error).item() >= -margin


class _Round(NamedTuple):
    round: int
    served_by: int
    admitted: bool


def flywheel__versions(policy, serve, train, gate, rounds):
    """A list of all versions that ever served."""
    versions, history = [policy], []
    for r in range(rounds):
        log = serve(versions[-1], r)
        candidate = train(copy.deepcopy(versions[-1]), log, r)
        if candidate is None:
            raise ValueError("return the candidate from train")
        entry = _Round(r, len(versions) - 1, bool(gate(versions[-1], candidate, r)))
        history += [entry]
        if entry.admitted:
            versions.append(candidate)
    return versions[-1], history


def flywheel__recursive(policy, serve, train, gate, rounds):
    """One round, then the rest; works on its own copy from the start."""

    def play(serving, r, version):
        if r == rounds:
            return serving, []
        candidate = train(copy.deepcopy(serving), serve(serving, r), r)
        if candidate is None:
            raise ValueError("no candidate")
        yes = bool(gate(serving, candidate, r))
        final, rest = play(candidate if yes else serving, r + 1, version + yes)
        return final, [_Round(r, version, yes), *rest]

    return play(copy.deepcopy(policy), 0, 0)
