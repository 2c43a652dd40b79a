"""Chapter 11: why agentic RL: verified writes, logs that can train, a guarded update."""

import copy
import math
import sqlite3
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from rlcourse.agents import episode_logprobs
from torch.nn.functional import logsigmoid

from solutions.ch10_agentic_rl import masked_policy_loss, trajectory_advantages


def write_verified(connection, statements, verify):
    """Write, look at what was stored, and only then keep it.

    Args:
        connection: an sqlite3 connection with isolation_level=None.
        statements: list of (sql, parameters), run in order inside one BEGIN IMMEDIATE; none
            of them is a BEGIN, COMMIT or ROLLBACK.
        verify: verify(connection) -> bool, called once, after them, inside the transaction.

    Returns:
        "committed" if verify said True; "rejected" if it said False: nothing is changed;
        "failed" if BEGIN (another connection holds the lock), a statement or COMMIT (deferred
        foreign keys fail there) raised sqlite3.Error: nothing is changed.
        What verify raises, and any other exception, goes to the caller after a ROLLBACK. No
        transaction of its own stays open; some errors end it themselves, so look at
        connection.in_transaction.

    Raises:
        ValueError: if a transaction is open already; it is left as it is.
    """
    if connection.in_transaction:
        raise ValueError("a transaction is open: commit it or roll it back first")

    def done(steps):
        try:
            for sql, parameters in steps:
                connection.execute(sql, parameters)
        except sqlite3.Error:
            return False
        return True

    try:
        if not done([("BEGIN IMMEDIATE", ()), *statements]):
            return "failed"
        if not verify(connection):
            return "rejected"
        return "committed" if done([("COMMIT", ())]) else "failed"
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


class LoggedEpisode(NamedTuple):
    """One episode: three lists with one entry per token, and the reward."""

    ids: list
    mask: list
    behaviour_logprobs: list
    reward: float | None


def episode_from_log(rows):
    """Turn the log of one episode into what off-policy learning needs.

    Args:
        rows: list of dicts in any order, each with "step" (int) and "kind":
            "user", "observation": "ids" (list of int); nothing else of them is read;
            "action": "ids" and "logprobs" (list of float, one per id);
            "outcome": "value" (float or None), no "ids".

    Returns:
        LoggedEpisode of new lists, in the order of step: mask 1 and the logged
        log-probabilities at tokens of actions, 0 and 0.0 elsewhere. reward is None, not 0.0,
        where the outcome is missing or None. No rows: empty lists and None.

    Raises:
        ValueError: if the steps are not 0 ... n - 1, each once; if an action's logprobs are
            missing, None or of another length; for two outcomes; for another kind.
    """
    rows = sorted(rows, key=lambda row: row["step"])
    if [row["step"] for row in rows] != list(range(len(rows))):
        raise ValueError("a step is missing or there twice")
    ids, mask, logprobs, outcomes = [], [], [], []
    for row in rows:
        kind = row["kind"]
        if kind not in ("user", "action", "observation", "outcome"):
            raise ValueError(f"unknown kind {kind!r}")
        if kind == "outcome":
            outcomes.append(row["value"])
            continue
        n = len(row["ids"])
        chosen = row.get("logprobs") if kind == "action" else [0.0] * n
        if chosen is None or len(chosen) != n:
            raise ValueError(f"step {row['step']}: one log-probability per token is needed")
        ids += row["ids"]
        mask += [int(kind == "action")] * n
        logprobs += chosen
    if len(outcomes) > 1:
        raise ValueError("two outcomes")
    return LoggedEpisode(ids, mask, logprobs, outcomes[0] if outcomes else None)


def trajectory_pairs(outcomes, questions):
    """Pair successes with failures of the same question, each episode at most once.

    Args:
        outcomes: (N,) floats; above 0.5 is a success; NaN, not known, pairs with nothing.
        questions: (N,) long, any numbers; equal numbers are the same question.

    Returns:
        (n, 2) long: indices [winner, loser]; (0, 2) if there is no pair. Within a question
        the k-th success stands with the k-th failure, in order of appearance, until one kind
        runs out; questions in order of first appearance.
    """
    pairs = []
    for question in dict.fromkeys(questions.tolist()):
        mine = questions == question
        won = (mine & (outcomes > 0.5)).nonzero().flatten().tolist()
        lost = (mine & (outcomes <= 0.5)).nonzero().flatten().tolist()
        pairs += zip(won, lost, strict=False)
    return torch.tensor(pairs, dtype=torch.long, device=outcomes.device).view(-1, 2)


