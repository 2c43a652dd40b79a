"""What exercises there are: the tables `EXERCISES` of tests/test_ch*.py, read without importing them."""

import ast
import functools
import importlib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Exercise(NamedTuple):
    """One exercise of the course."""

    name: str  # the function that the learner writes
    chapter: str  # stem, such as "ch02_mdp"
    number: str  # "2.3": the third exercise of chapter 2
    title: str
    difficulty: int  # 1 to 5
    minutes: int
    points: int
    equation: str | None  # label of the equation that it implements

    @property
    def dots(self) -> str:
        return "●" * self.difficulty + "○" * (5 - self.difficulty)


def chapters(root: Path = ROOT) -> list[str]:
    """The stems of the chapters that have exercises, in order."""
    return sorted(p.stem.removeprefix("test_") for p in (root / "tests").glob("test_ch[0-9]*.py"))


def _table(root: Path, stem: str) -> dict:
    tree = ast.parse((root / "tests" / f"test_{stem}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXERCISES":
            return ast.literal_eval(node.value)
    return {}


@functools.cache
def load_exercises(root: Path = ROOT) -> dict[str, Exercise]:
    """All exercises by name, in the order of the chapters.

    Args:
        root: the folder of the course; the grader's own tests grade a small course of their own.

    Raises:
        ValueError: if two chapters use the same name.
    """
    found = {}
    for stem in chapters(root):
        for i, (name, row) in enumerate(_table(root, stem).items(), 1):
            if name in found:
                raise ValueError(f"{name} is an exercise of {found[name].chapter} and of {stem}: rename one")
            found[name] = Exercise(name, stem, f"{int(stem[2:4])}.{i}", **row)
    return found


def reference(exercise: Exercise):
    """The reference implementation."""
    return getattr(importlib.import_module(f"solutions.{exercise.chapter}"), exercise.name)


def alternatives(exercise: Exercise, folder: str) -> dict:
    """The functions `<exercise>__<suffix>` of tests/mutants or tests/variants, by suffix."""
    if not (ROOT / "tests" / folder / f"{exercise.chapter}.py").is_file():
        return {}
    module = importlib.import_module(f"tests.{folder}.{exercise.chapter}")
    prefix = exercise.name + "__"
    return {k.removeprefix(prefix): f for k, f in vars(module).items() if k.startswith(prefix)}
