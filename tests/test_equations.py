"""Every labelled equation of the book is bound to a numerical test, and every such test to an equation."""

import ast
import re
from pathlib import Path

import pytest

from rlcourse.grading.exercises import load_exercises
from rlcourse.labs import LABEL

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "book").glob("*.md"))
LABELS = {label: page.stem for page in PAGES for label in LABEL.findall(page.read_text(encoding="utf-8"))}


def marked(path: Path) -> list[str]:
    """The labels in the `equation` marks of a test file's test functions."""
    return [
        arg.value
        for f in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(f, ast.FunctionDef) and f.name.startswith("test_")
        for mark in f.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation"
        for arg in mark.args
    ]


TESTS = {
    path.stem.removeprefix("test_"): marked(path)
    for path in sorted((ROOT / "tests" / "equations").glob("test_ch*.py"))
}


@pytest.mark.parametrize("label", LABELS)
def test_a_labelled_equation_has_a_test_in_its_chapter_file(label):
    assert label in TESTS.get(LABELS[label], []), f"mark a test with @pytest.mark.equation({label!r})"


def test_a_marked_test_has_an_equation():
    assert sorted({label for labels in TESTS.values() for label in labels} - set(LABELS)) == []


def test_labels_are_unique():
    found = [m for p in PAGES for m in LABEL.findall(p.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(set(found))


def test_equations_without_a_number_are_not_cited():
    for page in PAGES:
        cited = set(re.findall(r"\{eq\}`([^`]+)`", page.read_text(encoding="utf-8")))
        assert cited <= set(LABELS), f"{page.name} cites {sorted(cited - set(LABELS))}"


def test_an_exercise_implements_an_equation_that_exists():
    cited = {ex.equation for ex in load_exercises().values()} - {None}
    assert sorted(cited - set(LABELS)) == []
