"""A course of one chapter, made for the grader's own tests: every exercise has the same graders.

So a notebook can hold a hundred hostile functions, one per exercise, and be graded in one go: that also
shows that none of them harms another.
"""

import json
import shutil
from pathlib import Path

from rlcourse.grading.exercises import ROOT

STEM = "ch98_fixture"
SIGNATURE = "def NAME(values, factor):\n"
GOOD = SIGNATURE + "    return [factor * v for v in values]"
SECRET = "the-answer-is-in-here"

GRADERS = '''
def test_NAME_values(NAME):
    """Every value is multiplied by the factor."""
    expect_close(NAME([1.0, 2.0], 3.0), [3.0, 6.0], "the values 1, 2 times 3")


def test_NAME_none(NAME):
    """No values make no values."""
    expect_shape(NAME([], 3.0), (0,), "no values")


def test_NAME_keeps(NAME):
    """The list that was passed is not changed."""
    values = [1.0, 2.0]
    NAME(values, 3.0)
    expect_unchanged([1.0, 2.0], values, "values")


def test_NAME_whole(NAME):
    """Whole numbers stay whole."""
    expect_true(list(NAME([2], 3)) == [6], "2 times 3 should be 6")
'''
MUTANTS = '''
def NAME__adds(values, factor):
    """You add the factor to every value: the exercise wants the product."""
    return [factor + v for v in values]


def NAME__in_place(values, factor):
    """The numbers are right, but they are written into the list of the caller."""
    for i, v in enumerate(values):
        values[i] = factor * v
    return values
'''


def make(root: Path, names: list[str]) -> Path:
    """Write the course below `root`, with one exercise of ten points per name."""
    shutil.copytree(ROOT / "rlcourse" / "grading", root / "rlcourse" / "grading")
    for folder in ("rlcourse", "solutions", "tests", "tests/mutants", "tests/variants"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "__init__.py").write_text("")
    row = {"title": "Multiply", "difficulty": 1, "minutes": 5, "points": 10, "equation": None}
    head = "from rlcourse.grading.expect import expect_close, expect_shape, expect_true, expect_unchanged\n"
    table = f"EXERCISES = {dict.fromkeys(names, row)!r}\n"

    def repeated(text):
        return "\n\n".join(text.replace("NAME", name) for name in names) + "\n"

    (root / "tests" / f"test_{STEM}.py").write_text(head + table + repeated(GRADERS))
    (root / "tests" / "mutants" / f"{STEM}.py").write_text(repeated(MUTANTS))
    (root / "solutions" / f"{STEM}.py").write_text(f"SECRET = {SECRET!r}\n" + repeated(GOOD))
    (root / "solutions" / "ch97_earlier.py").write_text("def twice(x):\n    return 2 * x\n")
    return root


def notebook(*cells: str, **changes) -> dict:
    """A notebook with these code cells."""
    code = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    listed = [{**code, "id": f"c{i}", "source": source} for i, source in enumerate(cells)]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": listed} | changes


def write(path: Path, *cells: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(*cells)), encoding="utf-8")
    return path


def body(text: str) -> str:
    """A definition of NAME with this body."""
    return SIGNATURE + "\n".join("    " + line for line in text.splitlines())
