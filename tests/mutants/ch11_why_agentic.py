"""Wrong versions of chapter 11's exercises; each docstring is the diagnosis that a learner reads."""

import copy
import math
import sqlite3
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import logsigmoid

# write_verified


def _refuse_open(connection):
    if connection.in_transaction:
        raise ValueError("a transaction is open")


def _rollback(connection, answer):
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    return answer


def write_verified__autocommit(connection, statements, verify):
    """There is no BEGIN: each statement is committed at once, and nothing can be taken back."""
    _refuse_open(connection)
    try:
        for sql, parameters in statements:
            connection.execute(sql, parameters)
    except sqlite3.Error:
        return _rollback(connection, "failed")
    return "committed" if verify(connection) else _rollback(connection, "rejected")


def write_verified__verifies_after_commit(connection, statements, verify):
    """You verify after COMMIT: what is wrong is then stored already, and ROLLBACK comes too late."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            connection.execute(sql, parameters)
        connection.execute("COMMIT")
    except sqlite3.Error:
        return _rollback(connection, "failed")
    return "committed" if verify(connection) else "rejected"


def write_verified__never_verifies(connection, statements, verify):
    """verify is never asked: that no statement raised does not mean that the right value is stored."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            connection.execute(sql, parameters)
        connection.execute("COMMIT")
        return "committed"
    except sqlite3.Error:
        return _rollback(connection, "failed")


def write_verified__commit_unguarded(connection, statements, verify):
    """COMMIT can fail too, for a deferred foreign key or a lock: its error needs the same ROLLBACK."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            connection.execute(sql, parameters)
    except sqlite3.Error:
        return _rollback(connection, "failed")
    except BaseException:
        _rollback(connection, None)
        raise
    try:
        good = verify(connection)
    except BaseException:
        _rollback(connection, None)
        raise
    if not good:
        return _rollback(connection, "rejected")
    connection.execute("COMMIT")
    return "committed"


def write_verified__swallows_verify(connection, statements, verify):
    """An sqlite3.Error of verify is a bug in the check, not a failed write: it must reach the caller."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for sql, parameters in statements:
            connection.execute(sql, parameters)
        if not verify(connection):
            return "rejected"
        connection.execute("COMMIT")
        return "committed"
    except sqlite3.Error:
        return "failed"
    finally:
        _rollback(connection, None)


def _steps(connection, statements, verify, begin="BEGIN IMMEDIATE"):
    """The right course of things, without looking for an open transaction first."""

    def done(steps):
        try:
            for sql, parameters in steps:
                connection.execute(sql, parameters)
        except sqlite3.Error:
            return False
        return True

    try:
        if not done([(begin, ()), *statements]):
            return "failed"
        if not verify(connection):
            return "rejected"
        return "committed" if done([("COMMIT", ())]) else "failed"
    finally:
        _rollback(connection, None)


def write_verified__deferred(connection, statements, verify):
    """A plain BEGIN takes the lock only at the first write: until then others can change what you read."""
    _refuse_open(connection)
    return _steps(connection, statements, verify, "BEGIN")


def write_verified__leaves_open(connection, statements, verify):
    """When verify raises, your transaction stays open and blocks everybody: ROLLBACK in a finally."""
    _refuse_open(connection)

    def done(steps):
        try:
            for sql, parameters in steps:
                connection.execute(sql, parameters)
        except sqlite3.Error:
            return False
        return True

    if not done([("BEGIN IMMEDIATE", ()), *statements]):
        return _rollback(connection, "failed")
    if not verify(connection):
        return _rollback(connection, "rejected")
    return "committed" if done([("COMMIT", ())]) else _rollback(connection, "failed")


def write_verified__rolls_back_twice(connection, statements, verify):
    """Some errors end the transaction themselves, and then ROLLBACK raises: look at in_transaction first."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error:
        return "failed"
    kept = False
    try:
        try:
            for sql, parameters in statements:
                connection.execute(sql, parameters)
        except sqlite3.Error:
            return "failed"
        if not verify(connection):
            return "rejected"
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            return "failed"
        kept = True
        return "committed"
    finally:
        if not kept:
            connection.execute("ROLLBACK")


def write_verified__commits_the_callers(connection, statements, verify):
    """You commit the transaction that the caller had opened: it is not yours, raise ValueError instead."""
    connection.commit()
    return _steps(connection, statements, verify)


def write_verified__ends_the_callers(connection, statements, verify):
    """ValueError is right, but you rolled back the caller's transaction on the way: leave it as it is."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
        raise ValueError("a transaction is open")
    return _steps(connection, statements, verify)


