"""Grade a submission with pytest: `pytest --submission=PATH rlcourse/grading/pytest_submission.py`.

One test per exercise of each submission; an exercise that was not attempted is skipped. It is the same
isolated grader as `python -m rlcourse.grade`, for those who want pytest's own reports and options (-k, -x,
--junitxml). Without --submission it grades `notebooks/`.
"""

import functools
from pathlib import Path

import pytest

from rlcourse.grading.exercises import ROOT
from rlcourse.grading.runner import Grader, Result
from rlcourse.grading.submissions import find


def pytest_generate_tests(metafunc):
    path = Path(metafunc.config.getoption("--submission") or ROOT / "notebooks")
    grader = Grader()
    cases = []
    for submission in find(path, grader.exercises):
        cases += [
            pytest.param(file, stem, exercise.name, id=f"{submission.student}-{exercise.name}")
            for stem, file in submission.files.items()
            for exercise in grader.of_chapter(stem)
        ]
        if not submission.files:
            why = "; ".join(submission.notes)
            cases.append(pytest.param(None, why, "", id=f"{submission.student}-nothing_to_grade"))
    metafunc.parametrize("file, stem, name", cases)


@functools.cache
def graded(file: Path, stem: str) -> dict[str, Result]:
    """A notebook is graded once, for the tests of all its exercises."""
    return {r.exercise.name: r for r in Grader().grade(file, stem)}


def test_exercise(file, stem, name):
    if file is None:
        pytest.fail(stem, pytrace=False)
    result = graded(file, stem)[name]
    if result.status == "not attempted":
        pytest.skip("not attempted")
    if result.status != "right":
        text = [result.message, result.diagnosis and f"Diagnosis: {result.diagnosis}", *result.notes]
        pytest.fail("\n".join(filter(None, text)), pytrace=False)
