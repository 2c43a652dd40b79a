"""Run an exercise's graders on an implementation, and name the mistake when they fail."""

import importlib
import inspect
import traceback
from typing import NamedTuple

from rlcourse.grading.exercises import Exercise, alternatives


class Failure(NamedTuple):
    """One grader that did not accept the implementation."""

    grader: str
    property: str  # what should hold: the first line of the grader's docstring
    message: str  # what was expected and what came


class NotAttempted(Exception):
    """The implementation raises NotImplementedError: it is still the stub."""


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
        code, first = implementation.__code__, implementation.__code__.co_firstlineno
    except AttributeError:
        return ""
    for frame, lineno in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_code is code:
            return f" (line {lineno - first + 1} of your function)"
    return ""


def run_graders(exercise: Exercise, implementation) -> list[Failure]:
    """Run all graders; the failures, in order; none means that the implementation is right.

    Raises:
        NotAttempted: if the implementation is still the stub.
    """
    failures = []
    for grader in graders_of(exercise):
        claim = (inspect.getdoc(grader) or grader.__name__).splitlines()[0]
        try:
            grader(implementation)
        except NotImplementedError as error:
            raise NotAttempted from error
        except AssertionError as error:
            failures.append(Failure(grader.__name__, claim, str(error) or "the property does not hold"))
        except Exception as error:
            text = f"it raised {type(error).__name__}: {error}{_line_of(error, implementation)}"
            failures.append(Failure(grader.__name__, claim, text))
    return failures


def signature_problem(implementation, reference) -> str:
    """One sentence if the parameters are not those of the reference, else ''.

    Further parameters are fine if they have defaults.
    """
    if not callable(implementation):
        return f"{implementation!r} is not a function"
    try:
        mine = inspect.signature(implementation).parameters
    except (TypeError, ValueError):
        return ""
    wanted = inspect.signature(reference).parameters
    extra = [p.name for p in list(mine.values())[len(wanted) :] if p.default is p.empty]
    if list(mine)[: len(wanted)] != list(wanted) or extra:
        return f"the parameters should be ({', '.join(wanted)}), yours are ({', '.join(mine)})"
    return ""


def diagnose(exercise: Exercise, failures: list[Failure]) -> str:
    """The docstring of the mutant that fails the same graders with the same messages, or ''."""
    seen = {(f.grader, f.message) for f in failures}
    if not seen:
        return ""
    for mutant in alternatives(exercise, "mutants").values():
        try:
            same = {(f.grader, f.message) for f in run_graders(exercise, mutant)} == seen
        except NotAttempted:
            continue
        if same:
            return " ".join((inspect.getdoc(mutant) or "").split())
    return ""
