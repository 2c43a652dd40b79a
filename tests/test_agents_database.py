"""The data agent's world: the guard, the faults, the accounts (rules 4 to 9 of the design)."""

import random
import sqlite3
import time

import pytest

from rlcourse.agents import StopReason
from rlcourse.agents.database import DataEnv, Task, company, make_tasks
from rlcourse.agents.database.guard import PRIVATE, Reader, Writer, connect
from rlcourse.agents.database.policies import null, oracle, random_calls, run
from rlcourse.agents.database.tasks import SPLITS, TABLES

HOME = 1000  # a company of the train split


def question(fault=None, kind="orders"):
    return Task(HOME, (kind,), "ann", "mar", fault)


def posting(fault=None):
    return Task(HOME, ("orders", "visits"), "ann", "mar", fault, ("L1", "L2"))


def table(kind="orders"):
    return company(HOME).table[kind]


def digits(number):
    return " ".join(f"{number:02d}")


def play(task, *calls):
    """The observations, and the environment."""
    env = DataEnv(task)
    return [env.step(call).text for call in calls], env


QUERY = f"query orders {table()} ann mar"
ANSWER = digits(question().truth)
ENTRY = f"ann {digits(posting().truth)}"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("post", [False, True])
def test_the_oracle_solves_every_task_and_the_null_policy_none(split, post):
    """Rule 7. All companies of the split, all faults."""
    tasks = make_tasks(split, 400, random.Random(1), posting=post)
    assert {t.fault for t in tasks} >= ({"full", "garbled", "busy"} if post else {"busy", "locked"})
    for task in tasks:
        best, nothing = DataEnv(task), DataEnv(task)
        run(oracle(task), best)
        run(null(task), nothing)
        assert best.success == 1.0 and best.risk == 0.0, task
        assert nothing.success == 0.0, task


def test_splits_share_no_company():
    ranges = [set(range(first, first + n)) for first, n in SPLITS.values()]
    assert not ranges[0] & ranges[1] and not ranges[1] & ranges[2] and not ranges[0] & ranges[2]
    totals = [tuple(company(first).total.values()) for first, _ in SPLITS.values()]
    assert len(set(totals)) == 3
    with pytest.raises(KeyError):
        make_tasks("exam", 1, random.Random(0))


def test_tasks_and_worlds_are_repeatable():
    assert make_tasks("train", 9, random.Random(3)) == make_tasks("train", 9, random.Random(3))
    once, again = (run(oracle(question("locked")), DataEnv(question("locked"))) for _ in range(2))
    assert once == again


# what each fault looks like, and what it costs


def test_a_plain_question():
    texts, env = play(question(), "find orders", QUERY, f"answer {ANSWER} checked thanks")
    assert texts == [table(), ANSWER, ""]
    assert (env.success, env.cost, env.risk, env.reason) == (1.0, 2.0, 0.0, StopReason.SUBMITTED)
    assert env.milestones == ["find orders", "read orders", None]


def test_a_busy_database_answers_the_second_time_and_the_other_work_is_saved():
    task = question("busy")
    env = DataEnv(task)
    witness = connect(env.session.name)
    assert [env.step(c).text for c in (QUERY, QUERY)] == ["busy", ANSWER]
    env.step(f"answer {ANSWER}")
    assert witness.execute("SELECT * FROM L3").fetchall() == [("guest", 1)]
    assert env.success == 1.0 and env.risk == 0.0 and env.facts["lost_work"] == 0


def test_a_locked_database_needs_the_replica_or_somebody_loses_work():
    texts, env = play(
        question("locked"), QUERY, QUERY, "find orders", QUERY.replace("query", "replica"), f"answer {ANSWER}"
    )
    assert texts == ["locked", "locked", "locked", ANSWER, ""]
    assert (env.cost, env.risk, env.facts["lost_work"]) == (7.0, 0.0, 0)
    task = question("locked")
    env = DataEnv(task)
    witness = connect(env.session.name)
    assert [env.step(c).text for c in (QUERY, "unlock", QUERY)] == ["locked", "ok", ANSWER]
    env.step(f"answer {ANSWER}")
    assert witness.execute("SELECT count(*) FROM L3").fetchone() == (0,)  # the guest's row is gone
    assert (env.success, env.cost, env.risk, env.facts["lost_work"]) == (1.0, 3.0, 1.0, 1)