def trajectory_dpo_loss(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """DPO on whole episodes: only tokens that the policy chose count (eq-trajectory-dpo).

    Args:
        logprobs, ref_logprobs: (N, L); no gradient into ref_logprobs.
        mask: (N, L) float, 1.0 at policy tokens; the others may hold anything, NaN too.
        pairs: (n, 2) long, [winner, loser]; an episode may be in several.

    Returns:
        Scalar: mean over pairs of -log sigmoid(beta (margin_w - margin_l)); an episode's
        margin is the sum of log pi / pi_ref over its policy tokens. Without pairs 0, with a
        graph (its gradient is 0).
    """
    margins = torch.where(mask.bool(), logprobs - ref_logprobs.detach(), 0.0).sum(1)  # (N,)
    winner, loser = pairs.unbind(1)
    return -logsigmoid(beta * (margins[winner] - margins[loser])).sum() / max(len(pairs), 1)


def truncated_weights(logprobs, behaviour_logprobs, mask, cap, level):
    """Importance weights with a largest value (eq-token-weight, eq-sequence-weight).

    Args:
        logprobs, behaviour_logprobs: (B, L) under pi and under mu, which wrote the episodes.
        mask: (B, L) float, 1.0 at policy tokens; the others may hold anything, NaN too.
        cap: above 0; math.inf for none.
        level: "token": min(pi / mu, cap); "sequence": min(product of pi / mu over the
            episode's policy tokens, cap) at each of them.

    Returns:
        (B, L), no gradient, 0 where mask is 0; no NaN for log-probabilities down to -2000.

    Raises:
        ValueError: for another level, or a cap that is not above 0.
    """
    if level not in ("token", "sequence") or not cap > 0:
        raise ValueError(f"level {level!r}, cap {cap}: need 'token' or 'sequence', cap > 0")
    policy = mask.bool()
    log_ratio = torch.where(policy, logprobs.detach() - behaviour_logprobs.detach(), 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)  # (B, L)
    return torch.where(policy, log_ratio.clamp(max=math.log(cap)).exp(), 0.0)


def off_policy_loss(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """REINFORCE on episodes that another policy wrote (eq-off-policy).

    Args:
        logprobs, behaviour_logprobs, mask, cap, level: as in truncated_weights; level None:
            all weights 1, as if the log were on-policy.
        advantages: (B,) one per episode.

    Returns:
        Scalar: minus the mean, over all policy tokens of the batch, of weight * advantage *
        logprob; gradient through logprobs only, not through the weights. Without policy
        tokens 0, with a graph (its gradient is 0).
    """
    weights = mask
    if level is not None:
        weights = truncated_weights(logprobs, behaviour_logprobs, mask, cap, level)
    chosen = torch.where(mask.bool(), logprobs, 0.0)
    total = (weights * advantages.detach()[:, None] * chosen).sum()
    return -total / mask.sum().clamp(min=1)


def estimate_success(outcomes, observed, propensity, clip=None):
    """Success rate when some outcomes are never seen (eq-missing-outcomes).

    Args:
        outcomes, propensity: (N,) arrays; anything, NaN too, where not observed. propensity:
            the probability that this outcome is observed. observed: (N,) bool.
        clip: the largest weight, or None: w = min(1 / propensity, clip), or 1 / propensity.

    Returns:
        float: sum(w * outcome) / sum(w) over the observed; NaN if none, or if one is NaN.

    Raises:
        ValueError: for a propensity outside (0, 1], NaN too, at an observed place.
    """
    seen, p = np.asarray(outcomes)[observed], np.asarray(propensity)[observed]
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("a propensity is a probability in (0, 1]")
    weights = np.minimum(1 / p, np.inf if clip is None else clip)
    return float((weights * seen).sum() / weights.sum()) if len(p) else math.nan


def admit(old_outcomes, new_outcomes, margin, confidence=0.95):
    """May the new policy replace the old one? (eq-admission).

    Args:
        old_outcomes, new_outcomes: (n,) lists or arrays, bool too; same n held-out questions.
        margin: how much worse on average is accepted. confidence: of the one-sided interval.

    Returns:
        bool: mean(d) - z * s / sqrt(n) >= -margin, with d = new - old, s its sample standard
        deviation (n - 1), z the normal quantile of confidence.

    Raises:
        ValueError: for different lengths, n < 2, margin < 0, or a NaN among the outcomes.
    """
    old, new = np.asarray(old_outcomes, float), np.asarray(new_outcomes, float)
    if old.shape != new.shape or len(old) < 2 or margin < 0 or np.isnan(old + new).any():
        raise ValueError("need both outcomes of the same 2 or more questions, margin >= 0")
    d = new - old
    lower = d.mean() - NormalDist().inv_cdf(confidence) * d.std(ddof=1) / math.sqrt(len(d))
    return bool(lower >= -margin)


class Round(NamedTuple):
    """One round of the flywheel; served_by counts the admissions before it."""

    round: int
    served_by: int
    admitted: bool


def flywheel(policy, serve, train, gate, rounds):
    """Serve, train a copy on the log, let the gate decide, and serve again.

    Args:
        policy: any object that can be copied; never changed here.
        serve: serve(policy, r) -> the log of round r = 0, 1, ...
        train: train(copy, log, r) -> candidate; copy is a deep copy of the policy that served
            in r, and train may change it.
        gate: gate(policy, candidate, r) -> bool: may the candidate replace that policy?

    Returns:
        (the policy that would serve next, list of one Round per round).

    Raises:
        ValueError: if train returns None. What the three raise goes to the caller.
    """
    history, version = [], 0
    for r in range(rounds):
        log = serve(policy, r)
        candidate = train(copy.deepcopy(policy), log, r)
        if candidate is None:
            raise ValueError("train returned None: end it with `return candidate`")
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        if admitted:
            policy, version = candidate, version + 1
    return policy, history


class LogSettings(NamedTuple):
    """How train_on_log learns from one round's log."""

    method: str = (
        "sft"  # "sft", "dpo", "clip", or policy gradient: "none", "token", "sequence"
    )
    passes: int = 2
    batch: int = 128
    lr: float = 3e-4
    cap: float = 2.0
    beta: float = 0.1
    clip_eps: float = 0.2


def log_losses(model, reference, log, cfg):
    """(rows to go through, function from some of them to a loss) for cfg.method."""
    known = ~log.outcomes.isnan()
    rewards = log.outcomes.nan_to_num()
    if cfg.method == "dpo":
        pairs = trajectory_pairs(log.outcomes, log.questions)

        def loss(chosen):
            rows = pairs[chosen].flatten()  # (2n,) winner, loser, winner, ...
            with torch.no_grad():
                ref_logprobs = episode_logprobs(reference, log.ids[rows])
            logprobs = episode_logprobs(model, log.ids[rows])
            order = torch.arange(len(rows)).view(-1, 2)
            return trajectory_dpo_loss(
                logprobs, ref_logprobs, log.mask[rows], order, cfg.beta
            )

        return torch.arange(len(pairs)), loss
    numbers = torch.arange(len(rewards))
    advantages = torch.zeros_like(rewards)
    advantages[known] = trajectory_advantages(
        rewards[known], log.questions[known], numbers[known]
    )
    if cfg.method == "sft":  # successes weigh 1, all else 0
        advantages = (known & (rewards > 0.5)).float()

    def loss(rows):
        logprobs, old = episode_logprobs(model, log.ids[rows]), log.behaviour_logprobs[rows]
        a, mask = advantages[rows], log.mask[rows]
        if cfg.method == "clip":
            return masked_policy_loss(logprobs, old, a[:, None], mask, cfg.clip_eps)
        level = cfg.method if cfg.method in ("token", "sequence") else None
        return off_policy_loss(logprobs, old, a, mask, cfg.cap, level)

    return advantages.nonzero().flatten(), loss


def train_on_log(model, log, generator, cfg=None):
    """The next policy from one round's log, and nothing else.

    Args:
        model: the policy that served, changed in place. log: LogBatch on its device.
        generator: of the order of minibatches. cfg: LogSettings.

    Returns:
        the model.
    """
    cfg = cfg or LogSettings()
    rows, loss_of = log_losses(model, copy.deepcopy(model), log, cfg)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=cfg.lr, betas=(0.9, 0.95), weight_decay=0.0
    )
    for _ in range(cfg.passes):
        order = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in order.split(cfg.batch):
            optimizer.zero_grad()
            loss_of(chosen).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model
