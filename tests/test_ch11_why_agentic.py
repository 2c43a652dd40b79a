"""Graders of chapter 11: writes that are verified, logs, pairs, off-policy weights, the flywheel."""

import copy
import itertools
import math
import random
import sqlite3
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch

from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "write_verified": {
        "title": "Write, verify, then commit",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": None,
    },
    "episode_from_log": {
        "title": "From a log to an episode",
        "difficulty": 3,
        "minutes": 25,
        "points": 15,
        "equation": None,
    },
    "trajectory_pairs": {
        "title": "Pairs of episodes",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": None,
    },
    "trajectory_dpo_loss": {
        "title": "DPO on whole episodes",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-trajectory-dpo",
    },
    "truncated_weights": {
        "title": "Importance weights, per token and per episode",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-sequence-weight",
    },
    "off_policy_loss": {
        "title": "Learning from what another policy did",
        "difficulty": 3,
        "minutes": 15,
        "points": 10,
        "equation": "eq-off-policy",
    },
    "estimate_success": {
        "title": "Outcomes that nobody saw",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-missing-outcomes",
    },
    "admit": {
        "title": "The gate before deployment",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-admission",
    },
    "flywheel": {
        "title": "The flywheel",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": None,
    },
}

NAN, INF = math.nan, math.inf


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def what_it_raises(call):
    """The exception that call() raises, of whatever kind; None if it returns."""
    try:
        call()
    except BaseException as error:
        return error
    return None


def gradients(loss, *leaves):
    """The gradients of a scalar by the leaves, zeros where there is none; says so if it has no graph."""
    expect_shape(loss, (), "the loss")
    expect_true(torch.is_tensor(loss), "the loss is no tensor: gradient cannot flow through it")
    expect_true(loss.requires_grad, "the loss has no graph: no gradient reaches logprobs")
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    expect_true(found[0] is not None, "the loss has a graph, but logprobs is not in it")
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


# write_verified

SCHEMA = """
CREATE TABLE account (name TEXT PRIMARY KEY, cents INTEGER CHECK (cents >= 0));
INSERT INTO account VALUES ('ann', 100), ('bob', 0);
CREATE TABLE bill (id INTEGER PRIMARY KEY, owner TEXT REFERENCES account DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE price (item TEXT PRIMARY KEY, cents INTEGER);
INSERT INTO price VALUES ('tea', 250);
CREATE TRIGGER limited AFTER UPDATE ON price WHEN new.cents > 999
BEGIN UPDATE price SET cents = 999 WHERE item = new.item; END;
PRAGMA foreign_keys = ON;
"""
GIVE = ("UPDATE account SET cents = cents + ? WHERE name = ?", (70, "bob"))
TAKE = ("UPDATE account SET cents = cents - ? WHERE name = ?", (70, "ann"))


class Verdict:
    """A verify with a fixed answer that counts its calls."""

    def __init__(self, answer=True):
        self.answer, self.calls = answer, 0

    def __call__(self, connection):
        self.calls += 1
        return self.answer


def raising(kind):
    def verify(connection):
        raise kind("from verify")

    return verify


def no_drop(action, *details):
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_DROP_TABLE else sqlite3.SQLITE_OK


def connect(path=":memory:"):
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")  # faster; says nothing about transactions
    return closing(db)


def balances(db):
    return dict(db.execute("SELECT name, cents FROM account ORDER BY name").fetchall())


def expect_ended(db, answer, wanted, money, what):
    expect_equal(answer, wanted, f"the answer {what}")
    expect_true(not db.in_transaction, f"a transaction is still open {what}")
    expect_equal(balances(db), money, f"the balances {what}")


START, MOVED = {"ann": 100, "bob": 0}, {"ann": 30, "bob": 70}


def test_write_verified_commits(write_verified):
    """True: all statements, in their order, are committed: a second connection sees them."""
    with tempfile.TemporaryDirectory() as folder:
        path, seen, asked = str(Path(folder) / "a.db"), [], []
        with connect(path) as db, connect(path) as other:
            db.executescript(SCHEMA)

            def verify(connection):
                asked.append(connection)
                seen.append((balances(connection), balances(other)))
                return balances(connection) == MOVED

            answer = write_verified(db, [GIVE, TAKE], verify)
            expect_ended(db, answer, "committed", MOVED, "when verify says True")
            expect_equal(seen, [(MOVED, START)], "what verify, and meanwhile another connection, reads")
            expect_true(asked[0] is db, "verify gets the connection")
            expect_equal(balances(other), MOVED, "what the second connection reads afterwards")
            expect_true(db.isolation_level is None, "isolation_level was changed")


def test_write_verified_runs_statements_in_order(write_verified):
    """Parameters are passed as they are, tuples or dicts; a later statement works on an earlier one."""
    with connect() as db:
        db.executescript(SCHEMA)
        statements = [
            ("INSERT INTO account VALUES (:name, :cents)", {"cents": 5, "name": "o'hara"}),
            ("UPDATE account SET cents = cents * 2 + ?", (1,)),
            ("DELETE FROM account WHERE name = 'bob'", ()),
        ]
        answer = write_verified(db, statements, Verdict(True))
        expect_ended(db, answer, "committed", {"ann": 201, "o'hara": 11}, "of three statements")


def test_write_verified_rejects(write_verified):
    """False: nothing is changed, and the connection can be used again."""
    with connect() as db:
        db.executescript(SCHEMA)
        answer = write_verified(db, [GIVE, TAKE], Verdict(False))
        expect_ended(db, answer, "rejected", START, "when verify says False")
        answer = write_verified(db, [GIVE, TAKE], Verdict(True))
        expect_ended(db, answer, "committed", MOVED, "of the next call")


def test_write_verified_sees_what_a_trigger_stored(write_verified):
    """No error, yet another value is stored than was written: verify reads it, and it is not kept."""
    with connect() as db:
        db.executescript(SCHEMA)
        read = []

        def verify(connection):
            read.append(connection.execute("SELECT cents FROM price").fetchone()[0])
            return read[-1] == 1500

        update = [("UPDATE price SET cents = ? WHERE item = ?", (1500, "tea"))]
        answer = write_verified(db, update, verify)
        expect_equal(read, [999], "what verify reads after 1500 was written and the trigger fired")
        expect_equal(answer, "rejected", "the answer")
        expect_equal(db.execute("SELECT cents FROM price").fetchone()[0], 250, "the price afterwards")


def test_write_verified_fails_as_a_whole(write_verified):
    """The second statement breaks a CHECK: the first is undone too, and verify is not asked."""
    for name, bad in {
        "a broken CHECK": ("UPDATE account SET cents = cents - ? WHERE name = ?", (170, "ann")),
        "a syntax error": ("UPDATE acount", ()),
        "a forbidden statement": ("DROP TABLE price", ()),
        "too few parameters": ("UPDATE account SET cents = ? WHERE name = ?", (1,)),
    }.items():
        with connect() as db:
            db.executescript(SCHEMA)
            db.set_authorizer(no_drop)
            verify = Verdict(True)
            answer = write_verified(db, [GIVE, bad], verify)
            expect_ended(db, answer, "failed", START, f"after {name}")
            expect_equal(verify.calls, 0, f"calls of verify after {name}")


def test_write_verified_survives_an_error_that_rolls_back(write_verified):
    """INSERT OR ROLLBACK ends the transaction by itself: the answer is "failed", not an exception."""
    with connect() as db:
        db.executescript(SCHEMA)
        twice = ("INSERT OR ROLLBACK INTO account VALUES (?, ?)", ("ann", 1))
        answer = write_verified(db, [GIVE, twice], Verdict(True))
        expect_ended(db, answer, "failed", START, "after INSERT OR ROLLBACK met a duplicate")


def test_write_verified_stops_at_an_error(write_verified):
    """After an error no further statement runs: the transaction may be over, and it would be kept."""
    with connect() as db:
        db.executescript(SCHEMA)
        twice = ("INSERT OR ROLLBACK INTO account VALUES (?, ?)", ("ann", 1))
        answer = write_verified(db, [twice, GIVE], Verdict(True))
        expect_ended(db, answer, "failed", START, "when a statement follows the one that failed")


def test_write_verified_when_commit_fails(write_verified):
    """A deferred foreign key is broken: COMMIT itself fails, and nothing stays."""
    with connect() as db:
        db.executescript(SCHEMA)
        orphan = ("INSERT INTO bill (owner) VALUES (?)", ("zoe",))
        answer = write_verified(db, [GIVE, orphan], Verdict(True))
        expect_ended(db, answer, "failed", START, "after COMMIT met an orphan")
        expect_equal(db.execute("SELECT count(*) FROM bill").fetchone()[0], 0, "the number of bills")