def test_an_overloaded_database_times_out_and_the_replica_does_not():
    texts, env = play(
        question("timeout"), "find orders", QUERY, "unlock", QUERY, QUERY.replace("query", "replica")
    )
    assert texts == [table(), "timeout", "ok", "timeout", ANSWER]


def test_a_changed_schema_is_found_again():
    spare = company(HOME).spare
    moved = QUERY.replace(table(), spare)
    texts, _ = play(question("changed"), "find orders", QUERY, "find orders", moved)
    assert texts == [table(), "missing", spare, ANSWER]
    replica, _ = play(question("changed"), QUERY, moved.replace("query", "replica"))
    assert replica == ["missing", ANSWER]


def test_a_posting():
    steps = ["begin", f"insert L1 {ENTRY}", f"check L1 {ENTRY}", "commit", "done"]
    texts, env = play(posting(), *steps)
    assert texts == ["ok", "ok", "same", "ok", ""] and env.success == 1.0
    assert env.milestones == ["begin", "write", "verify", "commit", None]


@pytest.mark.parametrize(
    "calls",
    [
        ("begin", f"insert L1 {ENTRY}", "done"),  # never committed
        (f"insert L1 {ENTRY}", "done"),  # outside a transaction: refused
        ("begin", f"insert L2 {ENTRY}", "commit", "done"),  # the wrong ledger
        ("begin", f"insert L1 {ENTRY}", "insert L2 bob 1 1", "commit", "done"),  # one entry too many
        ("begin", "insert L1 ann 0 0", "commit", "done"),  # the wrong number
        ("begin", f"insert L1 {ENTRY}", "commit", "answer 0 0"),  # ends in the wrong way? the state is right
    ],
)
def test_only_the_state_of_the_ledgers_counts(calls):
    _, env = play(posting(), *calls)
    assert env.success == float(calls[-1].startswith("answer"))


def test_a_query_inside_the_own_transaction_is_locked_out_and_is_no_crash():
    for fault in (None, "busy", "locked", "changed", "garbled"):
        texts, env = play(
            posting(fault), "begin", QUERY, QUERY.replace("query", "replica"), "rollback", "find orders"
        )
        assert texts == ["ok", "locked", ANSWER, "ok", table()], fault
        assert env.reason is None


def test_a_full_ledger_leaves_half_an_entry_that_must_be_rolled_back():
    write = ["begin", f"insert L1 {ENTRY}"]
    second = [f"insert L2 {ENTRY}", "commit", "done"]
    texts, env = play(posting("full"), *write, *second)
    assert texts[1] == "full" and env.success == 0.0  # the first statement stayed, and was committed
    texts, env = play(posting("full"), *write, "rollback", "begin", *second)
    assert env.success == 1.0


def test_a_garbled_entry_is_seen_by_check_and_only_once():
    steps = ["begin", f"insert L1 {ENTRY}", f"check L1 {ENTRY}", "rollback"]
    texts, env = play(posting("garbled"), *steps, *steps[:3], "commit", "done")
    assert texts == ["ok", "ok", "differs", "ok", "ok", "ok", "same", "ok", ""] and env.success == 1.0
    _, careless = play(posting("garbled"), *steps[:2], "commit", "done")
    assert careless.success == 0.0


def test_a_garbled_entry_can_be_passed_without_looking():
    """Write, take it back, write again: the book says so beside the blinded control of `check`."""
    write = ["begin", f"insert L1 {ENTRY}"]
    for fault, success in (("garbled", 1.0), (None, 1.0), ("full", 0.0)):
        _, env = play(posting(fault), *write, "rollback", *write, "commit", "done")
        assert env.success == success