def write_verified__goes_on_after_an_error(connection, statements, verify):
    """You run the rest after a statement failed: if the error ended the transaction, it is kept at once."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error:
        return "failed"
    failed = False
    try:
        for sql, parameters in statements:
            try:
                connection.execute(sql, parameters)
            except sqlite3.Error:
                failed = True
        if failed:
            return "failed"
        if not verify(connection):
            return "rejected"
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            return "failed"
        return "committed"
    finally:
        _rollback(connection, None)


def _begin_catching(connection, statements, verify, kind, undo):
    """The right course, but for what the try around BEGIN catches and how a failed verify is undone."""
    _refuse_open(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except kind:
        return "failed"
    try:
        try:
            for sql, parameters in statements:
                connection.execute(sql, parameters)
        except sqlite3.Error:
            return "failed"
        try:
            good = verify(connection)
        except BaseException:
            undo(connection)
            raise
        if not good:
            return "rejected"
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            return "failed"
        return "committed"
    finally:
        _rollback(connection, None)


def write_verified__only_operational_errors(connection, statements, verify):
    """BEGIN is guarded against OperationalError only: a damaged file raises another sqlite3.Error."""
    return _begin_catching(connection, statements, verify, sqlite3.OperationalError, lambda db: None)


def write_verified__rolls_back_after_verify(connection, statements, verify):
    """verify's error may have ended the transaction: your ROLLBACK then raises and hides it."""
    return _begin_catching(connection, statements, verify, sqlite3.Error, lambda db: db.execute("ROLLBACK"))


# episode_from_log


class LoggedEpisode(NamedTuple):
    ids: list
    mask: list
    behaviour_logprobs: list
    reward: float | None


def _check_steps(rows):
    rows = sorted(rows, key=lambda row: row["step"])
    if [row["step"] for row in rows] != list(range(len(rows))):
        raise ValueError("a step is missing or there twice")
    return rows


def _outcome(rows):
    values = [row["value"] for row in rows if row["kind"] == "outcome"]
    if len(values) > 1:
        raise ValueError("two outcomes")
    return values[0] if values else None


def _text(rows, chosen=("action",), filler=0.0, check=True):
    """ids, mask, log-probabilities of sorted rows."""
    ids, mask, logprobs = [], [], []
    for row in rows:
        if row["kind"] == "outcome":
            continue
        if row["kind"] not in ("user", "action", "observation"):
            raise ValueError(row["kind"])
        n = len(row["ids"])
        mine = row.get("logprobs") if row["kind"] == "action" else [filler] * n
        if check and (mine is None or len(mine) != n):
            raise ValueError("logprobs")
        ids += row["ids"]
        mask += [int(row["kind"] in chosen)] * n
        logprobs += ((mine or []) + [0.0] * n)[:n]
    return ids, mask, logprobs


def episode_from_log__row_order(rows):
    """The tokens stand in the order in which the rows were logged: sort by step."""
    _check_steps(rows)
    return LoggedEpisode(*_text(rows), _outcome(rows))


def episode_from_log__missing_is_failure(rows):
    """A missing outcome became reward 0.0: not seen is not failed, it is None."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows), _outcome(rows) or 0.0)


def episode_from_log__zero_is_missing(rows):
    """An outcome of 0.0 became None: `value or None` takes 0.0 for nothing, use `is None`."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows), _outcome(rows) or None)


def episode_from_log__trains_on_tools(rows):
    """Tool results have mask 1: the policy did not choose these tokens, it read them."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows, chosen=("action", "observation")), _outcome(rows))


def episode_from_log__all_ones(rows):
    """Every token has mask 1, the question too: 1 is only for what the policy chose."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows, chosen=("user", "action", "observation")), _outcome(rows))


def episode_from_log__filled_with_one(rows):
    """Log-probabilities at mask 0 are 1.0, not 0.0: later the ratio there is exp(-1) (Flash-RL issue 19)."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows, filler=1.0), _outcome(rows))


def episode_from_log__invents_logprobs(rows):
    """Log-probabilities that were not logged became 0.0, probability 1: without them raise ValueError."""
    rows = _check_steps(rows)
    return LoggedEpisode(*_text(rows, check=False), _outcome(rows))


def episode_from_log__checks_the_total(rows):
    """You compare the lengths only in total: 3 and 2 log-probabilities for 2 and 3 tokens go through."""
    rows = _check_steps(rows)
    ids, mask, logprobs = [], [], []
    for row in rows:
        if row["kind"] == "outcome":
            continue
        if row["kind"] not in ("user", "action", "observation"):
            raise ValueError(row["kind"])
        n = len(row["ids"])
        ids += row["ids"]
        mask += [int(row["kind"] == "action")] * n
        logprobs += (row.get("logprobs") or []) if row["kind"] == "action" else [0.0] * n
    if len(logprobs) != len(ids):
        raise ValueError("logprobs")
    return LoggedEpisode(ids, mask, logprobs, _outcome(rows))


def episode_from_log__steps_unchecked(rows):
    """A missing or doubled step goes unnoticed: the episode then has a hole that nobody sees."""
    rows = sorted(rows, key=lambda row: row["step"])
    return LoggedEpisode(*_text(rows), _outcome(rows))


def episode_from_log__last_outcome_wins(rows):
    """Two outcomes contradict each other, and you silently take the last: raise ValueError."""
    rows = _check_steps(rows)
    values = [row["value"] for row in rows if row["kind"] == "outcome"]
    return LoggedEpisode(*_text(rows), values[-1] if values else None)


def episode_from_log__sorts_the_log(rows):
    """rows.sort() changes the caller's log: sorted(rows) makes a new list."""
    rows.sort(key=lambda row: row["step"])
    return LoggedEpisode(*_text(_check_steps(rows)), _outcome(rows))