def test_write_verified_when_a_reader_blocks_commit(write_verified):
    """Another connection is reading: COMMIT is refused, "failed", and a later call succeeds."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.db")
        with connect(path) as db, connect(path) as other:
            db.executescript(SCHEMA)
            other.execute("BEGIN")
            balances(other)
            answer = write_verified(db, [GIVE, TAKE], Verdict(True))
            other.execute("ROLLBACK")
            expect_ended(db, answer, "failed", START, "when a reader blocks COMMIT")
            answer = write_verified(db, [GIVE, TAKE], Verdict(True))
            expect_ended(db, answer, "committed", MOVED, "when the reader is gone")


def test_write_verified_when_the_database_is_locked(write_verified):
    """Another connection is writing: BEGIN is refused, "failed", no statement runs, verify is not asked."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.db")
        with connect(path) as db, connect(path) as other:
            db.executescript(SCHEMA)
            verify = Verdict(True)
            other.execute("BEGIN IMMEDIATE")
            other.execute("UPDATE account SET cents = 1 WHERE name = 'bob'")
            for statements in ([GIVE], [("SELECT 1", ())], []):
                answer = write_verified(db, statements, verify)
                expect_ended(db, answer, "failed", START, "while another connection writes")
            expect_equal(verify.calls, 0, "calls of verify while another connection writes")
            other.execute("COMMIT")
            expect_equal(balances(db), {"ann": 100, "bob": 1}, "the balances after the other's COMMIT")


def test_write_verified_when_the_file_is_damaged(write_verified):
    """BEGIN raises DatabaseError, no OperationalError: "failed" too, like every sqlite3.Error."""
    with tempfile.TemporaryDirectory() as folder:
        path, verify = Path(folder) / "a.db", Verdict(True)
        path.write_bytes(b"no database " * 1000)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            answer = write_verified(db, [GIVE], verify)
            expect_equal(answer, "failed", "the answer when the file is no database")
            expect_equal(verify.calls, 0, "calls of verify when the file is no database")


def test_write_verified_holds_the_lock_from_the_start(write_verified):
    """Nobody can start to write between the first read and COMMIT: BEGIN IMMEDIATE."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "a.db")
        with connect(path) as db, connect(path) as other:
            db.executescript(SCHEMA)
            errors = []

            def verify(connection):
                errors.append(type(what_it_raises(partial(other.execute, "BEGIN IMMEDIATE"))).__name__)
                return True

            for statements in ([("SELECT cents FROM account", ())], []):
                answer = write_verified(db, statements, verify)
                if other.in_transaction:
                    other.execute("ROLLBACK")
                what = f"of {len(statements)} statements that only read"
                expect_ended(db, answer, "committed", START, what)
            what = "what another connection's BEGIN IMMEDIATE raises while verify runs"
            expect_equal(errors, ["OperationalError"] * 2, what)


def test_write_verified_without_a_change(write_verified):
    """Statements that change nothing, or none at all: verify decides all the same."""
    nobody = ("UPDATE account SET cents = 5 WHERE name = ?", ("zoe",))
    for statements, verdict in itertools.product(([], [nobody]), (True, False)):
        with connect() as db:
            db.executescript(SCHEMA)
            answer = write_verified(db, statements, Verdict(verdict))
            what = f"of {len(statements)} statements without effect when verify says {verdict}"
            expect_ended(db, answer, "committed" if verdict else "rejected", START, what)


class _Stop(BaseException):
    """Like KeyboardInterrupt: no Exception."""


def test_write_verified_when_verify_raises(write_verified):
    """What verify raises, sqlite3.Error too, reaches the caller; nothing is kept, nothing stays open."""
    for kind in (KeyError, sqlite3.OperationalError, _Stop):
        with connect() as db:
            db.executescript(SCHEMA)
            error = what_it_raises(partial(write_verified, db, [GIVE], raising(kind)))
            expect_equal(type(error).__name__, kind.__name__, f"verify raised {kind.__name__}; what came out")
            expect_true(not db.in_transaction, f"a transaction is still open: verify raised {kind.__name__}")
            expect_equal(balances(db), START, f"the balances after verify raised {kind.__name__}")


def test_write_verified_when_verify_ends_the_transaction(write_verified):
    """An error inside verify can end the transaction: that error reaches the caller, not one of ROLLBACK."""
    with connect() as db:
        db.executescript(SCHEMA)

        def verify(connection):
            connection.execute("INSERT OR ROLLBACK INTO account VALUES ('ann', 1)")

        error = what_it_raises(partial(write_verified, db, [GIVE], verify))
        expect_equal(type(error).__name__, "IntegrityError", "what came out of verify's INSERT OR ROLLBACK")
        expect_equal(balances(db), START, "the balances after verify's INSERT OR ROLLBACK")


def test_write_verified_when_a_statement_raises_something_else(write_verified):
    """A number too large for SQLite raises OverflowError: it reaches the caller, nothing stays open."""
    with connect() as db:
        db.executescript(SCHEMA)
        huge = ("UPDATE account SET cents = ?", (2**70,))
        error = what_it_raises(partial(write_verified, db, [GIVE, huge], Verdict(True)))
        expect_equal(type(error).__name__, "OverflowError", "what came out for the number 2**70")
        expect_true(not db.in_transaction, "a transaction is still open after OverflowError")
        expect_equal(balances(db), START, "the balances after OverflowError")


def test_write_verified_leaves_the_callers_transaction_alone(write_verified):
    """A transaction that is already open: ValueError, and it goes on as if nothing had been called."""
    with connect() as db:
        db.executescript(SCHEMA)
        db.execute("BEGIN")
        db.execute(*GIVE)
        call = partial(write_verified, db, [TAKE], Verdict(True))
        expect_raises(ValueError, call, "a call inside the caller's transaction")
        expect_true(db.in_transaction, "the caller's transaction was ended")
        expect_equal(balances(db), {"ann": 100, "bob": 70}, "the balances inside the caller's transaction")
        db.execute("ROLLBACK")
        expect_equal(balances(db), START, "the balances after the caller's ROLLBACK")


def test_write_verified_many_times(write_verified):
    """Sixty random calls on one connection end as a copy of the table in a dict says."""
    rng = random.Random(0)
    with connect() as db:
        db.executescript(SCHEMA)
        money = dict(START)
        for i in range(60):
            statements, after, wanted = [], dict(money), None
            for _ in range(rng.randrange(4)):
                name, change = rng.choice(["ann", "bob"]), rng.randint(-60, 60)
                statements.append(("UPDATE account SET cents = cents + ? WHERE name = ?", (change, name)))
                after[name] += change
                wanted = wanted or ("failed" if after[name] < 0 else None)
            verdict = rng.random() < 0.6
            wanted = wanted or ("committed" if verdict else "rejected")
            money = after if wanted == "committed" else money
            answer = write_verified(db, statements, Verdict(verdict))
            expect_ended(db, answer, wanted, money, f"of call {i + 1} of 60")


# episode_from_log


def episode_rows():
    """A question, a query, its result, an answer, and how it ended."""
    return [
        {"step": 0, "kind": "user", "ids": [7, 8, 9]},
        {"step": 1, "kind": "action", "ids": [4, 2], "logprobs": [-0.5, -1.25]},
        {"step": 2, "kind": "observation", "ids": [5]},
        {"step": 3, "kind": "action", "ids": [6, 6, 2], "logprobs": [-2.0, -0.125, -3.0]},
        {"step": 4, "kind": "outcome", "value": 1.0},
    ]


IDS = [7, 8, 9, 4, 2, 5, 6, 6, 2]
MASK = [0, 0, 0, 1, 1, 0, 1, 1, 1]
LOGPROBS = [0.0, 0.0, 0.0, -0.5, -1.25, 0.0, -2.0, -0.125, -3.0]


def expect_episode(got, ids, mask, logprobs, reward, what):
    for name in ("ids", "mask", "behaviour_logprobs", "reward"):
        expect_true(hasattr(got, name), f"{what}: the result has no field {name}")
    expect_equal(list(got.ids), ids, f"{what}: ids")
    expect_equal(list(got.mask), mask, f"{what}: mask")
    expect_equal(list(got.behaviour_logprobs), logprobs, f"{what}: behaviour_logprobs")
    expect_equal(got.reward, reward, f"{what}: reward")


def test_episode_from_log_by_hand(episode_from_log):
    """Mask 1 and log-probabilities at the actions' tokens, 0 at what the policy only read."""
    got = episode_from_log(episode_rows())
    expect_episode(got, IDS, MASK, LOGPROBS, 1.0, "five rows")
    for name in ("ids", "mask", "behaviour_logprobs"):
        expect_true(isinstance(getattr(got, name), list), f"{name} should be a list")


def test_episode_from_log_follows_the_steps(episode_from_log):
    """Log rows come in any order: `step` says what came when, and the rows stay as they are."""
    for order in itertools.permutations(range(5)):
        rows = [episode_rows()[i] for i in order]
        before = copy.deepcopy(rows)
        got = episode_from_log(rows)
        expect_episode(got, IDS, MASK, LOGPROBS, 1.0, f"rows in the order {list(order)}")
        expect_equal(rows, before, "the rows after the call")


def test_episode_from_log_counts_past_nine(episode_from_log):
    """Step 10 comes after step 9, and an outcome may stand anywhere."""
    rows = [{"step": i, "kind": "user", "ids": [i]} for i in range(12)]
    rows[3] = {"step": 3, "kind": "outcome", "value": 0.25}
    rows[10] = {"step": 10, "kind": "action", "ids": [10], "logprobs": [-1.0]}
    ids = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    got = episode_from_log(rows[::-1])
    wanted = [-1.0 if i == 10 else 0.0 for i in ids]
    expect_episode(got, ids, [int(i == 10) for i in ids], wanted, 0.25, "twelve steps")