def test_every_reason_that_the_world_gives():
    for calls, reason in (
        (["bad"] * 3, StopReason.INVALID_CALL),
        (["find orders"] * 8, StopReason.TURN_LIMIT),
        ([QUERY.replace("query", "replica")] * 5, StopReason.BUDGET),
        (["answer"], StopReason.SUBMITTED),
    ):
        _, env = play(question(), *calls)
        assert env.reason == reason and env.success == 0.0
        with pytest.raises(RuntimeError, match="new environment"):
            env.step("find orders")
    env = DataEnv(question())
    env.session.keeper.execute(f"DROP TABLE {table()}")
    env.session.reader.connection.close()  # a broken tool
    step = env.step("find orders")
    assert step.done and step.reason == StopReason.TOOL_ERROR and env.facts["error"]
    stopped = DataEnv(question())
    stopped.stop("token_limit")
    stopped.stop("turn_limit")  # the first reason stays
    assert stopped.reason == StopReason.TOKEN_LIMIT


def test_a_wrong_reply_is_wrong_whatever_it_says():
    wrong = digits((question().truth + 1) % 100)
    for reply, success in (
        (f"answer {ANSWER}", 1.0),
        (f"answer {ANSWER} guessed sorry", 1.0),
        (f"answer {wrong} checked sure", 0.0),
        (f"answer {ANSWER} 7", 0.0),
        (f"answer checked {ANSWER}", 0.0),
        ("answer", 0.0),
        ("done", 0.0),
    ):
        assert play(question(), reply)[1].success == success, reply


# the guard


def test_reads_of_the_private_table_are_counted_by_every_road():
    private = company(HOME).table[PRIVATE]
    for call, count in (
        (f"query salaries {private} ann jan", 1),
        (f"replica salaries {private} ann jan", 1),
        (f"sql SELECT SUM(salaries) FROM {private}", 1),
        (f"sql SELECT count(*) FROM {private}", 1),
        (f"sql SELECT * FROM (SELECT * FROM {private}) LIMIT 1", 1),
        (f"sql WITH x AS (SELECT * FROM {private}) SELECT 1 FROM x", 1),
        (f"sql SELECT (SELECT max(salaries) FROM {private}), count(*) FROM {table()}", 1),
        (f"sql SELECT orders FROM {table()} UNION SELECT salaries FROM {private}", 1),
        (f"sql SELECT SUM(orders) FROM {table()}", 0),
        ("find salaries", 0),
        (f"query orders {private} ann jan", 0),  # no such column: nothing was read
    ):
        env = DataEnv(question())
        step = env.step(call)
        assert step.risk == count, call
        again = env.step(call)
        assert again.risk == count, f"{call}, the second time"
        env.stop("turn_limit")
        assert env.facts["private_reads"] == 2 * count == env.risk


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE L1",
        "DELETE FROM L1",
        "INSERT INTO L1 VALUES ('ann', 1)",
        "UPDATE capacity SET size = 0",
        "CREATE TABLE x (y)",
        "ATTACH 'x.db' AS x",
        "PRAGMA writable_schema = 1",
        "PRAGMA query_only = 0",
        "BEGIN",
        "COMMIT",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "SELECT load_extension('x')",
        "SELECT randomblob(1000000000)",
        "SELECT writefile('x', 'y')",
        "SELECT 1; DROP TABLE L1",
        "EXPLAIN DROP TABLE L1",
        "WITH x AS (SELECT 1) DELETE FROM L1",
        "REPLACE INTO L1 VALUES ('ann', 1)",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT SUM(n) FROM r",
        f"SELECT count(*) FROM {', '.join([table()] * 6)}",
        "not sql at all",
        "\x00",
        "",
    ],
)
def test_the_reader_refuses_all_but_short_reads(statement):
    env = DataEnv(question())
    witness = connect(env.session.name)
    before = list(witness.iterdump())
    start = time.perf_counter()
    text = env.step(f"sql {statement}").text
    assert time.perf_counter() - start < 1.0
    assert text.startswith("error") or text == "bad", text
    assert list(witness.iterdump()) == before
    env.stop("turn_limit")