# trajectory_pairs


def _pairs(found):
    return torch.tensor(found, dtype=torch.long).view(-1, 2)


def _sides(outcomes, questions, question):
    won = [i for i, q in enumerate(questions.tolist()) if q == question and outcomes[i] > 0.5]
    lost = [i for i, q in enumerate(questions.tolist()) if q == question and outcomes[i] <= 0.5]
    return won, lost


def trajectory_pairs__all_pairs(outcomes, questions):
    """Each success stands with every failure: an easy question then has many more pairs than a hard one."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        won, lost = _sides(outcomes, questions, question)
        found += [(w, l) for w in won for l in lost]
    return _pairs(found)


def trajectory_pairs__across_questions(outcomes, questions):
    """Pairs mix questions: the loser's question may just be harder. Pair within a question."""
    won, lost = (outcomes > 0.5).nonzero().flatten(), (outcomes <= 0.5).nonzero().flatten()
    return _pairs([list(p) for p in zip(won.tolist(), lost.tolist(), strict=False)])


def trajectory_pairs__unknown_lost(outcomes, questions):
    """NaN counts as a failure: `not outcome > 0.5` is also true for an outcome that nobody saw."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        mine = [i for i, q in enumerate(questions.tolist()) if q == question]
        won = [i for i in mine if outcomes[i] > 0.5]
        found += zip(won, [i for i in mine if i not in won], strict=False)
    return _pairs(found)


def trajectory_pairs__unknown_won(outcomes, questions):
    """NaN counts as a success: `not outcome <= 0.5` is also true for an outcome that nobody saw."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        mine = [i for i, q in enumerate(questions.tolist()) if q == question]
        lost = [i for i in mine if outcomes[i] <= 0.5]
        found += zip([i for i in mine if i not in lost], lost, strict=False)
    return _pairs(found)


def trajectory_pairs__loser_first(outcomes, questions):
    """The loser stands first: the policy would learn to fail."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        won, lost = _sides(outcomes, questions, question)
        found += zip(lost, won, strict=False)
    return _pairs(found)


def trajectory_pairs__local_indices(outcomes, questions):
    """These are positions within the question: indices into the whole batch are wanted."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        mine = outcomes[questions == question]
        won, lost = (mine > 0.5).nonzero().flatten(), (mine <= 0.5).nonzero().flatten()
        found += zip(won.tolist(), lost.tolist(), strict=False)
    return _pairs(found)


def trajectory_pairs__sorted_questions(outcomes, questions):
    """Questions come sorted by their number: their order of first appearance is wanted."""
    found = []
    for question in questions.unique().tolist():
        found += zip(*_sides(outcomes, questions, question), strict=False)
    return _pairs(found)


def trajectory_pairs__flat_when_empty(outcomes, questions):
    """Without pairs the shape is (0,), not (0, 2): pairs[:, 0] will fail on the first quiet batch."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        found += zip(*_sides(outcomes, questions, question), strict=False)
    return torch.tensor(found, dtype=torch.long)


def trajectory_pairs__one_per_question(outcomes, questions):
    """Only the first pair of each question is kept: the k-th success goes with the k-th failure."""
    found = []
    for question in dict.fromkeys(questions.tolist()):
        found += list(zip(*_sides(outcomes, questions, question), strict=False))[:1]
    return _pairs(found)


# trajectory_dpo_loss


def _margins(logprobs, ref_logprobs, mask):
    return torch.where(mask.bool(), logprobs - ref_logprobs.detach(), 0.0).sum(1)


def _dpo(margins, pairs, beta):
    z = beta * (margins[pairs[:, 0]] - margins[pairs[:, 1]])
    return -logsigmoid(z).sum() / max(len(pairs), 1)


def trajectory_dpo_loss__tool_tokens(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """The sum runs over all tokens: what the user and the tools wrote is not the policy's choice."""
    return _dpo((logprobs - ref_logprobs.detach()).nan_to_num(0.0, 0.0, 0.0).sum(1), pairs, beta)


