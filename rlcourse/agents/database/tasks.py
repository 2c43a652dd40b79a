"""Companies (one generated database each) and the tasks that are set on them."""

import functools
import random
import sqlite3
from dataclasses import dataclass

KINDS = ("orders", "refunds", "visits", "salaries")  # one table each; salaries is private
ASKED = KINDS[:3]
TABLES = tuple(f"T{i}" for i in range(1, 7))
LEDGERS = ("L1", "L2", "L3")
CUSTOMERS = ("ann", "bob", "cho", "dan", "eve", "fay")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun")
SPLITS = {"train": (1000, 600), "validation": (5000, 64), "test": (9000, 64)}  # first seed, companies


@dataclass(frozen=True)
class Mix:
    """How often what is asked, and what goes wrong."""

    kinds: tuple = ASKED
    busy: float = 0.2  # the first query meets another session's transaction; a second one works
    locked: float = 0.3  # that session never ends: unlock it, or read the replica
    timeout: float = 0.02  # the primary is overloaded: every query is interrupted; the replica works
    changed: float = 0.1  # the table is renamed after it was found
    full: float = 0.0  # posting: the first ledger takes no more entries
    garbled: float = 0.0  # posting: a stray trigger changes the first entry


QUESTIONS = Mix()
POSTINGS = Mix(busy=0.1, locked=0.0, timeout=0.0, changed=0.0, full=0.25, garbled=0.25)


class Company:
    """One company's database: four tables under shuffled names, three ledgers."""

    def __init__(self, seed):
        rng = random.Random(seed)
        self.seed, names = seed, rng.sample(TABLES, 4)
        self.table = dict(zip(rng.sample(KINDS, 4), names, strict=True))  # kind -> table
        self.spare = next(t for t in TABLES if t not in names)  # what a migration renames to
        self.total = {}  # (kind, customer, month) -> the true sum
        self.source = sqlite3.connect(":memory:", isolation_level=None)
        write = self.source.execute
        write("BEGIN")
        for kind, table in self.table.items():
            write(f"CREATE TABLE {table} (cust TEXT, mon TEXT, {kind} INTEGER)")
            for customer in CUSTOMERS:
                for month in MONTHS:
                    total = rng.randint(10, 99)
                    part = rng.randint(1, 9)
                    self.total[kind, customer, month] = total
                    for amount in (total - part, part):
                        write(f"INSERT INTO {table} VALUES (?, ?, ?)", (customer, month, amount))
        for ledger in LEDGERS:
            write(f"CREATE TABLE {ledger} (cust TEXT PRIMARY KEY, amount INTEGER)")
        write("CREATE TABLE capacity (ledger TEXT PRIMARY KEY, used INT, size INT, CHECK (used <= size))")
        for ledger in LEDGERS:
            write("INSERT INTO capacity VALUES (?, 0, 9)", (ledger,))
        write("COMMIT")


@functools.lru_cache(maxsize=1024)
def company(seed):
    return Company(seed)


@dataclass(frozen=True)
class Task:
    """A question (`kinds` has one entry) or a posting (two kinds, two ledgers) on one company."""

    company: int  # its seed
    kinds: tuple
    customer: str
    month: str
    fault: str | None = None
    ledgers: tuple = ()  # where to write, and where to write if that one is full

    @property
    def text(self):
        """What the user says."""
        words = [*self.kinds, self.customer, self.month, *self.ledgers]
        return " ".join(["gap" if self.ledgers else "?", *words])

    @property
    def truth(self):
        """The right number: a total, or the difference of two."""
        totals = [company(self.company).total[k, self.customer, self.month] for k in self.kinds]
        return totals[0] if len(totals) == 1 else abs(totals[0] - totals[1])


def make_tasks(split, n, rng, mix=None, posting=False):
    """n random tasks of a split; `rng` is a random.Random. No two splits share a company.

    Raises:
        KeyError: if there is no such split.
    """
    first, count = SPLITS[split]
    mix = mix or (POSTINGS if posting else QUESTIONS)
    return [_task(first + rng.randrange(count), rng, mix, posting) for _ in range(n)]


def _task(seed, rng, mix, posting):
    luck, fault = rng.random(), None
    for name in ("busy", "locked", "timeout", "changed", "full", "garbled"):
        luck -= getattr(mix, name)
        if luck < 0:
            fault = name
            break
    customer, month = rng.choice(CUSTOMERS), rng.choice(MONTHS)
    if not posting:
        return Task(seed, (rng.choice(mix.kinds),), customer, month, fault)
    kinds, ledgers = tuple(rng.sample(ASKED, 2)), tuple(rng.sample(LEDGERS, 2))
    return Task(seed, kinds, customer, month, fault, ledgers)