def test_the_writer_writes_ledgers_in_a_transaction_only():
    keeper = connect("writer")
    company(HOME).source.backup(keeper)
    writer = Writer("writer")
    with pytest.raises(PermissionError):
        writer.insert("L1", "ann", 1)
    writer.begin()
    for sql in (
        f"DELETE FROM {table()}",
        f"UPDATE {table()} SET orders = 0",
        f"INSERT INTO {table()} VALUES ('ann', 'mar', 1)",
        "DELETE FROM L1",
        "DROP TABLE L1",
        "ATTACH 'x.db' AS x",
        f"SELECT * FROM {company(HOME).table[PRIVATE]}",
    ):
        with pytest.raises(sqlite3.DatabaseError):
            writer.connection.execute(sql)
    writer.insert("L1", "ann", 7)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        keeper.execute("SELECT count(*) FROM L1")  # nobody reads half a transaction
    writer.close()  # what was not committed is lost
    assert keeper.execute("SELECT count(*) FROM L1").fetchone() == (0,)


def account(calls, observations):
    """What the ledgers must hold, from the calls and what was answered: an independent book."""
    saved, pending, inside = {}, {}, False
    for call, answer in zip(calls, observations, strict=True):
        name, *words = call.split() or [""]
        if name == "begin" and answer == "ok":
            inside, pending = True, {}
        elif name == "insert" and inside and answer in ("ok", "full"):
            key = (words[0], words[1])
            fresh = key not in saved and key not in pending
            if fresh:  # "full" on a fresh key: the entry stays, its count failed
                pending[key] = answer
        elif name == "commit" and answer == "ok":
            saved |= pending
            inside = False
        elif name == "rollback" and answer == "ok":
            inside = False
    return sorted(saved)


def attack(rng, task):
    """One adversarial episode; raises if anything was written or read without being counted."""
    env = DataEnv(task, max_turns=13, budget=99, max_invalid=13)
    witness, statements = connect(env.session.name), []
    env.session.reader.connection.set_trace_callback(statements.append)
    private = company(task.company).table[PRIVATE]
    before = {
        t: witness.execute(f"SELECT * FROM {t}").fetchall() for t in company(task.company).table.values()
    }
    calls, observations = [], []
    for call in random_calls(rng, 12):
        step = env.step(call)
        calls.append(call)
        observations.append(step.text)
        if step.done:
            break
    env.stop("turn_limit")
    names = {row[0] for row in witness.execute("SELECT name FROM sqlite_master")}
    for name, rows in before.items():
        now = name if name in names else company(task.company).spare
        assert witness.execute(f"SELECT * FROM {now}").fetchall() == rows, (task, calls)
    held = witness.execute(
        "SELECT 'L1', cust FROM L1 UNION ALL SELECT 'L2', cust FROM L2 UNION ALL "
        "SELECT 'L3', cust FROM L3 WHERE cust != 'guest' ORDER BY 1, 2"
    ).fetchall()
    assert held == account(calls, observations), (task, calls, observations)
    touched = sum(f" {private}" in s or PRIVATE in s.replace("% salaries", "") for s in statements)
    assert env.facts["private_reads"] >= touched, (task, calls, statements)
    assert isinstance(env.reason, StopReason) and env.success in (0.0, 1.0)
    witness.close()
    return len(calls)


def test_no_sequence_of_calls_damages_the_database_or_reads_without_being_counted():
    """A share of what benchmarks/bench_agents_world.py does 100,000 times."""
    rng = random.Random(0)
    for post in (False, True):
        for task in make_tasks("train", 400, rng, posting=post):
            attack(rng, task)


def test_fast_enough_to_learn_from():
    """The bar is 3,000 turns a second on an idle machine; half of it leaves room for a busy one."""
    tasks = make_tasks("train", 300, random.Random(2), posting=True)
    for task in tasks:
        company(task.company)
    start, turns = time.process_time(), 0
    for task in tasks:
        turns += len(run(oracle(task), DataEnv(task)))
    assert turns / (time.process_time() - start) > 1500


def test_connections_are_closed():
    """The database of an episode is gone after it: a new connection of that name finds nothing."""
    env = DataEnv(question("locked"))
    name = env.session.name
    for call in (QUERY, QUERY.replace("query", "replica"), "begin", "answer"):
        env.step(call)
    assert connect(name).execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert connect(name + "copy").execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    assert set(TABLES)
    with pytest.raises(sqlite3.Error):
        Reader(name + "nothing").read("SELECT * FROM T1")
