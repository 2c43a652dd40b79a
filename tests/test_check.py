"""`check` in the lab: what a learner sees, and what the lab goes on with.

The exercise is chapter 2's discounted_return(rewards, gamma), whose right answer is one line.
"""

import importlib

import pytest

from rlcourse.grading.check import NotYet, check
from rlcourse.grading.exercises import alternatives, load_exercises, reference
from rlcourse.grading.graders import Mutant, TooLong, _marks, matching, run_graders

EXERCISE = load_exercises()["discounted_return"]
REFERENCE = reference(EXERCISE)


def learner(code: str):
    """discounted_return with this body, as a cell defines it."""
    space = {}
    lines = "\n".join("    " + line for line in code.splitlines())
    exec(f"def discounted_return(rewards, gamma):\n{lines}\n", space)
    return space["discounted_return"]


RIGHT = "return float(sum(gamma**k * r for k, r in enumerate(rewards)))"


def problem(code: str) -> str:
    with pytest.raises(NotYet) as error:
        check(learner(code))
    return str(error.value)


def test_a_right_answer_is_returned(capsys):
    mine = learner(RIGHT)
    assert check(mine) is mine
    assert capsys.readouterr().out == "✓ discounted_return: right\n"


@pytest.mark.parametrize(
    "code", ["raise NotImplementedError", '"""Doc."""\nraise NotImplementedError("later")']
)
def test_the_reference_stands_in_for_a_stub(code, capsys):
    assert check(learner(code)) is REFERENCE
    assert capsys.readouterr().out == "○ discounted_return: not attempted; the reference stands in\n"


def test_a_wrong_answer_stops_the_lab_and_is_explained():
    text = problem("return float(sum(rewards))")
    assert text.startswith("✗ discounted_return: ") and "expected" in text and "got" in text
    assert "keep_going=True" in text


def test_a_wrong_answer_may_keep_going(capsys):
    assert check(learner("return 0.0"), keep_going=True) is REFERENCE
    out = capsys.readouterr().out
    assert out.startswith("✗ discounted_return: ") and "the reference stands in" in out


@pytest.mark.parametrize("suffix", alternatives(EXERCISE, "mutants"))
def test_a_known_mistake_is_named(suffix):
    mutant = alternatives(EXERCISE, "mutants")[suffix]
    renamed = type(mutant)(mutant.__code__, mutant.__globals__, "discounted_return", mutant.__defaults__)
    with pytest.raises(NotYet) as error:
        check(renamed)
    assert f"Diagnosis: {' '.join(mutant.__doc__.split())}" in str(error.value)


def test_an_unknown_mistake_gets_no_diagnosis():
    assert "Diagnosis" not in problem("return 1234.5")


def test_an_answer_that_is_half_done_counts_as_attempted():
    first = problem("if gamma == 0:\n    raise NotImplementedError\n" + RIGHT)
    assert "NotImplementedError" in first


def test_the_message_is_shown_without_a_traceback():
    assert NotYet("x")._render_traceback_() == ["x"]


@pytest.mark.parametrize(
    "code, part",
    [
        ("rewards[0] / 0", "ZeroDivisionError"),
        ("return None", "return statement"),
        ("import sys\nsys.exit(1)", "ends the whole program"),
        ("exit()", "ends the whole program"),
        ("return discounted_return(rewards, gamma)", "RecursionError"),
        ("return 'seven'", "expected numbers"),
        ("return [1.0, 2.0]", "shape (2,)"),
        ("return float('nan')", "nan"),
        ("raise ValueError(object())", "ValueError"),
        ("assert False", "does not hold"),
    ],
)
def test_other_failures_are_said_in_plain_words(code, part):
    text = problem(code)
    assert part in text and "0x" not in text


def test_an_endless_loop_ends(monkeypatch):
    monkeypatch.setattr(importlib.import_module("rlcourse.grading.check"), "SECONDS", 0.3)
    assert "no answer within 0.3 s" in problem("while True:\n    pass")
    swallows = (
        "while True:\n    try:\n        while True:\n            pass\n    except Exception:\n        pass"
    )
    assert "no answer within" in problem(swallows)


def test_the_time_limit_is_taken_back(monkeypatch):
    import signal

    before = signal.getsignal(signal.SIGALRM)
    check(learner(RIGHT))
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_without_alarms_it_still_works(monkeypatch):
    """As on Windows."""
    import signal

    monkeypatch.delattr(signal, "SIGALRM")
    assert check(learner(RIGHT))


def test_interrupting_the_kernel_is_not_taken_for_a_failure():

    def interrupted(error):
        def discounted_return(rewards, gamma):
            raise error

        return discounted_return

    for error in (KeyboardInterrupt, TooLong):
        with pytest.raises(error):
            run_graders(EXERCISE, interrupted(error))


@pytest.mark.parametrize("head", ["rewards", "gamma, rewards", "rewards, gamma, more", "*anything"])
def test_another_signature_is_named(head):
    space = {}
    exec(f"def discounted_return({head}):\n    return 0.0", space)
    with pytest.raises(NotYet, match=r"parameters should be \(rewards, gamma\)"):
        check(space["discounted_return"])


def test_another_name_is_no_exercise():
    with pytest.raises(LookupError, match="keep the name"):
        check(lambda rewards, gamma: 0.0)
    with pytest.raises(LookupError):
        check(3)


def test_an_async_function_is_named():
    space = {}
    exec("async def discounted_return(rewards, gamma):\n    return 0.0", space)
    with pytest.raises(NotYet, match="async def"):
        check(space["discounted_return"])


def test_line_numbers_do_not_hide_a_diagnosis():
    """A mistake that raises is recognised whichever line it is on."""
    mine, known = (run_graders(EXERCISE, learner(blank + "return 1 / 0")) for blank in ("", "\n\n\n"))
    assert mine != known
    assert matching([Mutant("divides", "…", _marks(known))], mine).name == "divides"