def test_episode_from_log_a_missing_outcome_is_not_zero(episode_from_log):
    """No outcome, or the value None: reward None. The value 0.0: reward 0.0. They are not the same."""
    for value in (0.0, 1.0, -0.5, None):
        rows = episode_rows()
        rows[4]["value"] = value
        reward = episode_from_log(rows).reward
        expect_equal(reward, value, f"the reward for the outcome {value}")
        expect_equal(reward is None, value is None, f"reward is None for the outcome {value}")
    expect_equal(episode_from_log(episode_rows()[:4]).reward, None, "the reward without an outcome")


def test_episode_from_log_needs_every_step_once(episode_from_log):
    """A gap, a step twice, or counting from 1: ValueError."""
    bad = ([0, 1, 2, 3, 5], [0, 1, 1, 3, 4], [0, 1, 2, 2, 3], [1, 2, 3, 4, 5], [-1, 0, 1, 2, 3])
    for steps in (*bad, [-1, 0, 1, 2, 4], [0, 0, 3, 3, 4], [0, 1, 2, -2, 4]):
        rows = [{**row, "step": s} for row, s in zip(episode_rows(), steps, strict=True)]
        expect_raises(ValueError, partial(episode_from_log, rows), f"steps {steps}")
    rows = episode_rows()
    rows[4]["step"] = 7
    expect_raises(ValueError, partial(episode_from_log, rows), "an outcome at step 7 of 5")


def test_episode_from_log_needs_the_behaviour_policy(episode_from_log):
    """An action without log-probabilities, or with another number of them: ValueError."""
    for name, logprobs in {
        "None": None,
        "no entry": [],
        "one too few": [-0.5],
        "one too many": [-0.5, -1.25, -2.0],
    }.items():
        rows = episode_rows()
        rows[1]["logprobs"] = logprobs
        expect_raises(ValueError, partial(episode_from_log, rows), f"logprobs: {name}")
    rows = episode_rows()
    del rows[1]["logprobs"]
    expect_raises(ValueError, partial(episode_from_log, rows), "no logprobs in the row")
    rows = episode_rows()
    rows[1]["logprobs"], rows[3]["logprobs"] = rows[3]["logprobs"], rows[1]["logprobs"]
    expect_raises(ValueError, partial(episode_from_log, rows), "3 and 2 logprobs for 2 and 3 ids")


def test_episode_from_log_has_one_outcome(episode_from_log):
    """Two outcomes: ValueError, even if they agree or one of them is None."""
    for pair in ([1.0, 0.0], [1.0, 1.0], [None, 1.0], [None, None]):
        rows = [{"step": i, "kind": "outcome", "value": v} for i, v in enumerate(pair)]
        expect_raises(ValueError, partial(episode_from_log, rows), f"outcomes {pair}")


def test_episode_from_log_knows_three_kinds_of_text(episode_from_log):
    """Another kind is an error, not a guess."""
    rows = [*episode_rows()[:4], {"step": 4, "kind": "system", "ids": [3]}]
    expect_raises(ValueError, partial(episode_from_log, rows), "kind 'system'")


def test_episode_from_log_reads_logprobs_of_actions_only(episode_from_log):
    """What else stands in a row of the user or of a tool does not count."""
    rows = episode_rows()
    rows[0].update(logprobs=[-9.0, -9.0, -9.0], value=0.0)
    rows[2].update(logprobs=None, value=0.0)
    got = episode_from_log(rows)
    expect_episode(got, IDS, MASK, LOGPROBS, 1.0, "rows with further entries")


def test_episode_from_log_of_little(episode_from_log):
    """No rows; an action without tokens; a tool that answers nothing."""
    expect_episode(episode_from_log([]), [], [], [], None, "no rows")
    rows = [
        {"step": 0, "kind": "action", "ids": [], "logprobs": []},
        {"step": 1, "kind": "observation", "ids": []},
    ]
    expect_episode(episode_from_log(rows), [], [], [], None, "rows without tokens")


def test_episode_from_log_returns_new_lists(episode_from_log):
    """Whoever changes the result does not change the log."""
    rows = [{"step": 0, "kind": "action", "ids": [4, 2], "logprobs": [-0.5, -1.0]}]
    got = episode_from_log(rows)
    for part in (got.ids, got.behaviour_logprobs, got.mask):
        part.append(0)
    wanted = [{"step": 0, "kind": "action", "ids": [4, 2], "logprobs": [-0.5, -1.0]}]
    expect_equal(rows, wanted, "the rows after the result was changed")


def test_episode_from_log_at_random(episode_from_log):
    """Forty random logs, shuffled, of up to 400 tokens."""
    rng = random.Random(1)
    for _ in range(40):
        rows, ids, mask, logprobs, reward = [], [], [], [], None
        for step in range(rng.randrange(1, 16)):
            kind = rng.choice(["user", "action", "action", "observation"])
            n = rng.choice([0, 1, 2, 5, 27])
            new = [rng.randrange(50) for _ in range(n)]
            rows.append({"step": step, "kind": kind, "ids": new})
            chosen = [rng.choice([-0.0625, -30.0, -2000.0, -1.5]) for _ in range(n)]
            if kind == "action":
                rows[-1]["logprobs"] = list(chosen)
            ids += new
            mask += [1 if kind == "action" else 0] * n
            logprobs += chosen if kind == "action" else [0.0] * n
        if rng.random() < 0.6:
            reward = rng.choice([0.0, 1.0, 0.5, None])
            for row in rows[(at := rng.randrange(len(rows) + 1)) :]:
                row["step"] += 1
            rows.append({"step": at, "kind": "outcome", "value": reward})
        rng.shuffle(rows)
        expect_episode(episode_from_log(rows), ids, mask, logprobs, reward, "a random log")


# trajectory_pairs


def brute_pairs(outcomes, questions):
    """k-th success with k-th failure, by walking over the episodes."""
    order, won, lost = [], {}, {}
    for i, (outcome, question) in enumerate(zip(outcomes, questions, strict=True)):
        if question not in won:
            order.append(question)
            won[question], lost[question] = [], []
        if outcome > 0.5:
            won[question].append(i)
        elif outcome <= 0.5:
            lost[question].append(i)
    return [[w, l] for q in order for w, l in zip(won[q], lost[q], strict=False)]


def expect_pairs(got, wanted, what):
    expect_shape(got, (len(wanted), 2), what)
    expect_true(torch.is_tensor(got) and got.dtype == torch.long, f"{what}: a long tensor is wanted")
    expect_equal(got.tolist(), wanted, what)


def test_trajectory_pairs_by_hand(trajectory_pairs):
    """One question, outcomes 0, 1, 1, 0, 0: two pairs, winner first; the third failure stays alone."""
    got = trajectory_pairs(tensor([0, 1, 1, 0, 0]), torch.tensor([3, 3, 3, 3, 3]))
    expect_pairs(got, [[1, 0], [2, 3]], "the pairs")


def test_trajectory_pairs_stay_within_a_question(trajectory_pairs):
    """Questions 9 and 2, mixed: each pair is of one question, and question 9 came first."""
    outcomes, questions = tensor([1, 0, 0, 1, 1, 0]), torch.tensor([9, 2, 9, 2, 9, 2])
    got = trajectory_pairs(outcomes, questions)
    expect_pairs(got, [[0, 2], [3, 1]], "the pairs of two questions")
    expect_unchanged(tensor([1, 0, 0, 1, 1, 0]), outcomes, "outcomes")
    expect_unchanged(torch.tensor([9, 2, 9, 2, 9, 2]), questions, "questions")


def test_trajectory_pairs_without_the_unknown(trajectory_pairs):
    """NaN is neither success nor failure, but its question keeps its place in the order."""
    outcomes = tensor([NAN, 0, 1, NAN, 1, 0, NAN])
    got = trajectory_pairs(outcomes, torch.tensor([5, 4, 4, 5, 5, 5, 4]))
    expect_pairs(got, [[4, 5], [2, 1]], "the pairs of questions 5 and 4")


def test_trajectory_pairs_threshold(trajectory_pairs):
    """0.5 itself is a failure; 0.6 and 3 are successes, 0.4 and -1 failures."""
    got = trajectory_pairs(tensor([0.5, 0.6, 0.4, 3.0, -1.0, 0.9]), torch.zeros(6, dtype=torch.long))
    expect_pairs(got, [[1, 0], [3, 2], [5, 4]], "the pairs")


def test_trajectory_pairs_of_any_numbers(trajectory_pairs):
    """Question numbers may be negative, and so far from 0 that single precision confuses neighbours."""
    far = -(2**40)  # far below, not above 0: range(questions.max()) then fails fast
    questions = torch.tensor([far - 1, -1, far, 1, -1, far - 1, 1, far])
    got = trajectory_pairs(tensor([1, 0, 0, 1, 1, 0, 0, 1]), questions)
    expect_pairs(got, [[0, 5], [4, 1], [7, 2], [3, 6]], "the pairs of questions far from 0")


def test_trajectory_pairs_of_nothing(trajectory_pairs):
    """Only successes, only failures, one of each in two questions, all NaN, no episode: (0, 2)."""
    for outcomes, questions in (
        ([1, 1, 1], [0, 0, 0]),
        ([0, 0], [0, 0]),
        ([1, 0], [0, 1]),
        ([NAN, NAN, 1], [0, 0, 0]),
        ([], []),
    ):
        got = trajectory_pairs(tensor(outcomes), torch.tensor(questions, dtype=torch.long))
        expect_pairs(got, [], f"the pairs of outcomes {outcomes} of questions {questions}")


