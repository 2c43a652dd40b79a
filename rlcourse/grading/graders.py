"""Run an exercise's graders on an implementation, and name the mistake when they fail."""

import functools
import importlib
import inspect
import re
import traceback
from typing import NamedTuple

from rlcourse.grading.exercises import Exercise, alternatives

LONGEST = 2000  # characters of one message
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
LINE = re.compile(r" \(line \d+ of your function\)")


class Failure(NamedTuple):
    """One grader that did not accept the implementation."""

    grader: str
    property: str  # what should hold: the first line of the grader's docstring
    message: str  # what was expected and what came


class NotAttempted(Exception):
    """The implementation raises NotImplementedError: it is still the stub."""


class TooLong(BaseException):
    """Time is up. Not an Exception, so that a learner's `except Exception` does not swallow it."""


def graders_of(exercise: Exercise) -> list:
    """The exercise's graders: test functions whose only argument has the exercise's name."""
    module = importlib.import_module(f"tests.test_{exercise.chapter}")
    return [
        f
        for name, f in vars(module).items()
        if name.startswith("test_") and list(inspect.signature(f).parameters) == [exercise.name]
    ]


def _line_of(error: BaseException, implementation) -> str:
    """' (line 3 of your function)' when the error came from inside it."""
    try:
        implementation = inspect.unwrap(implementation)
        code, first = implementation.__code__, implementation.__code__.co_firstlineno
    except (AttributeError, ValueError):
        return ""
    for frame, lineno in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_code is code:
            return f" (line {lineno - first + 1} of your function)"
    return ""


def say(error: BaseException) -> str:
    """The text of an error that may come from anywhere, even one whose `__str__` fails."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be printed)"
    text = ADDRESS.sub("", text)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def why(error: BaseException, implementation) -> str:
    """One sentence for an error that a learner's function raised."""
    if isinstance(error, AssertionError):
        return say(error) or "the property does not hold"
    if isinstance(error, SystemExit):
        return "it ends the whole program: take exit() or sys.exit() out"
    if isinstance(error, MemoryError):
        return f"it needs more memory than there is{_line_of(error, implementation)}"
    return f"it raised {type(error).__name__}: {say(error)}{_line_of(error, implementation)}"


def run_graders(exercise: Exercise, implementation, before=None, graders=None) -> list[Failure]:
    """Run all graders; the failures, in order; none means that the implementation is right.

    Args:
        exercise: which exercise.
        implementation: the function or class under test.
        before: called before each grader and after the last one; what it raises goes to the caller.
        graders: what to run instead of `graders_of(exercise)`.

    Raises:
        NotAttempted: if the implementation is still the stub: the first grader meets NotImplementedError.
    """
    failures = []
    for i, grader in enumerate(graders or graders_of(exercise)):
        claim = (inspect.getdoc(grader) or grader.__name__).splitlines()[0]
        if before:
            before()
        try:
            grader(implementation)
        except (KeyboardInterrupt, TooLong):
            raise
        except BaseException as error:
            if i == 0 and isinstance(error, NotImplementedError):
                raise NotAttempted from error
            failures.append(Failure(grader.__name__, claim, why(error, implementation)))
    if before:
        before()
    return failures


def signature_problem(implementation, reference) -> str:
    """One sentence if the parameters are not those of the reference, else ''.

    Further parameters are fine if they have defaults.
    """
    return parameter_problem(implementation, list(inspect.signature(reference).parameters))


def parameter_problem(implementation, wanted: list[str]) -> str:
    """The same, where only the names of the reference's parameters are known."""
    if not callable(implementation):
        return f"{say(Exception(repr(implementation)))} is not a function"
    try:
        mine = inspect.signature(implementation).parameters
    except (TypeError, ValueError):
        return ""
    extra = [p.name for p in list(mine.values())[len(wanted) :] if p.default is p.empty]
    if list(mine)[: len(wanted)] != wanted or extra:
        return f"the parameters should be ({', '.join(wanted)}), yours are ({', '.join(mine)})"
    if inspect.iscoroutinefunction(implementation):
        return "it is an `async def`, so calling it computes nothing: write `def`"
    return ""


class Mutant(NamedTuple):
    """How a known wrong version fails."""

    name: str
    diagnosis: str  # its docstring
    fails: frozenset  # (grader, message) pairs


def _marks(failures) -> frozenset:
    return frozenset((grader, LINE.sub("", message)) for grader, _, message in failures)


@functools.cache
def mutants_of(exercise: Exercise) -> tuple[Mutant, ...]:
    """The exercise's mutants, each with the messages that its failures give."""
    found = []
    for suffix, mutant in alternatives(exercise, "mutants").items():
        try:
            failures = run_graders(exercise, mutant)
        except NotAttempted:
            continue
        text = " ".join((inspect.getdoc(mutant) or "").split())
        found.append(Mutant(suffix, text, _marks(failures)))
    return tuple(found)


def matching(mutants, failures) -> Mutant | None:
    """The mutant that fails the same graders with the same messages."""
    seen = _marks(failures)
    return next((m for m in mutants if m.fails == seen), None) if seen else None


def diagnose(exercise: Exercise, failures: list[Failure]) -> str:
    """The docstring of the mutant that fails the same graders with the same messages, or ''."""
    found = matching(mutants_of(exercise), failures)
    return found.diagnosis if found else ""
