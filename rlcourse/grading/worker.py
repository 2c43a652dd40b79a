"""The isolated process: `python -P -s -B worker.py`, a job on stdin, verdicts as JSON lines on stdout.

It imports the graders first. Then, on systems with fork, each exercise runs in a child of its own, in its
own session, with limits, a locked file system and a guard; the verdict comes back over a private pipe with
a nonce. Elsewhere (Windows, macOS) the caller starts one worker per exercise, and this process is the child.

With `"mode": "mutants"` it runs the course's own wrong versions instead; no learner's code is near.
"""

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from pathlib import Path

MOST = 1 << 20  # bytes of a verdict


def main() -> None:
    job = json.load(sys.stdin)
    out = os.dup(1)
    with open(os.devnull, "r+b") as nothing:
        for fd in (0, 1):
            os.dup2(nothing.fileno(), fd)
    sys.path[:0] = [job["root"]]
    sys.path += [p for p in job["packages"] if p not in sys.path]
    from rlcourse.grading.exercises import load_exercises
    from rlcourse.grading.graders import graders_of, mutants_of

    exercises = load_exercises()

    def send(message):
        os.write(out, (json.dumps(message) + "\n").encode())

    if job["mode"] == "mutants":
        for name in job["names"]:
            send([[m.name, m.diagnosis, sorted(m.fails)] for m in mutants_of(exercises[name])])
        return
    graders = {j["name"]: [g.__name__ for g in graders_of(exercises[j["name"]])] for j in job["jobs"]}
    send({"graders": graders})
    for one in job["jobs"]:
        exercise = exercises[one["name"]]
        if job["fork"]:
            verdict = _in_a_fork(exercise, one, job, out)
        else:
            start = time.monotonic()
            verdict = _run_one(exercise, one, job, Path(job["work"]))
            verdict["seconds"] = round(time.monotonic() - start, 2)
        if verdict.get("outcome") == "graded" and verdict.pop("ran", None) != graders[one["name"]]:
            verdict = {
                "outcome": "died",
                "message": "not all graders ran: the code interfered with the grader",
            }
        send({"name": one["name"], **verdict})


def _in_a_fork(exercise, one: dict, job: dict, out: int) -> dict:
    """Run one exercise in a child process, and end it and all that it started."""
    work = Path(tempfile.mkdtemp(dir=job["work"]))
    reading, writing = os.pipe()
    nonce = secrets.token_hex(16)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _become_the_child(out, reading, writing)
            verdict = _run_one(exercise, one, job, work)
            os.write(writing, f"{nonce} {json.dumps(verdict)}\n".encode())
        finally:
            os._exit(0)
    os.close(writing)
    line, status = _await(child, reading, nonce, start + job["clock"])
    os.close(reading)
    shutil.rmtree(work, ignore_errors=True)
    seconds = round(time.monotonic() - start, 2)
    if line is not None:
        return {**json.loads(line), "seconds": seconds}
    return {**_cause_of_death(status, job), "seconds": seconds}


def _become_the_child(out: int, reading: int, writing: int) -> None:
    """A session of its own, and no way to the parent but the pipe."""
    from rlcourse.grading.isolation import die_with_parent

    os.setsid()
    die_with_parent()
    with contextlib.suppress(OSError):
        os.dup2(1, 2)
    for fd in {out, reading}:
        os.close(fd)
    os.closerange(writing + 1, 256)


def _await(child: int, reading: int, nonce: str, deadline: float):
    """The verdict's text or None, and the child's exit status (None if the time was up)."""
    data, status, ended = b"", None, False
    while time.monotonic() < deadline and len(data) < MOST:
        ready, _, _ = select.select([reading], [], [], 0.05)
        if ready:
            chunk = os.read(reading, 65536)
            data += chunk
            if b"\n" in chunk and _verdict(data, nonce) is not None:
                break
            if not chunk and ended:
                break
        elif ended:
            break
        if not ended:
            pid, code = os.waitpid(child, os.WNOHANG)
            ended, status = bool(pid), code if pid else None
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return _verdict(data, nonce), status