def test_trajectory_pairs_at_random(trajectory_pairs):
    """Sixty random batches against a walk over the episodes, single precision too."""
    rng = random.Random(2)
    for i in range(60):
        n = rng.choice([1, 2, 7, 30, 120])
        names = rng.sample(range(-5, 100_000), rng.choice([1, 2, 6]))
        outcomes = [rng.choice([0.0, 1.0, 1.0, 0.0, NAN, 0.25]) for _ in range(n)]
        questions = [rng.choice(names) for _ in range(n)]
        got = trajectory_pairs(
            tensor(outcomes).to([torch.float32, torch.float64][i % 2]), torch.tensor(questions)
        )
        expect_pairs(got, brute_pairs(outcomes, questions), "the pairs of a random batch")


# trajectory_dpo_loss


def softplus(x):
    """log(1 + e^x), by the standard library."""
    return x if x > 30 else math.log1p(math.exp(x))


def logistic(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


# Three episodes; the policy chose columns 1 and 3, 2 only, 1 to 3. Their margins: 3, -2, 0.5.
EP_MASK = [[0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 1, 1]]
EP_LOGPROBS = [[-7.0, -1.0, -4.0, -2.0], [-1.0, -3.0, -5.0, -6.0], [-2.0, -1.0, -0.5, -3.0]]
EP_REF = [[-1.0, -3.0, -9.0, -3.0], [-8.0, -2.0, -3.0, -1.0], [-5.0, -0.5, -2.0, -2.5]]


def brute_dpo(logprobs, ref, mask, pairs, beta):
    """The loss and its gradient by loops over pairs and tokens."""
    margins = [
        sum(p - r for p, r, m in zip(*row, strict=True) if m) for row in zip(logprobs, ref, mask, strict=True)
    ]
    grad, loss = [[0.0] * len(row) for row in logprobs], 0.0
    for w, l in pairs:
        z = beta * (margins[w] - margins[l])
        loss += softplus(-z) / len(pairs)
        for episode, sign in ((w, -1), (l, 1)):
            for t, m in enumerate(mask[episode]):
                grad[episode][t] += sign * m * beta * logistic(-z) / len(pairs)
    return loss, grad


def expect_dpo(trajectory_dpo_loss, inputs, want, what, *beta):
    """Value and gradients against `want`; inputs (logprobs, ref_logprobs, mask, pairs) stay unchanged."""
    args = [x.clone() for x in inputs]
    x, y = (z.requires_grad_() for z in args[:2])
    loss = trajectory_dpo_loss(*args, *beta)
    expect_close(loss, want[0], f"the loss {what}")
    gx, gy = gradients(loss, x, y)
    expect_close(gx, want[1], f"the gradient {what}")
    expect_close(gy, torch.zeros_like(y), f"the gradient by ref_logprobs {what}")
    for before, after, name in zip(inputs, args, ("logprobs", "ref_logprobs", "mask", "pairs"), strict=True):
        expect_unchanged(before, after, name)


def test_trajectory_dpo_loss_by_hand(trajectory_dpo_loss):
    """Margins 3 and -2 with beta 0.5: -log sigmoid(2.5), over tokens the policy chose only."""
    loss = trajectory_dpo_loss(
        tensor(EP_LOGPROBS), tensor(EP_REF), tensor(EP_MASK), torch.tensor([[0, 1]]), 0.5
    )
    expect_close(loss, math.log1p(math.exp(-2.5)), "the loss of the pair (0, 1)")


def test_trajectory_dpo_loss_starts_at_log_two(trajectory_dpo_loss):
    """Policy and reference the same: log 2 for any pairs, and beta is 0.1 unless given."""
    same, pairs = tensor(EP_LOGPROBS), torch.tensor([[0, 1], [2, 1], [1, 0]])
    expect_close(
        trajectory_dpo_loss(same, same, tensor(EP_MASK), pairs), math.log(2), "the loss at the start"
    )
    loss = trajectory_dpo_loss(same, tensor(EP_REF), tensor(EP_MASK), torch.tensor([[0, 1]]))
    expect_close(loss, math.log1p(math.exp(-0.5)), "the loss of margins 3 and -2 without a beta")


def test_trajectory_dpo_loss_gradient(trajectory_dpo_loss):
    """One episode in three pairs, as winner and as loser: its gradients add up; the reference gets none."""
    for pairs in ([[0, 1]], [[1, 0]], [[0, 1], [2, 0], [0, 2], [2, 1]]):
        inputs = (tensor(EP_LOGPROBS), tensor(EP_REF), tensor(EP_MASK), torch.tensor(pairs))
        want = brute_dpo(EP_LOGPROBS, EP_REF, EP_MASK, pairs, 0.5)
        expect_dpo(trajectory_dpo_loss, inputs, want, f"for the pairs {pairs}", 0.5)


def test_trajectory_dpo_loss_with_anything_at_other_tokens(trajectory_dpo_loss):
    """NaN and infinity where the policy chose nothing change neither the loss nor the gradient."""
    pairs, mask = [[0, 1], [2, 1]], tensor(EP_MASK)
    want = brute_dpo(EP_LOGPROBS, EP_REF, EP_MASK, pairs, 0.5)
    for junk in ((NAN, NAN), (NAN, None), (None, NAN), (-INF, -INF), (INF, -INF), (-INF, None)):
        x, y = (
            values if j is None else values.masked_fill(mask == 0, j)
            for values, j in zip((tensor(EP_LOGPROBS), tensor(EP_REF)), junk, strict=True)
        )
        what = f"with (logprobs, ref_logprobs) {junk} at mask 0"
        expect_dpo(trajectory_dpo_loss, (x, y, mask, torch.tensor(pairs)), want, what, 0.5)


def test_trajectory_dpo_loss_of_hopeless_pairs(trajectory_dpo_loss):
    """A margin of -2000 costs 2000, not infinity, and has gradient; one of +2000 costs 0."""
    far, zeros, ones = [[-1000.0, -1000.0], [0.0, 0.0]], [[0.0, 0.0]] * 2, [[1, 1]] * 2
    for pairs in ([[0, 1]], [[1, 0]]):
        inputs = (tensor(far), tensor(zeros), tensor(ones), torch.tensor(pairs))
        want = brute_dpo(far, zeros, ones, pairs, 1.0)
        expect_dpo(trajectory_dpo_loss, inputs, want, f"for margins -2000 and 0, pairs {pairs}", 1.0)


def test_trajectory_dpo_loss_without_pairs(trajectory_dpo_loss):
    """No pairs: 0 with a graph, so that a training loop can call backward."""
    for n in (3, 0):
        x = tensor(EP_LOGPROBS)[:n].masked_fill(tensor(EP_MASK)[:n] == 0, NAN).requires_grad_()
        none = torch.zeros(0, 2, dtype=torch.long)
        loss = trajectory_dpo_loss(x, tensor(EP_REF)[:n], tensor(EP_MASK)[:n], none)
        expect_close(loss, 0.0, f"the loss of no pairs of {n} episodes")
        expect_close(gradients(loss, x)[0], torch.zeros(n, 4), f"the gradient for no pairs of {n} episodes")


def with_junk(rows, mask, rng):
    """NaN and infinity where mask is 0."""
    junk = [NAN, INF, -INF]
    pairs = [zip(*both, strict=True) for both in zip(rows, mask, strict=True)]
    return tensor([[x if m else rng.choice(junk) for x, m in row] for row in pairs])


def test_trajectory_dpo_loss_at_random(trajectory_dpo_loss):
    """Thirty random batches: 1 to 400 tokens, masks with holes, any junk in them, any pairs and beta."""
    rng = random.Random(3)
    for _ in range(30):
        n, length, beta = rng.choice([2, 3, 6]), rng.choice([1, 2, 9, 400]), rng.choice([0.02, 0.1, 1.0])
        lowest = -30.0 if length < 10 else -3.0
        logprobs, ref = (
            [[rng.choice([rng.uniform(-3, 0), lowest]) for _ in range(length)] for _ in range(n)]
            for _ in range(2)
        )
        mask = [[int(rng.random() < 0.5) for _ in range(length)] for _ in range(n)]
        pairs = [rng.sample(range(n), 2) for _ in range(rng.choice([1, 2, 7]))]
        x, y = with_junk(logprobs, mask, rng), with_junk(ref, mask, rng)
        want = brute_dpo(logprobs, ref, mask, pairs, beta)
        inputs = (x, y, tensor(mask), torch.tensor(pairs))
        expect_dpo(trajectory_dpo_loss, inputs, want, "of a random batch", beta)


# truncated_weights


def brute_weights(logprobs, behaviour, mask, cap, level):
    """One token at a time, with the standard library."""
    result = []
    for lp, mu, m in zip(logprobs, behaviour, mask, strict=True):
        ratios = [p - q for p, q, chosen in zip(lp, mu, m, strict=True) if chosen]
        row = []
        for p, q, chosen in zip(lp, mu, m, strict=True):
            log_ratio = math.fsum(ratios) if level == "sequence" else p - q
            weight = cap if chosen and log_ratio >= math.log(cap) else None
            row.append((math.exp(log_ratio) if weight is None else weight) if chosen else 0.0)
        result.append(row)
    return result


# Ratios 4, 1/2, (tool) 3, 1/8 and 1/4, 8, (tool) 1/9, (padding) 5.
RATIOS = [[4.0, 0.5, 3.0, 0.125], [0.25, 8.0, 1 / 9, 5.0]]
RATIO_MASK = [[1, 1, 0, 1], [1, 1, 0, 0]]


def ratio_inputs():
    behaviour = tensor([[-1.0, -2.0, -0.5, -3.0], [-0.25, -6.0, -2.0, -1.0]])
    return tensor(RATIOS).log() + behaviour, behaviour, tensor(RATIO_MASK)


def test_truncated_weights_of_tokens(truncated_weights):
    """ "token": the ratios 4, 1/2, 1/8 and 1/4, 8, cut off at 2.5; 0 where the policy chose nothing."""
    got = truncated_weights(*ratio_inputs(), 2.5, "token")
    expect_close(got, [[2.5, 0.5, 0.0, 0.125], [0.25, 2.5, 0.0, 0.0]], "the token weights with cap 2.5")


def test_truncated_weights_of_sequences(truncated_weights):
    """ "sequence": the products 1/4 and 2, over the policy's tokens; only the product is cut off."""
    got = truncated_weights(*ratio_inputs(), 2.5, "sequence")
    expect_close(got, [[0.25, 0.25, 0.0, 0.25], [2.0, 2.0, 0.0, 0.0]], "the sequence weights with cap 2.5")
    got = truncated_weights(*ratio_inputs(), 1.5, "sequence")
    expect_close(got, [[0.25, 0.25, 0.0, 0.25], [1.5, 1.5, 0.0, 0.0]], "the sequence weights with cap 1.5")


def test_truncated_weights_without_and_with_a_small_cap(truncated_weights):
    """cap may be infinite, and it may be below 1: then a ratio of 1 is cut off too."""
    same = tensor([[-1.0, -2.0]])
    for level in ("token", "sequence"):
        mask = torch.ones(1, 2, dtype=torch.float64)
        got = truncated_weights(same, same, mask, 0.125, level)
        expect_close(got, [[0.125, 0.125]], f"the {level} weights at ratio 1 with cap 1/8")
        for args in (ratio_inputs(), (same, same, mask)):
            want = brute_weights(*(x.tolist() for x in args), 1e9, level)
            got = truncated_weights(*args, INF, level)
            expect_close(got, want, f"the {level} weights with cap inf")


def test_truncated_weights_with_anything_at_other_tokens(truncated_weights):
    """NaN and infinity where the policy chose nothing do not reach a weight."""
    logprobs, behaviour, mask = ratio_inputs()
    for level in ("token", "sequence"):
        want = brute_weights(logprobs.tolist(), behaviour.tolist(), RATIO_MASK, 3.0, level)
        for junk in (NAN, INF, -INF, 50.0):
            for which in ("logprobs", "behaviour_logprobs", "both"):
                x = logprobs.masked_fill(mask == 0, junk) if which[0] != "b" or which == "both" else logprobs
                y = behaviour.masked_fill(mask == 0, junk) if which[0] == "b" else behaviour
                what = f"the {level} weights with {junk} at mask 0 of {which}"
                expect_close(truncated_weights(x, y, mask, 3.0, level), want, what)


def test_truncated_weights_of_extremes(truncated_weights):
    """Log-ratios of 2000 and -2000 in one episode, also in single precision: the cap, 0, or 1; no NaN."""
    for dtype in (torch.float64, torch.float32):
        low = -2000.0
        logprobs = torch.tensor([[0.0, low], [0.0, 0.0], [low, low], [-1.0, -51.5]], dtype=dtype)
        behaviour = torch.tensor([[low, 0.0], [low, low], [0.0, 0.0], [-51.0, -1.0]], dtype=dtype)
        mask, name = torch.ones(4, 2, dtype=dtype), str(dtype).removeprefix("torch.")
        got = truncated_weights(logprobs, behaviour, mask, 5.0, "token")
        expect_close(got, [[5.0, 0.0], [5.0, 5.0], [0.0, 0.0], [5.0, 0.0]], f"the token weights ({name})")
        got = truncated_weights(logprobs, behaviour, mask, 5.0, "sequence")
        want = [[1.0, 1.0], [5.0, 5.0], [0.0, 0.0], [math.exp(-0.5)] * 2]
        expect_close(got, want, f"the sequence weights ({name})")


def test_truncated_weights_beyond_all_numbers(truncated_weights):
    """A weight that overflows, with cap inf, next to a masked token: 0 at that token, NaN nowhere."""
    mask = tensor([[1, 1, 0], [1, 0, 0]])
    logprobs, behaviour = tensor([[0.0] * 3, [-1.0] * 3]), tensor([[-2000.0] * 3, [-1.0] * 3])
    for level in ("token", "sequence"):
        got = truncated_weights(logprobs, behaviour, mask, INF, level)
        expect_shape(got, (2, 3), f"the {level} weights")
        expect_close(got[:, 2], [0.0, 0.0], f"the {level} weights at mask 0, beside log-ratios of 2000")
        expect_close(got[1], [1.0, 0.0, 0.0], f"the {level} weights of the episode with ratio 1")


def test_truncated_weights_have_no_other_limit(truncated_weights):
    """Log-ratios that add up to 40 and to -40, cap inf: e^40 and e^-40, cut off by nothing."""
    change, zeros = tensor([[4.0] * 10, [-4.0] * 10]), torch.zeros(2, 10, dtype=torch.float64)
    for which, args in {"logprobs": (zeros, -change), "behaviour": (change - 4, zeros - 4)}.items():
        got = truncated_weights(*args, torch.ones_like(zeros), INF, "sequence")
        what = f"the logarithm of the sequence weights ({which} all equal)"
        expect_close(got.log(), [[40.0] * 10, [-40.0] * 10], what)


def test_truncated_weights_carry_no_gradient(truncated_weights):
    """The weights are numbers to the optimiser: no graph; the inputs stay as they are."""
    for level in ("token", "sequence"):
        args = [x.requires_grad_() for x in ratio_inputs()[:2]]
        got = truncated_weights(*args, ratio_inputs()[2], 2.5, level)
        expect_shape(got, (2, 4), f"the {level} weights")
        expect_true(torch.is_tensor(got), f"the {level} weights are no tensor")
        expect_true(not got.requires_grad, f"the {level} weights carry a gradient")
        for x, y, name in zip(args, ratio_inputs(), ("logprobs", "behaviour_logprobs"), strict=False):
            expect_unchanged(y, x, name)


def test_truncated_weights_of_empty_rows(truncated_weights):
    """An episode without policy tokens has weights 0; no episodes, no weights."""
    for level in ("token", "sequence"):
        logprobs, behaviour, _ = ratio_inputs()
        got = truncated_weights(logprobs, behaviour, torch.zeros(2, 4), 2.0, level)
        expect_close(got, torch.zeros(2, 4), f"the {level} weights of rows without policy tokens")
        got = truncated_weights(logprobs[:0], behaviour[:0], torch.zeros(0, 4), 2.0, level)
        expect_shape(got, (0, 4), f"the {level} weights of an empty batch")


def test_truncated_weights_rejects(truncated_weights):
    """Another level, or a cap of 0 or below: ValueError."""
    for level in ("turn", "", None, "Token"):
        call = partial(truncated_weights, *ratio_inputs(), 2.0, level)
        expect_raises(ValueError, call, f"level={level!r}")
    for cap, level in itertools.product((0.0, -1.0), ("token", "sequence")):
        call = partial(truncated_weights, *ratio_inputs(), cap, level)
        expect_raises(ValueError, call, f"cap={cap}, level={level!r}")


def random_off_policy(rng):
    """logprobs, behaviour_logprobs, mask: 1 to 400 tokens, holes, ratios near 1, to 10, or beyond exp."""
    n, length = rng.choice([1, 2, 5]), rng.choice([1, 2, 9, 400])
    behaviour = [[rng.choice([-0.5, -2.0, -30.0, -2000.0]) for _ in range(length)] for _ in range(n)]
    scale = rng.choice([0.01, 1.0, math.log(10), 900.0])
    logprobs = [[min(q + rng.uniform(-scale, scale), 0.0) for q in row] for row in behaviour]
    keep = rng.choice([0.0, 0.3, 0.7, 1.0])
    mask = [[float(rng.random() < keep) for _ in range(length)] for _ in range(n)]
    return logprobs, behaviour, mask


def test_truncated_weights_at_random(truncated_weights):
    """Sixty random batches against the same weights token by token."""
    rng = random.Random(4)
    for i in range(60):
        logprobs, behaviour, mask = random_off_policy(rng)
        cap, level = rng.choice([0.5, 1.0, 2.0, 100.0]), ("token", "sequence")[i % 2]
        args = (with_junk(logprobs, mask, rng), with_junk(behaviour, mask, rng), tensor(mask))
        want = brute_weights(logprobs, behaviour, mask, cap, level)
        expect_close(truncated_weights(*args, cap, level), want, f"random {level} weights")


# off_policy_loss


def brute_off_policy(logprobs, behaviour, advantages, mask, cap, level):
    """The loss and its gradient, token by token."""
    count = max(sum(map(sum, mask)), 1)
    weights = mask if level is None else brute_weights(logprobs, behaviour, mask, cap, level)
    grad = [
        [-w * a / count if m else 0.0 for w, m in zip(*row, strict=True)]
        for a, *row in zip(advantages, weights, mask, strict=True)
    ]
    loss = math.fsum(
        g * p
        for gs, ps, ms in zip(grad, logprobs, mask, strict=True)
        for g, p, m in zip(gs, ps, ms, strict=True)
        if m
    )
    return loss, grad


def expect_off_policy(off_policy_loss, inputs, want, what, *options, **more):
    args = [x.clone() for x in inputs]
    names = ("logprobs", "behaviour_logprobs", "advantages", "mask")
    leaves = [x.requires_grad_() for x in args[:3]]
    loss = off_policy_loss(*args, *options, **more)
    expect_close(loss, want[0], f"the loss {what}")
    found = gradients(loss, *leaves)
    expect_close(found[0], want[1], f"the gradient {what}")
    for g, name in zip(found[1:], names[1:3], strict=True):
        expect_close(g, torch.zeros_like(g), f"the gradient by {name} {what}")
    for before, after, name in zip(inputs, args, names, strict=True):
        expect_unchanged(before, after, name)


def off_policy_inputs():
    """The ratios of truncated_weights' graders, with advantages 3 and -0.5."""
    logprobs, behaviour, mask = ratio_inputs()
    return logprobs, behaviour, tensor([3.0, -0.5]), mask


def test_off_policy_loss_by_hand(off_policy_loss):
    """One token, probability 1/4 now and 1/6 then, advantage 3: weight 1.5, so -1.5 * 3 * log(1/4)."""
    inputs = (tensor([[0.25]]).log(), tensor([[1 / 6]]).log(), tensor([3.0]), tensor([[1.0]]))
    want = 1.5 * 3 * math.log(4)
    for level in ("token", "sequence"):
        expect_close(off_policy_loss(*inputs, level=level), want, f"the loss of one token, level {level!r}")
    expect_close(off_policy_loss(*inputs, level=None), 3 * math.log(4), "the loss of one token, level None")


def test_off_policy_loss_values_and_gradients(off_policy_loss):
    """At each level with cap 1.5: the mean over the 5 policy tokens; gradient through logprobs only."""
    inputs = off_policy_inputs()
    for level in ("token", "sequence", None):
        want = brute_off_policy(*(x.tolist() for x in inputs), 1.5, level)
        what = f"with cap 1.5, level {level!r}"
        expect_off_policy(off_policy_loss, inputs, want, what, 1.5, level)


def test_off_policy_loss_defaults(off_policy_loss):
    """Without options: whole-episode weights with cap 2."""
    logprobs, behaviour, advantages, mask = off_policy_inputs()
    inputs = (logprobs + 0.5, behaviour, advantages, mask)
    want = brute_off_policy(*(x.tolist() for x in inputs), 2.0, "sequence")
    expect_off_policy(off_policy_loss, inputs, want, "without options")
    want = brute_off_policy(*(x.tolist() for x in inputs), 2.0, "token")
    expect_off_policy(off_policy_loss, inputs, want, "with level 'token' only", level="token")


def test_off_policy_loss_keeps_gradient_at_the_cap(off_policy_loss):
    """A ratio of 10 with cap 2: the weight is 2, the gradient is minus 2 times the advantage, not 0."""
    for level in ("token", "sequence"):
        logprobs, behaviour = tensor([[0.5]]).log(), tensor([[0.05]]).log()
        want = -2 * 3 * math.log(0.5), [[-6.0]]
        inputs = (logprobs, behaviour, tensor([3.0]), tensor([[1.0]]))
        expect_off_policy(off_policy_loss, inputs, want, f"at ratio 10, level {level!r}", level=level)


def test_off_policy_loss_with_anything_at_other_tokens(off_policy_loss):
    """NaN and infinity where the policy chose nothing reach neither the loss nor the gradient."""
    logprobs, behaviour, advantages, mask = off_policy_inputs()
    for level, junk in itertools.product(("token", "sequence", None), (NAN, INF, -INF)):
        x, y = logprobs.masked_fill(mask == 0, junk), behaviour.masked_fill(mask == 0, junk)
        want = brute_off_policy(logprobs.tolist(), behaviour.tolist(), [3.0, -0.5], RATIO_MASK, 2.0, level)
        what = f"with {junk} at mask 0, level {level!r}"
        expect_off_policy(off_policy_loss, (x, y, advantages, mask), want, what, 2.0, level)


def test_off_policy_loss_of_nothing(off_policy_loss):
    """No policy token, or no episode: 0 with a graph, so that a training loop can call backward."""
    for level, n in itertools.product(("token", "sequence", None), (2, 0)):
        logprobs, behaviour, advantages, mask = (x[:n] for x in off_policy_inputs())
        logprobs = torch.full_like(logprobs, NAN)
        inputs, want = (logprobs, behaviour, advantages, mask * 0), (0.0, torch.zeros(n, 4))
        what = f"of {n} episodes without policy tokens, level {level!r}"
        expect_off_policy(off_policy_loss, inputs, want, what, 2.0, level)


def test_off_policy_loss_without_weights_needs_no_behaviour(off_policy_loss):
    """level None: all weights are 1, whatever behaviour_logprobs holds, NaN too."""
    logprobs, behaviour, advantages, mask = off_policy_inputs()
    want = brute_off_policy(logprobs.tolist(), behaviour.tolist(), [3.0, -0.5], RATIO_MASK, 2.0, None)
    inputs = (logprobs, torch.full_like(behaviour, NAN), advantages, mask)
    expect_off_policy(off_policy_loss, inputs, want, "with NaN as behaviour_logprobs, level None", 2.0, None)


def test_off_policy_loss_rejects(off_policy_loss):
    """Another level, the empty text too, or a cap of 0: ValueError."""
    expect_raises(ValueError, lambda: off_policy_loss(*off_policy_inputs(), 2.0, ""), "level=''")
    expect_raises(ValueError, lambda: off_policy_loss(*off_policy_inputs(), 2.0, "turn"), "level='turn'")
    expect_raises(ValueError, lambda: off_policy_loss(*off_policy_inputs(), 0.0, "token"), "cap=0")


def test_off_policy_loss_at_random(off_policy_loss):
    """Sixty random batches against loops, with log-probabilities down to -2000 and junk at mask 0."""
    rng = random.Random(5)
    for i in range(60):
        logprobs, behaviour, mask = random_off_policy(rng)
        advantages = [rng.choice([rng.gauss(0, 1), 0.0, 10.0]) for _ in mask]
        cap, level = rng.choice([0.5, 1.0, 2.0, 100.0]), ("token", "sequence", None)[i % 3]
        want = brute_off_policy(logprobs, behaviour, advantages, mask, cap, level)
        x, y = with_junk(logprobs, mask, rng), with_junk(behaviour, mask, rng)
        inputs = (x, y, tensor(advantages), tensor(mask))
        what = f"of a random batch, level {level!r}"
        expect_off_policy(off_policy_loss, inputs, want, what, cap, level)


# estimate_success


def test_estimate_success_by_hand(estimate_success):
    """A success seen with probability 1/2, a failure with 1/4, one unseen: weights 2 and 4, so 1/3."""
    got = estimate_success(
        np.array([1.0, 0.0, NAN]), np.array([True, True, False]), np.array([0.5, 0.25, 0.9])
    )
    expect_close(got, 1 / 3, "the estimate")
    expect_true(isinstance(got, float), f"a float is wanted, not a {type(got).__name__}")


def test_estimate_success_on_average(estimate_success):
    """Half succeed, complaints make failures visible 4 times as often: 1/2, where the mean says 1/5."""
    outcomes = np.array([1.0] * 50 + [0.0] * 50)
    observed = np.array([i % 5 == 0 for i in range(50)] + [i % 5 != 0 for i in range(50)])
    propensity = np.where(outcomes == 1, 0.2, 0.8)
    expect_close(
        estimate_success(outcomes, observed, propensity), 0.5, "the estimate from 10 of 50 and 40 of 50"
    )


def test_estimate_success_with_all_observed(estimate_success):
    """All seen for sure: the mean, also of outcomes that are no 0 or 1."""
    outcomes = np.array([0.25, 1.0, 0.0, 0.75, 1.0])
    got = estimate_success(outcomes, np.ones(5, dtype=bool), np.ones(5))
    expect_close(got, 0.6, "the estimate")


def test_estimate_success_ignores_the_unobserved(estimate_success):
    """NaN, infinity, a propensity of 0, 7 or NaN at an unobserved place change nothing."""
    for junk, p in itertools.product((NAN, INF, 1.0, 0.0), (0.0, -1.0, 7.0, NAN, 1.0)):
        outcomes, observed = np.array([junk, 1.0, junk, 0.0]), np.array([False, True, False, True])
        propensity = np.array([p, 0.25, p, 0.5])
        got = estimate_success(outcomes, observed, propensity)
        expect_close(got, 2 / 3, f"the estimate with outcome {junk}, propensity {p} at unobserved places")
        expect_unchanged(np.array([junk, 1.0, junk, 0.0]), outcomes, "outcomes")
        expect_unchanged(np.array([p, 0.25, p, 0.5]), propensity, "propensity")
        expect_unchanged(np.array([False, True, False, True]), observed, "observed")


def test_estimate_success_clips_the_weight(estimate_success):
    """clip 4: a propensity of 1/100 weighs 4, not 100; one of 1/2 still weighs 2."""
    args = (np.array([1.0, 0.0, 0.0]), np.array([True, True, True]), np.array([0.01, 0.5, 0.5]))
    expect_close(estimate_success(*args, clip=4.0), 0.5, "the estimate with clip 4")
    expect_close(estimate_success(*args, clip=1.0), 1 / 3, "the estimate with clip 1")
    expect_close(estimate_success(*args), 100 / 104, "the estimate without clip")


def test_estimate_success_of_nothing(estimate_success):
    """Nothing observed: NaN, not 0 and no error."""
    for n in (0, 1, 3):
        got = estimate_success(np.ones(n), np.zeros(n, dtype=bool), np.full(n, 0.5))
        expect_close(got, NAN, f"the estimate when none of {n} is observed")


def test_estimate_success_rejects_what_is_no_probability(estimate_success):
    """A propensity of 0, below 0, above 1 or NaN at an observed place: ValueError, with clip too."""
    for p, clip in itertools.product((0.0, -0.5, 1.5, NAN), (None, 3.0)):
        args = (np.array([1.0, 0.0]), np.array([True, True]), np.array([0.5, p]), clip)
        call = partial(estimate_success, *args)
        expect_raises(ValueError, call, f"propensity {p}, clip {clip}")


def test_estimate_success_keeps_an_observed_nan(estimate_success):
    """An outcome that is marked as observed but is NaN: the estimate is NaN, not a number that hides it."""
    outcomes, observed = np.array([1.0, NAN, 0.0, 1.0]), np.array([True, True, True, False])
    for clip in (None, 2.0):
        got = estimate_success(outcomes, observed, np.array([0.5, 0.25, 0.25, 0.5]), clip)
        expect_close(got, NAN, f"the estimate when an observed outcome is NaN, clip {clip}")


def test_estimate_success_at_random(estimate_success):
    """Sixty random logs against a loop over the episodes."""
    rng = random.Random(6)
    for i in range(60):
        n, clip = rng.choice([1, 2, 30, 500]), rng.choice([None, 1.0, 2.5, 50.0])
        observed = [rng.random() < 0.6 for _ in range(n)]
        outcomes = [rng.choice([0.0, 1.0, 0.5]) if o else NAN for o in observed]
        propensity = [rng.choice([1.0, 0.01, rng.uniform(0.05, 1)]) if o else 0.0 for o in observed]
        top = bottom = 0.0
        for y, o, p in zip(outcomes, observed, propensity, strict=True):
            if o:
                w = 1 / p if clip is None else min(1 / p, clip)
                top, bottom = top + w * y, bottom + w
        want = top / bottom if bottom else NAN
        got = estimate_success(np.array(outcomes), np.array(observed), np.array(propensity), clip)
        expect_close(got, want, f"the estimate of random log {i}")


# admit


def brute_admit(old, new, margin, confidence):
    """The lower end of the interval, by the standard library."""
    d = [b - a for a, b in zip(old, new, strict=True)]
    mean = math.fsum(d) / len(d)
    s = math.sqrt(math.fsum((x - mean) ** 2 for x in d) / (len(d) - 1))
    return mean - NormalDist().inv_cdf(confidence) * s / math.sqrt(len(d))


def expect_admit(admit, old, new, margin, wanted, what, *confidence):
    got = admit(old, new, margin, *confidence)
    expect_true(isinstance(got, bool), f"{what}: a plain bool is wanted, not a {type(got).__name__}")
    expect_equal(got, wanted, what)


# 100 questions: the new policy gains 12 and loses 6. Mean of d 0.06, s 0.4221: lower end -0.00943.
OLD, NEW = [1] * 6 + [0] * 12 + [1] * 50 + [0] * 32, [0] * 6 + [1] * 12 + [1] * 50 + [0] * 32


def test_admit_looks_at_the_lower_end(admit):
    """12 gained, 6 lost of 100: lower end -0.0094. Margin 0.01 admits, 0.009 does not."""
    expect_admit(admit, OLD, NEW, 0.01, True, "12 gained, 6 lost of 100, margin 0.01")
    expect_admit(admit, OLD, NEW, 0.009, False, "12 gained, 6 lost of 100, margin 0.009")
    expect_admit(admit, NEW, OLD, 0.01, False, "6 gained, 12 lost of 100, margin 0.01")
    expect_admit(admit, NEW, OLD, 0.131, True, "6 gained, 12 lost of 100, margin 0.131")


def test_admit_refuses_a_worse_policy(admit):
    """6 gained, 12 lost of 100, mean -0.06: worse by more than the margin 0.05, though not provably so."""
    expect_admit(admit, NEW, OLD, 0.05, False, "6 gained, 12 lost of 100, margin 0.05")


def test_admit_uses_the_confidence(admit):
    """At 80% the lower end of the same outcomes is 0.0245: admitted without a margin; at 99% -0.0382."""
    expect_admit(admit, OLD, NEW, 0.0, True, "12 gained, 6 lost of 100, margin 0, confidence 0.8", 0.8)
    expect_admit(admit, OLD, NEW, 0.038, False, "the same, margin 0.038, confidence 0.99", 0.99)
    expect_admit(admit, OLD, NEW, 0.0385, True, "the same, margin 0.0385, confidence 0.99", 0.99)
    expect_admit(admit, OLD, NEW, 0.0, True, "the same, margin 0, confidence 0.5", 0.5)
    expect_admit(admit, NEW, OLD, 0.03, True, "6 gained, 12 lost, margin 0.03, confidence 0.2", 0.2)
    expect_admit(admit, NEW, OLD, 0.02, False, "6 gained, 12 lost, margin 0.02, confidence 0.2", 0.2)


def test_admit_takes_any_numbers(admit):
    """Outcomes may be bool or unsigned, in lists and arrays: new - old is -1 where a success was lost."""
    for kind in (bool, np.uint8, np.int64, np.float32):
        old, new = np.array(OLD, dtype=kind), np.array(NEW, dtype=kind)
        for a, b, name in ((old, new, "arrays"), (old.tolist(), new.tolist(), "lists")):
            what = f"{name} of {kind.__name__}"
            expect_admit(admit, a, b, 0.01, True, f"12 gained, 6 lost of 100, margin 0.01, {what}")
            expect_admit(admit, b, a, 0.05, False, f"6 gained, 12 lost of 100, margin 0.05, {what}")


def test_admit_pairs_the_questions(admit):
    """Half solved by both, one more by the new policy: pairs tell it, two separate means would not."""
    old, new = [1.0] * 30 + [0.0] * 30, [1.0] * 31 + [0.0] * 29
    expect_admit(admit, old, new, 0.02, True, "1 gained, 0 lost of 60, margin 0.02")
    mixed = new[30:] + new[:30]
    expect_admit(admit, old, mixed, 0.02, False, "the same outcomes on other questions, margin 0.02")


def test_admit_at_the_edge(admit):
    """Equal policies are admitted with margin 0; all worse by exactly the margin is still accepted."""
    expect_admit(admit, [1.0, 0.0, 1.0], [1.0, 0.0, 1.0], 0.0, True, "the same outcomes, margin 0")
    expect_admit(admit, [1.0, 0.5], [0.75, 0.25], 0.25, True, "all worse by 0.25, margin 0.25")
    expect_admit(admit, [1.0, 0.5], [0.75, 0.25], 0.2, False, "all worse by 0.25, margin 0.2")


def test_admit_rejects(admit):
    """Fewer than 2 questions, different lengths, a negative margin, a missing outcome: ValueError."""
    for old, new, margin in (
        ([1.0], [1.0], 0.1),
        ([], [], 0.1),
        ([1.0, 0.0, 1.0], [1.0, 0.0], 0.1),
        ([1.0], [1.0, 1.0, 1.0], 0.1),
        ([1.0, 0.0, 1.0], [1.0], 0.1),
        ([1.0, 0.0], [1.0, 1.0], -0.01),
        ([1.0, NAN, 0.0], [1.0, 1.0, 1.0], 0.9),
        ([1.0, 1.0, 0.0], [1.0, NAN, 1.0], 0.9),
    ):
        call = partial(admit, old, new, margin)
        expect_raises(ValueError, call, f"old {old}, new {new}, margin {margin}")


def test_admit_at_random(admit):
    """Two hundred random comparisons, of lists and of arrays, against the standard library."""
    rng = random.Random(7)
    for i in range(200):
        n, levels = rng.choice([2, 3, 10, 400]), rng.choice([[0.0, 1.0], [0.0, 0.3, 0.7, 1.0]])
        old = [rng.choice(levels) for _ in range(n)]
        new = [x if rng.random() < 0.7 else rng.choice(levels) for x in old]
        confidence = rng.choice([0.95, 0.8, 0.99])
        lower = brute_admit(old, new, 0.0, confidence)
        margin = max(0.0, -lower + rng.choice([-0.02, -1e-4, 1e-4, 0.02]))
        if abs(lower + margin) < 1e-9:
            continue
        args = (old, new) if i % 2 else (np.array(old), np.array(new))
        expect_admit(admit, *args, margin, lower >= -margin, f"random comparison {i}", confidence)
        if not i % 2:
            expect_unchanged(np.array(old), args[0], "old_outcomes")
            expect_unchanged(np.array(new), args[1], "new_outcomes")


# flywheel


def start():
    """A policy with its history inside a nested list, so that a shallow copy would share it."""
    return {"weights": {"seen": []}}


def seen(policy):
    return policy["weights"]["seen"]


class World:
    """Fakes that write down what they were given; candidates are the copy, trained in place."""

    def __init__(self, verdicts):
        self.verdicts, self.calls, self.given = verdicts, [], []

    def serve(self, policy, r):
        self.calls.append(("serve", r, list(seen(policy))))
        self.serving = policy
        return f"log {r} of {len(seen(policy))}"

    def train(self, policy, log, r):
        self.calls.append(("train", r, list(seen(policy)), log))
        self.given.append(policy is self.serving)
        seen(policy).append(r)
        return policy

    def gate(self, old, new, r):
        self.calls.append(("gate", r, list(seen(old)), list(seen(new))))
        return self.verdicts[r]


def play(verdicts):
    """What World's calls, the final policy and the rounds should be, by the rules."""
    policy, calls, rounds, version = [], [], [], 0
    for r, verdict in enumerate(verdicts):
        calls.append(("serve", r, list(policy)))
        calls.append(("train", r, list(policy), f"log {r} of {len(policy)}"))
        calls.append(("gate", r, list(policy), [*policy, r]))
        rounds.append((r, version, verdict))
        policy, version = ([*policy, r], version + 1) if verdict else (policy, version)
    return calls, policy, rounds


def expect_result(got, policy, rounds, what):
    expect_true(isinstance(got, tuple) and len(got) == 2, f"{what}: (policy, history) is wanted")
    expect_true(got[0] is not None, f"{what}: the policy is None")
    expect_equal(seen(got[0]), policy, f"{what}: the rounds that the policy was trained in")
    for entry in got[1]:
        for name in ("round", "served_by", "admitted"):
            expect_true(hasattr(entry, name), f"{what}: an entry of the history has no field {name}")
    found = [(e.round, e.served_by, e.admitted) for e in got[1]]
    expect_equal(found, rounds, f"{what}: (round, served_by, admitted)")


def test_flywheel_by_hand(flywheel):
    """Admitted, rejected, admitted: rounds 0 and 1 leave version 1 serving, the end is trained in 0 and 2."""
    world, policy = World([True, False, True]), start()
    got = flywheel(policy, world.serve, world.train, world.gate, 3)
    expect_result(got, [0, 2], [(0, 0, True), (1, 1, False), (2, 1, True)], "yes, no, yes")


def test_flywheel_serves_what_was_admitted(flywheel):
    """The log of round r comes from the policy that serves in r, and that round's training gets it."""
    world = World([True, True, False, True])
    flywheel(start(), world.serve, world.train, world.gate, 4)
    wanted = play([True, True, False, True])[0]
    for kind in ("serve", "train"):
        found = [c for c in world.calls if c[0] == kind]
        expect_equal(found, [c for c in wanted if c[0] == kind], f"the calls of {kind}")


def test_flywheel_forgets_a_rejected_candidate(flywheel):
    """Nothing is ever admitted: every round starts from the first policy, and that one comes back."""
    world, policy = World([False] * 3), start()
    got = flywheel(policy, world.serve, world.train, world.gate, 3)
    expect_result(got, [], [(0, 0, False), (1, 0, False), (2, 0, False)], "no, no, no")
    expect_equal(world.calls, play([False] * 3)[0], "the calls when nothing is admitted")


def test_flywheel_trains_a_copy(flywheel):
    """train may change what it is given: the policy that serves, and the caller's, stay as they were."""
    for verdicts in ([True, True], [False, False]):
        world, policy = World(verdicts), start()
        flywheel(policy, world.serve, world.train, world.gate, 2)
        expect_equal(world.given, [False, False], f"train got the very policy that serves, {verdicts}")
        expect_equal(policy, start(), f"the caller's policy after {verdicts}")


def test_flywheel_takes_what_train_returns(flywheel):
    """The candidate may be a new object, and what train did to its copy then counts for nothing."""
    seen_by_gate = []

    def train(policy, log, r):
        candidate = {"weights": {"seen": [*seen(policy), log]}}
        seen(policy).append("scratch")
        return candidate

    def gate(old, new, r):
        seen_by_gate.append((list(seen(old)), list(seen(new))))
        return r != 1

    got = flywheel(start(), lambda policy, r: 10 * r + len(seen(policy)), train, gate, 3)
    expect_equal(seen_by_gate, [([], [0]), ([0], [0, 11]), ([0], [0, 21])], "what gate saw: old, new")
    expect_result(got, [0, 21], [(0, 0, True), (1, 1, False), (2, 1, True)], "new candidates")


def test_flywheel_shows_the_gate_old_and_new(flywheel):
    """gate is asked once a round, after training: the policy that serves first, then the candidate."""
    world = World([True, False, False, True])
    flywheel(start(), world.serve, world.train, world.gate, 4)
    expect_equal(world.calls, play([True, False, False, True])[0], "all calls")


def test_flywheel_takes_any_candidate(flywheel):
    """A candidate that is 0, or that training left as it was, is a candidate all the same."""
    steps = [-1, 0, -1, 4]
    got, history = flywheel(2, lambda p, r: steps[r], lambda p, log, r: p + log, lambda *given: True, 4)
    expect_equal(got, 4, "the policy 2 after steps of -1, 0, -1 and 4")
    expect_equal([e.served_by for e in history], [0, 1, 2, 3], "served_by in four admitted rounds")


def test_flywheel_turns_arrays(flywheel):
    """A numpy array is a policy too: candidates are not compared, not even with None, by ==."""
    policy, yes = np.zeros(3), [True, False, True]
    got, history = flywheel(policy, lambda p, r: r + 1, lambda p, log, r: p + log, lambda p, c, r: yes[r], 3)
    expect_close(got, [4.0] * 3, "the array of zeros after 1, a refused 2, and 3")
    expect_close(policy, [0.0] * 3, "the caller's array")
    expect_equal([e.served_by for e in history], [0, 1, 1], "served_by with arrays")


def test_flywheel_of_no_rounds(flywheel):
    """rounds=0: the policy as it is, an empty history, no call."""
    world = World([])
    expect_result(flywheel(start(), world.serve, world.train, world.gate, 0), [], [], "no rounds")
    expect_equal(world.calls, [], "the calls")


def test_flywheel_says_when_train_returns_nothing(flywheel):
    """train returned None: ValueError, before the gate is asked."""
    world, policy = World([True]), start()
    call = partial(flywheel, policy, world.serve, lambda copy, log, r: None, world.gate, 1)
    expect_raises(ValueError, call, "train returns None")
    expect_equal([c[0] for c in world.calls], ["serve"], "the calls when train returns None")


def test_flywheel_lets_errors_through(flywheel):
    """An error of serve, train or gate reaches the caller, whose policy is unchanged."""
    for broken in ("serve", "train", "gate"):
        world, policy = World([True, True]), start()
        parts = {name: getattr(world, name) for name in ("serve", "train", "gate")}

        def fails(*arguments, works=parts[broken], name=broken):
            if arguments[-1] == 1:
                raise LookupError(f"{name} broke")
            return works(*arguments)

        parts[broken] = fails
        error = what_it_raises(partial(flywheel, policy, **parts, rounds=2))
        expect_equal(type(error).__name__, "LookupError", f"what came out when {broken} broke in round 1")
        expect_equal(policy, start(), f"the caller's policy after {broken} broke")


def test_flywheel_with_a_network(flywheel):
    """A torch module is a policy too: its weights move only where the gate said yes."""
    policy = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(policy.weight, 1.0)

    def train(model, log, r):
        with torch.no_grad():
            model.weight.mul_(10.0).add_(log)
        return model

    def gate(old, new, r):
        return new.weight.item() > old.weight.item()

    changes = [2.0, -500.0, 3.0]
    got, history = flywheel(policy, lambda p, r: changes[r], train, gate, 3)
    expect_close(got.weight, [[123.0]], "the weight after 10 * 1 + 2, a refused step, and 10 * 12 + 3")
    expect_close(policy.weight, [[1.0]], "the weight of the caller's network")
    expect_equal([e.admitted for e in history], [True, False, True], "admitted")


def test_flywheel_at_random(flywheel):
    """Forty random series of verdicts, up to 12 rounds, against the rules."""
    rng = random.Random(8)
    for _ in range(40):
        verdicts = [rng.random() < 0.5 for _ in range(rng.randrange(13))]
        world, policy = World(verdicts), start()
        got = flywheel(policy, world.serve, world.train, world.gate, len(verdicts))
        calls, final, rounds = play(verdicts)
        expect_result(got, final, rounds, f"verdicts {verdicts}")
        expect_equal(world.calls, calls, f"the calls for verdicts {verdicts}")
        expect_equal(policy, start(), f"the caller's policy after {verdicts}")
