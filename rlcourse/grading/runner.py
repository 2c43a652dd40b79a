"""Grade one notebook: the trusted side. It never runs a learner's code in its own process."""

import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from rlcourse.grading.exercises import ROOT, Exercise, load_exercises
from rlcourse.grading.extract import Unreadable, read_cells, read_scope
from rlcourse.grading.graders import Failure, Mutant, matching
from rlcourse.grading.isolation import Limits
from rlcourse.grading.jobs import Chapter, Job

START = 120  # seconds that the import of a chapter's graders may take
TORCH = re.compile(r"^\s*(?:from|import)\s+(?:torch|transformers|trl|rlcourse\.lm)\b", re.MULTILINE)


class GraderBroken(Exception):
    """The graders themselves do not run: nobody's submission can be graded."""


class Result(NamedTuple):
    """What became of one exercise."""

    exercise: Exercise
    status: str  # "right", "wrong", "error" (no verdict could be reached) or "not attempted"
    message: str = ""  # one sentence for the learner
    failures: tuple[Failure, ...] = ()
    mutant: str = ""  # the known wrong version that fails in the same way
    diagnosis: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def points(self) -> int:
        return self.exercise.points if self.status == "right" else 0


class Grader:
    """Grades notebooks against the graders of one course.

    Args:
        root: the folder of the course.
        seconds: CPU seconds for one exercise; None means 10, or 30 for chapters that use torch.
        memory: bytes for one exercise; None means 1 GiB, or 4 GiB for chapters that use torch.
        fork: one child per exercise by fork (None: where that is safe), or one process per exercise.
    """

    def __init__(self, root: Path = ROOT, seconds=None, memory=None, fork: bool | None = None):
        self.root, self.seconds, self.memory = Path(root), seconds, memory
        self.fork = sys.platform.startswith("linux") if fork is None else fork
        self.exercises = load_exercises(self.root)
        self.lock, self.mutants, self.chapters = threading.Lock(), {}, {}

    def limits(self, stem: str) -> Limits:
        files = [self.root / "tests" / f"test_{stem}.py", self.root / "solutions" / f"{stem}.py"]
        heavy = any(TORCH.search(f.read_text(encoding="utf-8")) for f in files)
        usual = Limits(30.0, 4 << 30) if heavy else Limits()
        return usual._replace(seconds=self.seconds or usual.seconds, memory=self.memory or usual.memory)

    def of_chapter(self, stem: str) -> list[Exercise]:
        return [e for e in self.exercises.values() if e.chapter == stem]

    def chapter(self, stem: str) -> Chapter:
        if stem not in self.chapters:
            self.chapters[stem] = Chapter(self.root, stem, [e.name for e in self.of_chapter(stem)])
        return self.chapters[stem]

    def grade(self, path: Path, stem: str) -> list[Result]:
        """Grade a notebook on the exercises of a chapter.

        Raises:
            GraderBroken: if the graders cannot be run, which is no fault of the submission.
        """
        try:
            notebook = read_scope(read_cells(path))
        except Unreadable as error:
            message = f"{Path(path).name!r} {error}"
            return [Result(e, "error", message) for e in self.of_chapter(stem)]
        chapter = self.chapter(stem)
        jobs = {e.name: chapter.job(notebook, e.name) for e in self.of_chapter(stem)}
        verdicts = self._run(stem, [j for j in jobs.values() if j.source])
        wrong = frozenset(n for n, j in jobs.items() if j.attempted and not _right(verdicts.get(n)))
        again = [
            chapter.job(notebook, n, wrong - {n}) for n in sorted(wrong) if set(jobs[n].uses) & (wrong - {n})
        ]
        for name, verdict in self._run(stem, [j for j in again if j.source]).items():
            if _right(verdict):
                others = ", ".join(sorted(set(jobs[name].uses) & wrong))
                verdicts[name] = {
                    **verdict,
                    "note": f"graded with the reference for {others}, which is not right",
                }
        self.learn_mutants([self.exercises[n] for n, v in verdicts.items() if v.get("failures")])
        return [self._result(e, jobs[e.name], verdicts.get(e.name)) for e in self.of_chapter(stem)]

    def _result(self, exercise: Exercise, job: Job, verdict: dict | None) -> Result:
        if not job.attempted:
            return Result(exercise, "not attempted")
        if verdict is None:
            return Result(exercise, "error", job.problem, notes=job.notes)
        seen = tuple(f"refused: {text}" for text in verdict.get("seen", []))
        notes = job.notes + seen + tuple(filter(None, [verdict.get("note")]))
        rest = {"notes": notes, "seconds": verdict.get("seconds", 0.0)}
        outcome, message = verdict["outcome"], verdict.get("message", "")
        if outcome == "not attempted":
            return Result(exercise, "not attempted", **rest)
        if outcome != "graded":
            return Result(exercise, "wrong" if outcome == "wrong" else "error", message, **rest)
        failures = tuple(Failure(*f) for f in verdict["failures"])
        if not failures:
            return Result(exercise, "right", **rest)
        mutant = matching(self.known_mutants(exercise), failures) or Mutant("", "", frozenset())
        text = f"{failures[0].property} {failures[0].message}"
        return Result(exercise, "wrong", text, failures, mutant.name, mutant.diagnosis, **rest)

    def learn_mutants(self, exercises: list[Exercise]) -> None:
        """Find out how the course's wrong versions fail; once, in a process that no learner's code enters."""
        with self.lock:
            new = [e for e in exercises if e.name not in self.mutants]
            if not new:
                return
            lines, error = self._start(
                {"mode": "mutants", "names": [e.name for e in new]}, len(new) - 1, START
            )
            if len(lines) < len(new):
                raise GraderBroken(f"the mutants of {new[len(lines)].name} do not run: {error}")
            for exercise, known in zip(new, lines, strict=True):
                self.mutants[exercise.name] = [
                    Mutant(name, text, frozenset((g, m) for g, m in fails)) for name, text, fails in known
                ]

    def known_mutants(self, exercise: Exercise) -> list[Mutant]:
        self.learn_mutants([exercise])
        return self.mutants[exercise.name]

    def _run(self, stem: str, jobs: list[Job]) -> dict[str, dict]:
        """The verdicts by exercise. A worker that dies costs one exercise, never the others."""
        verdicts, pending = {}, list(jobs)
        while pending:
            batch = pending if self.fork else pending[:1]
            limits = self.limits(stem)
            message = {
                "mode": "grade",
                "fork": self.fork,
                "seconds": limits.seconds,
                "clock": limits.clock,
                "memory": limits.memory,
                "jobs": [{**j._asdict(), "parameters": self.chapter(stem).parameters(j.name)} for j in batch],
            }
            lines, error = self._start(message, len(batch), limits.clock + 5 * self.fork)
            if not lines:
                raise GraderBroken(f"the graders of {stem} do not run: {error}")
            found = {line["name"]: line for line in lines[1:]}
            if not found:
                found = {batch[0].name: {"outcome": "died", "message": error}}
            verdicts.update(found)
            pending = [j for j in pending if j.name not in verdicts]
        return verdicts

    def _start(self, message: dict, count: int, clock: float) -> tuple[list, str]:
        """Start a worker; the JSON lines that it wrote, and what went wrong if there are too few.

        Args:
            message: the job.
            count: how many lines are expected after the first, which says that the graders are loaded.
            clock: seconds to wait for each of them.
        """
        work = tempfile.mkdtemp(prefix="grading-")
        packages = [p for p in sys.path if "site-packages" in p or "dist-packages" in p]
        message = {"root": str(self.root.resolve()), "packages": packages, "work": work, **message}
        worker = self.root / "rlcourse" / "grading" / "worker.py"
        # -P -s -B with an environment of our own is -I (isolated) plus a fixed order of sets of strings
        command = [sys.executable, "-P", "-s", "-B", str(worker)]
        log = Path(work) / "worker.log"
        try:
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=work,
                    env=environment(work),
                    start_new_session=True,
                )
            with contextlib.suppress(OSError):
                process.stdin.write(json.dumps(message).encode())
                process.stdin.close()
            try:
                lines, late = _read_lines(process.stdout, count, clock)
            finally:
                _stop(process)
            error = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
        finally:
            shutil.rmtree(work, ignore_errors=True)
        slow = "no answer in time: is there a loop that never ends?"
        return lines, slow if late else error or _ending(process.returncode)