def _verdict(data: bytes, nonce: str):
    for line in data.decode("utf-8", "replace").splitlines():
        if line.startswith(nonce + " ") and line.endswith("}"):
            return line.removeprefix(nonce + " ")
    return None


def _cause_of_death(status: int | None, job: dict) -> dict:
    slow = f"no answer within {job['seconds']:g} s: is there a loop that never ends?"
    if status is None:
        return {"outcome": "time", "message": slow}
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == getattr(signal, "SIGXCPU", None):
            return {"outcome": "time", "message": slow}
        name = signal.Signals(number).name
        return {"outcome": "died", "message": f"the code crashed the Python interpreter ({name})"}
    return {"outcome": "died", "message": "the process ended before the graders were through (os._exit?)"}


def _run_one(exercise, one: dict, job: dict, work: Path) -> dict:
    """In the child: load the submission behind the fence, run the graders, return the verdict."""
    from rlcourse.grading import integrity, isolation
    from rlcourse.grading.graders import NotAttempted, graders_of, parameter_problem, run_graders, why

    os.chdir(work)
    os.environ.update(HOME=str(work), TMPDIR=str(work), MPLCONFIGDIR=str(work))
    tempfile.tempdir = None
    given = _standins(one, Path(job["root"]))
    module = sys.modules[f"tests.test_{exercise.chapter}"]
    graders = graders_of(exercise)
    _forget_answers(exercise.chapter)
    submission = types.ModuleType("submission")
    submission.__dict__.update(given)
    sys.modules["submission"], sys.modules["__main__"] = submission, types.ModuleType("__main__")
    known, before = integrity.known_types(), integrity.Snapshot(module)
    limits = isolation.Limits(job["seconds"], job["memory"])
    allowed = isolation.roads(Path(job["root"]), work)
    guard = isolation.Guard(allowed)
    isolation.limit_process(limits)
    locked = isolation.lock_files(allowed)

    def verify():
        guard.armed = False
        changed = before.changed()
        if changed:
            raise _Interference(f"the code replaces {changed}, which the graders rely on")
        guard.armed = True

    def verdict(outcome, **more):
        guard.armed = False
        isolation.release_memory_limit()
        return {"outcome": outcome, "seen": guard.seen, "locked": locked, **more}

    implementation = None
    try:
        guard.armed = True
        exec(compile(one["source"], isolation.SOURCE_NAME, "exec"), submission.__dict__)
        implementation = submission.__dict__[exercise.name]
        for function in given.values():
            if hasattr(function, "__globals__") and exercise.name not in function.__globals__:
                function.__globals__[exercise.name] = implementation
        if problem := parameter_problem(implementation, one["parameters"]):
            return verdict("wrong", message=problem)
        failures = run_graders(exercise, integrity.watched(implementation, known), verify, graders)
        return verdict("graded", failures=failures, ran=[g.__name__ for g in graders])
    except NotAttempted:
        return verdict("not attempted")
    except _Interference as error:
        return verdict("died", message=str(error))
    except BaseException as error:
        guard.armed = False
        return verdict("wrong", message=f"the definitions cannot be loaded: {why(error, implementation)}")


class _Interference(BaseException):
    """The submission changed what the graders rely on."""


def _standins(one: dict, root: Path) -> dict:
    """References for other exercises, and earlier chapters' solutions: loaded before the fence."""
    import importlib

    for name in one["earlier"]:
        importlib.import_module(name)
    space = {"__name__": "reference"}
    exec(compile(one["standin_source"], "<reference>", "exec"), space)
    return {name: space[name] for name in one["standins"]}


def _forget_answers(stem: str) -> None:
    """Take the graders, this chapter's solutions and the later ones out of reach of an import."""
    for name in list(sys.modules):
        top, _, rest = name.partition(".")
        later = top == "solutions" and rest.split(".")[0] >= stem
        if later or top == "tests" or name.startswith("rlcourse.grading"):
            del sys.modules[name]
    sys.meta_path.insert(0, _Refuse())


class _Refuse:
    """An import of the answers says so in plain words."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("solutions", "tests") or name.startswith("rlcourse.grading"):
            raise ImportError(f"{name} cannot be imported while grading: write the function yourself")
        return None


if __name__ == "__main__":
    main()
