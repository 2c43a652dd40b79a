"""Every exercise is a fixture: a grader's argument `compute_gae` is solutions.ch06_ppo.compute_gae."""

import pytest

from rlcourse.grading.exercises import load_exercises, reference


def pytest_addoption(parser):
    text = "what rlcourse/grading/pytest_submission.py grades: a notebook, a folder, a class"
    parser.addoption("--submission", metavar="PATH", help=text)


def pytest_configure(config):
    config.addinivalue_line("markers", "equation(label): verifies the labelled equation of the book")
    config.addinivalue_line("markers", "browser: drives a real browser over the built book")


def _fixture(exercise):
    @pytest.fixture(name=exercise.name)
    def implementation():
        return reference(exercise)

    return implementation


for _exercise in load_exercises().values():
    globals()[f"fixture_{_exercise.name}"] = _fixture(_exercise)