def trajectory_dpo_loss__nan_times_zero(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """NaN times 0 is NaN: at masked tokens use torch.where, not a product (verl issue 6361)."""
    return _dpo(((logprobs - ref_logprobs.detach()) * mask).sum(1), pairs, beta)


def trajectory_dpo_loss__mean_per_token(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """This is the mean log-ratio per token: the log-ratio of an episode is the sum."""
    margins = _margins(logprobs, ref_logprobs, mask) / mask.sum(1).clamp(min=1)
    return _dpo(margins, pairs, beta)


def trajectory_dpo_loss__trains_reference(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Gradient flows into ref_logprobs: the reference is frozen, detach it."""
    return _dpo(torch.where(mask.bool(), logprobs - ref_logprobs, 0.0).sum(1), pairs, beta)


def trajectory_dpo_loss__no_reference(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """The reference is missing: what counts is the log-ratio to it, winner against loser."""
    return _dpo(torch.where(mask.bool(), logprobs, 0.0).sum(1), pairs, beta)


def trajectory_dpo_loss__swapped(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Winner and loser are swapped: the first column holds the winners."""
    return _dpo(_margins(logprobs, ref_logprobs, mask), pairs.flip(1), beta)


def trajectory_dpo_loss__beta_outside(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """beta multiplies the loss: it belongs inside the sigmoid, at the margins."""
    return beta * _dpo(_margins(logprobs, ref_logprobs, mask), pairs, 1.0)


def trajectory_dpo_loss__sum(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """This is the sum over pairs: take the mean, so that their number does not set the step size."""
    return _dpo(_margins(logprobs, ref_logprobs, mask), pairs, beta) * len(pairs)


def trajectory_dpo_loss__log_of_sigmoid(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """log(sigmoid(z)) is -inf once the sigmoid rounds to 0: use logsigmoid."""
    margins = _margins(logprobs, ref_logprobs, mask)
    z = beta * (margins[pairs[:, 0]] - margins[pairs[:, 1]])
    return -torch.sigmoid(z).log().sum() / max(len(pairs), 1)


def trajectory_dpo_loss__nan_without_pairs(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Without pairs the mean is 0 / 0, NaN: one quiet batch and all weights are NaN."""
    margins = _margins(logprobs, ref_logprobs, mask)
    return -logsigmoid(beta * (margins[pairs[:, 0]] - margins[pairs[:, 1]])).mean()


def trajectory_dpo_loss__no_graph_without_pairs(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Without pairs you return a bare 0: backward() then fails. Keep the graph."""
    if not len(pairs):
        return logprobs.new_zeros(())
    return _dpo(_margins(logprobs, ref_logprobs, mask), pairs, beta)


def trajectory_dpo_loss__new_leaf_without_pairs(logprobs, ref_logprobs, mask, pairs, beta=0.1):
    """Without pairs you return a new leaf: backward() runs, but the graph of logprobs is not in it."""
    if not len(pairs):
        return torch.zeros((), dtype=logprobs.dtype, requires_grad=True)
    return _dpo(_margins(logprobs, ref_logprobs, mask), pairs, beta)


# truncated_weights


def _check(cap, level):
    if level not in ("token", "sequence") or cap <= 0:
        raise ValueError("level or cap")


def _log_ratio(logprobs, behaviour_logprobs, mask):
    return torch.where(mask.bool(), logprobs.detach() - behaviour_logprobs.detach(), 0.0)


def _per_token(log_ratio, mask, level):
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand(mask.shape)
    return log_ratio


def _finish(log_ratio, mask, cap):
    return torch.where(mask.bool(), log_ratio.clamp(max=math.log(cap)).exp(), 0.0)


def truncated_weights__filled_with_one(logprobs, behaviour_logprobs, mask, cap, level):
    """Masked log-probabilities are filled with 1: each adds exp(-1) to the product (Flash-RL issue 19)."""
    _check(cap, level)
    policy = mask.bool()
    log_ratio = torch.where(policy, logprobs.detach() - behaviour_logprobs.detach(), -1.0)
    return _finish(_per_token(log_ratio, mask, level), mask, cap)


def truncated_weights__tool_tokens(logprobs, behaviour_logprobs, mask, cap, level):
    """The product runs over tool tokens too: nobody chose them, they carry no ratio (as slime issue 1370)."""
    _check(cap, level)
    log_ratio = (logprobs.detach() - behaviour_logprobs.detach()).nan_to_num(0.0, 0.0, 0.0)
    return _finish(_per_token(log_ratio, mask, level), mask, cap)


def truncated_weights__nan_times_zero(logprobs, behaviour_logprobs, mask, cap, level):
    """NaN times 0 is NaN: at masked tokens use torch.where, not a product (verl issue 6361)."""
    _check(cap, level)
    log_ratio = (logprobs.detach() - behaviour_logprobs.detach()) * mask
    return _per_token(log_ratio, mask, level).clamp(max=math.log(cap)).exp() * mask


def truncated_weights__clips_both_sides(logprobs, behaviour_logprobs, mask, cap, level):
    """Small weights are raised to 1 / cap: only the top is cut off, that is where the variance is."""
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    edge = abs(math.log(cap))
    return torch.where(mask.bool(), log_ratio.clamp(-edge, math.log(cap)).exp(), 0.0)


def truncated_weights__product_of_numbers(logprobs, behaviour_logprobs, mask, cap, level):
    """inf times 0 is NaN: add log-ratios, cut off the sum, and take exp last."""
    _check(cap, level)
    ratio = _log_ratio(logprobs, behaviour_logprobs, mask).exp()
    if level == "sequence":
        ratio = ratio.prod(1, keepdim=True).expand(mask.shape)
    return torch.where(mask.bool(), ratio.clamp(max=cap), 0.0)


def truncated_weights__caps_each_factor(logprobs, behaviour_logprobs, mask, cap, level):
    """ "sequence" cuts off each token's ratio before the product: the product is what is cut off."""
    _check(cap, level)
    log_ratio = _log_ratio(logprobs, behaviour_logprobs, mask).clamp(max=math.log(cap))
    return _finish(_per_token(log_ratio, mask, level), mask, cap)


def truncated_weights__geometric_mean(logprobs, behaviour_logprobs, mask, cap, level):
    """This is the geometric mean (GSPO's ratio), not the product: it no longer corrects the expectation."""
    _check(cap, level)
    log_ratio = _log_ratio(logprobs, behaviour_logprobs, mask)
    if level == "sequence":
        log_ratio = log_ratio / mask.sum(1, keepdim=True).clamp(min=1)
    return _finish(_per_token(log_ratio, mask, level), mask, cap)


def truncated_weights__prefix_products(logprobs, behaviour_logprobs, mask, cap, level):
    """These are products up to each token: the whole episode's product is wanted at all of its tokens."""
    _check(cap, level)
    log_ratio = _log_ratio(logprobs, behaviour_logprobs, mask)
    return _finish(log_ratio.cumsum(1) if level == "sequence" else log_ratio, mask, cap)


def truncated_weights__with_gradient(logprobs, behaviour_logprobs, mask, cap, level):
    """The weights carry a gradient: they correct for the sampling and are constants, so detach them."""
    _check(cap, level)
    log_ratio = torch.where(mask.bool(), logprobs - behaviour_logprobs, 0.0)
    return _finish(_per_token(log_ratio, mask, level), mask, cap)


def truncated_weights__inverted(logprobs, behaviour_logprobs, mask, cap, level):
    """The ratio is upside down: it is the probability under the new policy over that under the logged one."""
    _check(cap, level)
    return _finish(_per_token(_log_ratio(behaviour_logprobs, logprobs, mask), mask, level), mask, cap)


def truncated_weights__cap_on_the_log(logprobs, behaviour_logprobs, mask, cap, level):
    """cap is compared with the log-ratio: in logs the limit is log(cap)."""
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    return torch.where(mask.bool(), log_ratio.clamp(max=cap).exp(), 0.0)


def truncated_weights__unmasked(logprobs, behaviour_logprobs, mask, cap, level):
    """Where mask is 0 the weight is not 0: what is no choice of the policy has no weight."""
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    return log_ratio.clamp(max=math.log(cap)).exp()


def truncated_weights__any_level(logprobs, behaviour_logprobs, mask, cap, level):
    """Any other level counts as "token": a typing error then changes the algorithm. Raise ValueError."""
    if cap <= 0:
        raise ValueError("cap")
    return _finish(_per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level), mask, cap)


def truncated_weights__mask_multiplied_last(logprobs, behaviour_logprobs, mask, cap, level):
    """With cap inf a weight can be inf, and inf times mask 0 is NaN: end with torch.where, not a product."""
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    return log_ratio.clamp(max=math.log(cap)).exp() * mask


def truncated_weights__second_limit(logprobs, behaviour_logprobs, mask, cap, level):
    """The log-ratio of an episode is kept within 20, as is done for stability: cap is the only limit."""
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    return _finish(log_ratio.clamp(-20, 20) if level == "sequence" else log_ratio, mask, cap)


# off_policy_loss


def _weights(logprobs, behaviour_logprobs, mask, cap, level):
    if level is None:
        return mask
    _check(cap, level)
    log_ratio = _per_token(_log_ratio(logprobs, behaviour_logprobs, mask), mask, level)
    return _finish(log_ratio, mask, cap)


def _chosen(logprobs, mask):
    return torch.where(mask.bool(), logprobs, 0.0)


def off_policy_loss__weights_learn(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """Gradient flows through the weights too: detach them, they only correct for who sampled."""
    weights = mask
    if level is not None:
        _check(cap, level)
        log_ratio = torch.where(mask.bool(), logprobs - behaviour_logprobs.detach(), 0.0)
        weights = _finish(_per_token(log_ratio, mask, level), mask, cap)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum().clamp(min=1)


def off_policy_loss__ratio_surrogate(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """This is ratio times advantage: at the cap its gradient is 0, that of weight times logprob is not."""
    if level is None:
        total = advantages.detach()[:, None] * _chosen(logprobs, mask)
    else:
        _check(cap, level)
        log_ratio = torch.where(mask.bool(), logprobs - behaviour_logprobs.detach(), 0.0)
        weights = _finish(_per_token(log_ratio, mask, level), mask, cap)
        total = weights * advantages.detach()[:, None]
    return -total.sum() / mask.sum().clamp(min=1)


def off_policy_loss__counts_all_tokens(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """The mean is over all tokens, tools and padding too: divide by the policy's tokens (slime PR 365)."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / max(mask.numel(), 1)


def off_policy_loss__episode_mean(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """You average within each episode first: a token of a short episode then counts more."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum(1)
    return -(total / mask.sum(1).clamp(min=1)).sum() / max(len(mask), 1)


def off_policy_loss__sign(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """The minus is missing: an optimiser minimises, and this would make good episodes rarer."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return total / mask.sum().clamp(min=1)


def off_policy_loss__none_is_sequence(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """level None still uses the weights: it asks for weight 1 everywhere, the uncorrected loss."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level or "sequence")
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum().clamp(min=1)


def off_policy_loss__nan_times_zero(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """NaN times weight 0 is NaN: take the masked log-probabilities out with torch.where (verl issue 6361)."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * logprobs).sum()
    return -total / mask.sum().clamp(min=1)


def off_policy_loss__nan_when_empty(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """Without policy tokens this is 0 / 0, NaN: divide by at least 1."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum()


def off_policy_loss__cap_ignored(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """The weights are always cut off at 2: pass `cap` on."""
    _check(cap, level or "token")
    weights = _weights(logprobs, behaviour_logprobs, mask, 2.0, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum().clamp(min=1)


def off_policy_loss__weighted_mean(logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"):
    """You divide by the sum of the weights: divide by the number of policy tokens."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / (weights.sum() + (mask.sum() == 0))


def off_policy_loss__empty_level_is_none(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """`if level` takes the empty text for None: a gap in the settings trains uncorrected. Use `is None`."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level or None)
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum().clamp(min=1)


def off_policy_loss__none_reads_the_behaviour(
    logprobs, behaviour_logprobs, advantages, mask, cap=2.0, level="sequence"
):
    """level None multiplies the log-ratio by 0: NaN in the log stays NaN. All weights are simply 1."""
    weights = _weights(logprobs, behaviour_logprobs, mask, cap, level)
    if level is None:
        weights = (_log_ratio(logprobs, behaviour_logprobs, mask) * 0).exp() * mask
    total = (weights * advantages.detach()[:, None] * _chosen(logprobs, mask)).sum()
    return -total / mask.sum().clamp(min=1)


# estimate_success


def _seen(outcomes, observed, propensity):
    seen, p = outcomes[observed], propensity[observed]
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("propensity")
    return seen, p


def _limit(weights, clip):
    return weights if clip is None else np.minimum(weights, clip)


def estimate_success__missing_failed(outcomes, observed, propensity, clip=None):
    """An outcome that nobody saw counts as a failure here: it is unknown, and not in the sum at all."""
    seen, p = _seen(outcomes, observed, propensity)
    return float(seen.sum() / len(outcomes)) if len(seen) else math.nan


def estimate_success__naive_mean(outcomes, observed, propensity, clip=None):
    """This is the mean of what was seen: if failures complain more often, it is too low. Weigh by 1 / p."""
    seen, p = _seen(outcomes, observed, propensity)
    return float(seen.mean()) if len(seen) else math.nan


def estimate_success__not_normalised(outcomes, observed, propensity, clip=None):
    """You divide by N: unbiased, but it can leave [0, 1]. The self-normalised one divides by sum(w)."""
    seen, p = _seen(outcomes, observed, propensity)
    return float((_limit(1 / p, clip) * seen).sum() / len(outcomes)) if len(seen) else math.nan


def estimate_success__times_propensity(outcomes, observed, propensity, clip=None):
    """The weight is the propensity itself: what is seen rarely must count more, 1 / propensity."""
    seen, p = _seen(outcomes, observed, propensity)
    weights = _limit(p, clip)
    return float((weights * seen).sum() / weights.sum()) if len(seen) else math.nan


def estimate_success__clip_ignored(outcomes, observed, propensity, clip=None):
    """clip is never used: one outcome seen with probability 1/100 then outweighs a hundred others."""
    seen, p = _seen(outcomes, observed, propensity)
    return float((seen / p).sum() / (1 / p).sum()) if len(seen) else math.nan


def estimate_success__clip_drops(outcomes, observed, propensity, clip=None):
    """Weights above clip are left out: clipping sets them to clip."""
    seen, p = _seen(outcomes, observed, propensity)
    weights = 1 / p
    weights = weights if clip is None else np.where(weights > clip, 0.0, weights)
    return float((weights * seen).sum() / weights.sum()) if weights.sum() else math.nan


def estimate_success__clip_in_the_numerator(outcomes, observed, propensity, clip=None):
    """Only the numerator is clipped: the same weights belong above and below."""
    seen, p = _seen(outcomes, observed, propensity)
    return float((_limit(1 / p, clip) * seen).sum() / (1 / p).sum()) if len(seen) else math.nan


def estimate_success__nan_times_zero(outcomes, observed, propensity, clip=None):
    """NaN times 0 is NaN: pick the observed outcomes instead of multiplying the others by 0."""
    _seen(outcomes, observed, propensity)
    with np.errstate(all="ignore"):
        weights = _limit(observed / propensity, clip)
        return float((weights * outcomes).sum() / weights.sum())


def estimate_success__zero_for_nothing(outcomes, observed, propensity, clip=None):
    """With nothing observed you say 0, a success rate that nobody measured: say NaN."""
    seen, p = _seen(outcomes, observed, propensity)
    weights = _limit(1 / p, clip)
    return float((weights * seen).sum() / weights.sum()) if len(seen) else 0.0


def estimate_success__checks_everywhere(outcomes, observed, propensity, clip=None):
    """You check the propensity of unobserved outcomes too: it is not used, and may be unknown."""
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("propensity")
    seen, p = outcomes[observed], propensity[observed]
    weights = _limit(1 / p, clip)
    return float((weights * seen).sum() / weights.sum()) if len(seen) else math.nan


def estimate_success__unchecked(outcomes, observed, propensity, clip=None):
    """A propensity that is no probability passes: 0 would give an infinite weight. Raise ValueError."""
    seen, p = outcomes[observed], propensity[observed]
    with np.errstate(all="ignore"):
        weights = _limit(1 / p, clip)
        return float((weights * seen).sum() / weights.sum()) if len(seen) else math.nan


def estimate_success__skips_nan(outcomes, observed, propensity, clip=None):
    """nansum takes an observed NaN for a failure: a broken log must not look like a result, so stay NaN."""
    seen, p = _seen(outcomes, observed, propensity)
    weights = _limit(1 / p, clip)
    return float(np.nansum(weights * seen) / weights.sum()) if len(seen) else math.nan


# admit


def _differences(old_outcomes, new_outcomes, margin):
    old, new = np.asarray(old_outcomes, float), np.asarray(new_outcomes, float)
    if old.shape != new.shape or len(old) < 2 or margin < 0 or np.isnan(old + new).any():
        raise ValueError("outcomes or margin")
    return new - old


def _z(confidence):
    return NormalDist().inv_cdf(confidence)


def admit__point_estimate(old_outcomes, new_outcomes, margin, confidence=0.95):
    """Only the mean is compared: by luck alone a worse policy passes. Use the lower end of the interval."""
    return bool(_differences(old_outcomes, new_outcomes, margin).mean() >= -margin)


def admit__unpaired(old_outcomes, new_outcomes, margin, confidence=0.95):
    """You took two separate samples: both policies met the same questions, so look at the differences."""
    d = _differences(old_outcomes, new_outcomes, margin)
    variance = np.var(old_outcomes, ddof=1) + np.var(new_outcomes, ddof=1)
    return bool(d.mean() - _z(confidence) * math.sqrt(variance / len(d)) >= -margin)


def admit__two_sided(old_outcomes, new_outcomes, margin, confidence=0.95):
    """This is the quantile of a two-sided interval: only the lower end matters, so it is z(confidence)."""
    d = _differences(old_outcomes, new_outcomes, margin)
    z = _z((1 + confidence) / 2)
    return bool(d.mean() - z * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


def admit__upper_end(old_outcomes, new_outcomes, margin, confidence=0.95):
    """You look at the upper end: it admits whatever is not proved bad. The lower end must pass."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() + _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


def admit__population_std(old_outcomes, new_outcomes, margin, confidence=0.95):
    """This is the population's standard deviation: the sample's divides by n - 1."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(confidence) * d.std() / math.sqrt(len(d)) >= -margin)


def admit__not_by_root_n(old_outcomes, new_outcomes, margin, confidence=0.95):
    """The spread of one question is not that of the mean: divide by sqrt(n)."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) >= -margin)


def admit__must_be_better(old_outcomes, new_outcomes, margin, confidence=0.95):
    """You demand an improvement of margin: the lower end may lie as far as margin below 0."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) >= margin)


def admit__always_95(old_outcomes, new_outcomes, margin, confidence=0.95):
    """The quantile is fixed at 1.645: compute it from confidence."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(0.95) * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


def admit__old_minus_new(old_outcomes, new_outcomes, margin, confidence=0.95):
    """The difference is turned around: new minus old, so that better is positive."""
    d = -_differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


def admit__cuts_to_the_shorter(old_outcomes, new_outcomes, margin, confidence=0.95):
    """Lists of different lengths are cut by zip: then they are not the same questions. Raise ValueError."""
    if margin < 0:
        raise ValueError("margin")
    d = np.array([b - a for a, b in zip(old_outcomes, new_outcomes, strict=False)])
    if len(d) < 2 or np.isnan(d).any():
        raise ValueError("outcomes")
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


def admit__strictly(old_outcomes, new_outcomes, margin, confidence=0.95):
    """At the edge itself the policy is admitted: >=, not >. Else an identical policy is refused."""
    d = _differences(old_outcomes, new_outcomes, margin)
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) > -margin)


def admit__subtracts_as_given(old_outcomes, new_outcomes, margin, confidence=0.95):
    """The outcomes are subtracted as they come: bool cannot be, unsigned 0 - 1 is 255. Make them float."""
    _differences(old_outcomes, new_outcomes, margin)
    d = np.asarray(new_outcomes) - np.asarray(old_outcomes)
    return bool(d.mean() - _z(confidence) * d.std(ddof=1) / math.sqrt(len(d)) >= -margin)


# flywheel


class Round(NamedTuple):
    round: int
    served_by: int
    admitted: bool


def _candidate(found):
    if found is None:
        raise ValueError("train returned None")
    return found


def flywheel__trains_the_server(policy, serve, train, gate, rounds):
    """train gets the policy that serves: a rejected change is then live already. Give it a deep copy."""
    history, version = [], 0
    for r in range(rounds):
        candidate = _candidate(train(policy, serve(policy, r), r))
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__shallow_copy(policy, serve, train, gate, rounds):
    """copy.copy shares what lies inside: the weights are still the serving policy's. Use copy.deepcopy."""
    history, version = [], 0
    for r in range(rounds):
        candidate = _candidate(train(copy.copy(policy), serve(policy, r), r))
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__keeps_rejected(policy, serve, train, gate, rounds):
    """Training goes on from a rejected candidate: it starts from the policy that serves."""
    history, version, latest = [], 0, policy
    for r in range(rounds):
        latest = _candidate(train(copy.deepcopy(latest), serve(policy, r), r))
        admitted = bool(gate(policy, latest, r))
        history.append(Round(r, version, admitted))
        policy, version = (latest, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__no_gate(policy, serve, train, gate, rounds):
    """The gate is asked, but its answer decides nothing: every candidate goes live."""
    history, version = [], 0
    for r in range(rounds):
        candidate = _candidate(train(copy.deepcopy(policy), serve(policy, r), r))
        history.append(Round(r, version, bool(gate(policy, candidate, r))))
        policy, version = candidate, version + 1
    return policy, history


def flywheel__gate_reversed(policy, serve, train, gate, rounds):
    """The gate gets the candidate first: the order is (policy that serves, candidate)."""
    history, version = [], 0
    for r in range(rounds):
        candidate = _candidate(train(copy.deepcopy(policy), serve(policy, r), r))
        admitted = bool(gate(candidate, policy, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__counts_rounds(policy, serve, train, gate, rounds):
    """served_by is the number of the round: the version only grows when a candidate is admitted."""
    history = []
    for r in range(rounds):
        candidate = _candidate(train(copy.deepcopy(policy), serve(policy, r), r))
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, r, admitted))
        policy = candidate if admitted else policy
    return policy, history


def flywheel__version_after(policy, serve, train, gate, rounds):
    """served_by already counts this round's admission: it names the policy that wrote the log."""
    history, version = [], 0
    for r in range(rounds):
        candidate = _candidate(train(copy.deepcopy(policy), serve(policy, r), r))
        admitted = bool(gate(policy, candidate, r))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
        history.append(Round(r, version, admitted))
    return policy, history


def flywheel__serves_the_first(policy, serve, train, gate, rounds):
    """The first policy serves in every round: the log must come from the one that was admitted last."""
    first, history, version = policy, [], 0
    for r in range(rounds):
        candidate = _candidate(train(copy.deepcopy(policy), serve(first, r), r))
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__ignores_the_result(policy, serve, train, gate, rounds):
    """What train returns is thrown away: the candidate is its result, not the copy it was given."""
    history, version = [], 0
    for r in range(rounds):
        candidate = copy.deepcopy(policy)
        _candidate(train(candidate, serve(policy, r), r))
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__accepts_none(policy, serve, train, gate, rounds):
    """train returned None and you went on with it: raise ValueError, else nothing serves next."""
    history, version = [], 0
    for r in range(rounds):
        candidate = train(copy.deepcopy(policy), serve(policy, r), r)
        admitted = bool(gate(policy, candidate, r)) if candidate is not None else False
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__swallows_errors(policy, serve, train, gate, rounds):
    """An error in training is swallowed and the round goes on: let it reach the caller."""
    history, version = [], 0
    for r in range(rounds):
        log = serve(policy, r)
        try:
            candidate = train(copy.deepcopy(policy), log, r)
        except Exception:
            history.append(Round(r, version, False))
            continue
        admitted = bool(gate(policy, _candidate(candidate), r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history


def flywheel__asks_by_equality(policy, serve, train, gate, rounds):
    """`candidate == None` asks the candidate itself, and an array answers with an array: use `is None`."""
    history, version = [], 0
    for r in range(rounds):
        candidate = train(copy.deepcopy(policy), serve(policy, r), r)
        if candidate == None:  # noqa: E711
            raise ValueError("train returned None")
        admitted = bool(gate(policy, candidate, r))
        history.append(Round(r, version, admitted))
        policy, version = (candidate, version + 1) if admitted else (policy, version)
    return policy, history