def _read_lines(stream, count: int, clock: float) -> tuple[list, bool]:
    """The JSON lines of a stream that may stay silent, and whether it did."""
    arrived = queue.Queue()

    def read():
        for line in stream:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    lines = []
    while len(lines) <= count:
        try:
            line = arrived.get(timeout=clock if lines else START)
        except queue.Empty:
            return lines, True
        if line is None:
            break
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines, False


def _stop(process: subprocess.Popen) -> None:
    """End the worker and its process group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)  # it may be about to end by itself
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def environment(work: str) -> dict[str, str]:
    """All that the worker gets: no secrets of the machine, one thread, no GPU, no network of Hugging Face."""
    kept = {k: os.environ[k] for k in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if k in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {
        "HOME": work,
        "TMPDIR": work,
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": work,
        "CUDA_VISIBLE_DEVICES": "",
    }
    return kept | threads | own | {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1"}


def _right(verdict: dict | None) -> bool:
    return bool(verdict) and verdict["outcome"] == "graded" and not verdict["failures"]


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was ended by {signal.Signals(-code).name}: a crash, or a loop that never ends"
    return f"the process ended early (code {code})"


def fingerprint(path: Path) -> str:
    """The SHA-256 of a submitted file, or '' if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
    except OSError:
        return ""
