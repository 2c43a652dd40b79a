"""`check`: what a learner sees in the lab, at once."""

import contextlib
import signal
import threading

from rlcourse.grading.exercises import load_exercises, reference
from rlcourse.grading.graders import NotAttempted, TooLong, diagnose, run_graders, signature_problem

SECONDS = 60  # a check that takes longer is taken for an endless loop


class NotYet(Exception):
    """A learner's function is not right yet. Jupyter shows the message without a traceback."""

    def _render_traceback_(self):
        return [str(self)]


@contextlib.contextmanager
def time_limit(seconds: float):
    """Raise TooLong in the block after `seconds`, where the platform has SIGALRM (not on Windows)."""
    main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "SIGALRM") or not main:
        yield
        return

    def ring(signum, frame):
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def report(exercise, implementation) -> str:
    """'' if the implementation is right, else what is wrong with it, in plain words.

    Raises:
        NotAttempted: if it is still the stub.
    """
    if problem := signature_problem(implementation, reference(exercise)):
        return problem
    try:
        with time_limit(SECONDS):
            failures = run_graders(exercise, implementation)
            found = diagnose(exercise, failures)
    except TooLong:
        return f"no answer within {SECONDS} s: is there a loop that never ends?"
    if not failures:
        return ""
    lines = [failures[0].property, f"  {failures[0].message}"]
    if len(failures) > 1:
        more = len(failures) - 1
        fail = "property fails" if more == 1 else "properties fail"
        lines.append(f"  ({more} more {fail}; mend this one first)")
    if found:
        lines.append(f"  Diagnosis: {found}")
    return "\n".join(lines)


def check(implementation, keep_going: bool = False):
    """Grade a function or class of the lab, and return what the lab goes on with.

    Args:
        implementation: the learner's function; its name says which exercise it is.
        keep_going: go on with the reference if the learner's function is wrong.

    Returns:
        The reference if the exercise was not attempted, the learner's own function if it is right.

    Raises:
        NotYet: if it is wrong (and not `keep_going`), with the property that fails, expected and actual
            values, and the diagnosis if the mistake is a known one.
        LookupError: if no exercise has this name.
    """
    name = getattr(implementation, "__name__", repr(implementation))
    exercise = load_exercises().get(name)
    if exercise is None:
        raise LookupError(f"no exercise is called {name!r}; keep the name that the stub had")
    try:
        problem = report(exercise, implementation)
    except NotAttempted:
        print(f"○ {name}: not attempted; the reference stands in")
        return reference(exercise)
    if not problem:
        print(f"✓ {name}: right")
        return implementation
    if keep_going:
        print(f"✗ {name}: {problem}\n  keep_going: the reference stands in from here on")
        return reference(exercise)
    raise NotYet(
        f"✗ {name}: {problem}\n  Mend it and run the cell again; check({name}, keep_going=True) goes on "
        "with the reference."
    )
