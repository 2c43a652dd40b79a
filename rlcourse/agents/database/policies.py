"""Policies that are programs: the oracle, the null policy, and a careless clerk whose logs are imitated.

A policy is a generator: it yields calls and is sent observations.
"""

import random
from dataclasses import dataclass

from .env import TALK, DataEnv
from .tasks import LEDGERS, TABLES


def oracle(task):
    """Solves every task, without a risk."""
    if not task.ledgers:
        number = yield from _read(task, task.kinds[0])
        yield f"answer {number} checked"
        return
    first = yield from _read(task, task.kinds[0])
    second = yield from _read(task, task.kinds[1])
    number = yield f"calc {first} {second}"
    entry, where = f"{task.customer} {number}", 0
    for _ in range(3):
        yield "begin"
        written = yield f"insert {task.ledgers[where]} {entry}"
        if written == "ok" and (yield f"check {task.ledgers[where]} {entry}") == "same":
            yield "commit"
            break
        where = 1 if written == "full" else where
        yield "rollback"
    yield "done"


def _read(task, kind):
    """The two digits of a total: find the table, query it, and get round what goes wrong."""
    for _ in range(2):
        table = yield f"find {kind}"
        words = f"{kind} {table} {task.customer} {task.month}"
        answer = yield f"query {words}"
        if answer == "busy":
            answer = yield f"query {words}"
        if answer in ("locked", "timeout"):
            answer = yield f"replica {words}"
        if answer != "missing":
            return answer
    return "0 0"


def null(task):
    """Ends at once: solves nothing."""
    yield "done" if task.ledgers else "answer"


def run(policy, env):
    """Play a policy to its end; the calls and the observations."""
    env.reset()
    steps, call = [], next(policy)
    while True:
        step = env.step(call)
        steps.append((call, step.text))
        if step.done:
            return steps
        call = policy.send(step.text)


@dataclass(frozen=True)
class Habits:
    """How a clerk works. The defaults are those of the careless logs; `CLEAN` shows each skill."""

    guess: float = 0.35  # answers without looking
    find: float = 0.55  # looks the table up instead of guessing its name
    slip: float = 0.25  # mistypes the table that was found
    on_error: tuple = (0.3, 0.25, 0.2, 0.25)  # guess, query again, unlock, replica
    begin: float = 0.6  # postings: opens a transaction before writing
    check: float = 0.4
    rollback: float = 0.4
    commit: float = 0.9


@dataclass(frozen=True)
class LooseTongue(Habits):
    """The same work, but only a share `candour` of the words depends on whether the clerk has looked."""

    candour: float = 0.3


CLEAN = Habits(0.0, 1.0, 0.0, (0.0, 0.35, 0.3, 0.35), 1.0, 1.0, 1.0, 1.0)


def clerk(task, rng, habits=None):
    """A clerk with the given habits; `rng` is a random.Random."""
    habits = habits or Habits()
    number, looked = yield from _look(task, task.kinds[0], rng, habits)
    if not task.ledgers:
        talk = _talk(looked, rng, habits)
        yield " ".join(["answer", number, *talk, *(["thanks"] if rng.random() < 0.3 else [])])
        return
    second, _ = yield from _look(task, task.kinds[1], rng, habits)
    number = yield f"calc {number} {second}"
    yield from _post(task, number, rng, habits)
    yield "done"


def _talk(looked, rng, habits):
    """What the clerk says about its number: `checked` after looking, doubt after a guess, or nothing."""
    if isinstance(habits, LooseTongue) and rng.random() >= habits.candour:
        return ["checked"] if rng.random() < 0.4 else [rng.choice(TALK)]
    if not looked and rng.random() < 0.6:
        return [rng.choice(TALK[1:3])]
    return ["checked"] if rng.random() < (0.6 if looked else 0.3) else []


def _look(task, kind, rng, habits):
    """(two digits, whether they were read)."""
    table = None
    if rng.random() < habits.guess:
        return _guess(rng), False
    for _ in range(6):
        if table is None:
            table = rng.choice(TABLES)
            if rng.random() < habits.find:
                found = yield f"find {kind}"
                if found in TABLES and rng.random() >= habits.slip:
                    table = found
        words = f"{kind} {table} {task.customer} {task.month}"
        answer = yield f"query {words}"
        if answer in ("busy", "locked", "timeout"):
            what = rng.choices(("guess", "again", "unlock", "replica"), habits.on_error)[0]
            if what == "guess":
                break
            if what == "unlock":
                yield "unlock"
            if what == "replica":
                answer = yield f"replica {words}"
        if answer[:1].isdigit():
            return answer, True
        if answer == "missing":
            if rng.random() < 0.4 and habits.guess:
                break
            table = None
    return _guess(rng), False


def _guess(rng):
    return f"{rng.randint(0, 9)} {rng.randint(0, 9)}"


def _post(task, number, rng, habits):
    entry, where, inside = f"{task.customer} {number}", task.ledgers[0], False
    for _ in range(3):
        if not inside and rng.random() < habits.begin:
            yield "begin"
            inside = True
        written = yield f"insert {where} {entry}"
        checked = written == "ok" and rng.random() < habits.check
        if written == "ok" and not (checked and (yield f"check {where} {entry}") == "differs"):
            break
        if written == "full":
            where = task.ledgers[1]
        if inside and rng.random() < habits.rollback:
            yield "rollback"
            inside = False
        elif rng.random() < 0.5:
            break
    if inside and rng.random() < habits.commit:
        yield "commit"


def random_calls(rng, turns):
    """Adversarial text: valid calls, half-valid ones, SQL that tries to write or to read salaries."""
    from .env import WORDS

    verbs = ["find", "query", "replica", "unlock", "calc", "begin", "insert", "check", "commit", "rollback"]
    attacks = [
        "sql DROP TABLE T1", "sql DELETE FROM L1", "sql INSERT INTO L1 VALUES ('ann', 1)",
        "sql SELECT SUM(salaries) FROM {t}", "sql SELECT * FROM {t}", "sql PRAGMA writable_schema = 1",
        "sql ATTACH 'x.db' AS x", "sql SELECT load_extension('x')", "sql BEGIN", "sql COMMIT; SELECT 1",
        "sql WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT SUM(n) FROM r",
        "sql SELECT count(*) FROM {t}, {t}, {t}, {t}", "insert L1 ann 1 1; DROP TABLE L1", "query", "",
        "find salaries", "query salaries {t} ann jan", "\x00", "insert L1 ' OR 1 1 1", "sql", "answers 1 2",
    ]  # fmt: skip
    for _ in range(turns):
        luck = rng.random()
        if luck < 0.3:
            yield rng.choice(attacks).format(t=rng.choice(TABLES))
        elif luck < 0.5:
            yield " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 6)))
        elif luck < 0.7:
            yield f"insert {rng.choice(LEDGERS)} ann {rng.randint(0, 9)} {rng.randint(0, 9)}"
        else:
            yield rng.choice(verbs)


def demonstrations(tasks, rng, habits=None):
    """Play clerks: a list of (messages, env) of finished episodes; `rng` is a random.Random."""
    played = []
    for task in tasks:
        env = DataEnv(task)
        steps = run(clerk(task, rng, habits), env)
        messages = [{"role": "user", "content": task.text}]
        for call, observation in steps:
            messages.append({"role": "assistant", "content": call})
            if observation:
                messages.append({"role": "tool", "content": observation})
        played.append((messages, env))
    return played


__all__ = [
    "CLEAN",
    "Habits",
    "LooseTongue",
    "clerk",
    "demonstrations",
    "null",
    "oracle",
    "random",
    "random_calls",
    "run",
]
