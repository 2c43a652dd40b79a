"""The data agent's tools, on a database of its own, and what goes wrong with them."""

import itertools
import sqlite3

from .guard import INSTRUCTIONS, Reader, Writer, connect
from .tasks import CUSTOMERS, KINDS, LEDGERS, MONTHS, TABLES, company

DIGITS = tuple("0123456789")
QUERY, ENTRY = (KINDS, TABLES, CUSTOMERS, MONTHS), (LEDGERS, CUSTOMERS, DIGITS, DIGITS)
SHAPES = {  # the words that each tool takes
    "find": (KINDS,),
    "query": QUERY,
    "replica": QUERY,
    "unlock": (),
    "calc": (DIGITS,) * 4,
    "begin": (),
    "insert": ENTRY,
    "check": ENTRY,
    "commit": (),
    "rollback": (),
}
NUMBERS = itertools.count()  # every session has a database of its own


def two_digits(number):
    return " ".join(f"{number:02d}")


class Session:
    """A fresh copy of the company's database, and the connections that one episode opens on it.

    Raises:
        ValueError: for a fault that a question cannot have.
    """

    def __init__(self, task):
        if task.fault in ("full", "garbled") and not task.ledgers:
            raise ValueError(f"fault {task.fault!r} belongs to postings, and this task is a question")
        self.task, self.fault = task, task.fault
        self.source = company(task.company).source
        self.name = f"episode{next(NUMBERS)}"
        self.keeper = connect(self.name)  # keeps the database alive until the end
        self.source.backup(self.keeper)
        self.reader = Reader(self.name)
        self.writer = self.other = self.copy = self.copy_reader = None
        self.migration = self.milestone = None
        self.value_read, self.lost_work = False, 0
        if self.fault == "full":
            self.keeper.execute("UPDATE capacity SET size = 0 WHERE ledger = ?", task.ledgers[:1])

    def call(self, name, words):
        """The observation; "bad" if no tool has this name or takes these words.

        Raises:
            sqlite3.Error: only if something broke that is no fault of this world.
        """
        self.milestone = None
        shape = SHAPES.get(name)
        if shape is None or len(words) != len(shape):
            return "bad"
        if any(word not in allowed for word, allowed in zip(words, shape, strict=True)):
            return "bad"
        return getattr(self, name)(*words)

    @property
    def private_reads(self):
        return self.reader.private_reads + (self.copy_reader.private_reads if self.copy_reader else 0)

    # reading

    def find(self, kind):
        sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE ?"
        answer = self._answer(lambda: self.reader.read(sql, (f"% {kind} INTEGER)",))[0][0])
        if kind in self.task.kinds and answer in TABLES:
            self.milestone = f"find {kind}"
        return answer

    def query(self, *words):
        self._begin_fault()
        if self.fault == "timeout":
            self.reader.limit(20)
        try:
            return self._answer(lambda: self._sum(self.reader, *words))
        finally:
            self.reader.limit(INSTRUCTIONS)

    def replica(self, *words):
        """From a copy of the data that no lock and no load reaches; it follows renamed tables."""
        if self.copy is None:
            self.copy = connect(self.name + "copy")
            self.source.backup(self.copy)
            if self.migration:
                self.copy.execute(self.migration)
            self.copy_reader = Reader(self.name + "copy")
        return self._answer(lambda: self._sum(self.copy_reader, *words))

    def sql(self, statement):
        """Any one SELECT, for people and larger models."""
        self._begin_fault()
        try:
            rows = self.reader.read(statement)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            return self._refusal() if busy else f"error {error}"
        self.value_read = True
        return " ; ".join(" ".join(map(str, row)) for row in rows)[:400] or "none"

    def _sum(self, reader, kind, table, customer, month):
        sql = f"SELECT SUM({kind}) FROM {table} WHERE cust = ? AND mon = ?"
        ((total,),) = reader.read(sql, (customer, month))
        self.value_read = True
        if kind in self.task.kinds and (customer, month) == (self.task.customer, self.task.month):
            self.milestone = f"read {kind}"
        return two_digits(total)

    def _answer(self, read):
        """The result of a read, or the word for what SQLite says."""
        try:
            return read()
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode & 0xFF
            if code == sqlite3.SQLITE_INTERRUPT:
                return "timeout"
            if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such"):
                return "missing"
            if code != sqlite3.SQLITE_BUSY:
                raise
            return self._refusal()

    def _refusal(self):
        """Another transaction is in the way: a short one, one that never ends, or the agent's own."""
        if self.fault != "busy" or self.other is None:
            return "locked"
        self.other.execute("COMMIT")  # the other session finishes: its work is saved
        self._end_other()
        return "busy"

    def _begin_fault(self):
        """At the first query on the primary: another session's transaction, or a migration."""
        if self.writer is not None and self.writer.inside:
            return  # the agent's own transaction keeps others out
        if self.fault in ("busy", "locked") and self.other is None:
            self.other = connect(self.name)
            self.other.execute("BEGIN EXCLUSIVE")
            self.other.execute("INSERT INTO L3 VALUES ('guest', 1)")  # work that is not saved yet
        elif self.fault == "changed":
            home = company(self.task.company)
            old, new = home.table[self.task.kinds[0]], home.spare
            self.migration = f"ALTER TABLE {old} RENAME TO {new}"
            self.keeper.execute(self.migration)
            self.fault = None

    def _end_other(self):
        self.other.close()
        self.other, self.fault = None, None

    def unlock(self):
        if self.other is not None:
            self.other.execute("ROLLBACK")  # what it had written is lost
            self.lost_work += 1
            self._end_other()
        return "ok"

    # computing and writing

    def calc(self, a, b, c, d):
        numbers = int(a + b), int(c + d)
        totals = [company(self.task.company).total[self._key(kind)] for kind in self.task.kinds]
        if len(totals) == 2 and sorted(numbers) == sorted(totals):
            self.milestone = "calc"
        return two_digits(abs(numbers[0] - numbers[1]))

    def _key(self, kind):
        return kind, self.task.customer, self.task.month

    def begin(self):
        if self.writer is None:
            self.writer = Writer(self.name)
        if self.writer.inside:
            return "bad"
        answer = self._answer(self.writer.begin)
        if answer is None:
            self.milestone = "begin"
        return answer or "ok"

    def insert(self, ledger, customer, a, b):
        if self.writer is None or not self.writer.inside:
            return "bad"
        if self.fault == "garbled":
            self.writer.garble_next(ledger)
            self.fault = None
        try:
            self.writer.insert(ledger, customer, int(a + b))
        except sqlite3.IntegrityError:
            return "full"
        if self._is_right(customer, a + b):
            self.milestone = "write"
        return "ok"

    def check(self, ledger, customer, a, b):
        if self.writer is None:
            self.writer = Writer(self.name)
        if self._is_right(customer, a + b):
            self.milestone = "verify"
        same = self._answer(lambda: self.writer.same(ledger, customer, int(a + b)))
        return same if isinstance(same, str) else "same" if same else "differs"

    def _is_right(self, customer, number):
        return customer == self.task.customer and int(number) == self.task.truth

    def commit(self):
        if self.writer is None or not self.writer.inside:
            return "bad"
        self.writer.commit()
        self.milestone = "commit"
        return "ok"

    def rollback(self):
        if self.writer is None or not self.writer.inside:
            return "bad"
        self.writer.rollback()
        return "ok"

    # the end

    def close(self):
        """End all sessions. What was not committed is lost. Returns what the ledgers hold then."""
        for connection in (self.writer, self.other, self.reader, self.copy_reader, self.copy):
            if connection is not None:
                connection.close()
        held = sorted(
            (ledger, *row)
            for ledger in LEDGERS
            for row in self.keeper.execute(f"SELECT cust, amount FROM {ledger}")
        )
        self.keeper.close()
        return held
