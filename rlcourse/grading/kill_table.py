"""The graders graded: which grader catches which wrong version. `make mutants` prints it and stores it.

The stored table, results/mutants.md, is part of the book's page for teachers.
"""

import argparse
import ast
import sys
from pathlib import Path
from typing import NamedTuple

from rlcourse.grading.exercises import ROOT, Exercise, alternatives, load_exercises, reference
from rlcourse.grading.graders import graders_of, mutants_of, run_graders

STORED = ROOT / "results" / "mutants.md"


class Row(NamedTuple):
    """One exercise."""

    exercise: Exercise
    graders: int
    kills: dict[str, list[str]]  # mutant: the graders that do not accept it
    accepted: int
    variants: int

    @property
    def killed(self) -> int:
        return sum(bool(by) for by in self.kills.values())


def row(exercise: Exercise) -> Row:
    """Run the graders on the reference, the mutants and the variants.

    Raises:
        RuntimeError: if the graders do not accept the reference.
    """
    if failures := run_graders(exercise, reference(exercise)):
        raise RuntimeError(f"{exercise.name}: the graders refuse the reference: {failures[0]}")
    prefix = f"test_{exercise.name}_"
    kills = {}
    for mutant in mutants_of(exercise):
        fails = {grader for grader, _ in mutant.fails}
        kills[mutant.name] = [
            g.__name__.removeprefix(prefix) for g in graders_of(exercise) if g.__name__ in fails
        ]
    variants = alternatives(exercise, "variants").values()
    accepted = sum(run_graders(exercise, v) == [] for v in variants)
    return Row(exercise, len(graders_of(exercise)), kills, accepted, len(variants))


def totals(rows: list[Row]) -> str:
    return (
        f"{len(rows)} exercises, {sum(r.graders for r in rows)} graders; "
        f"{sum(r.killed for r in rows)} of {sum(len(r.kills) for r in rows)} wrong versions caught, "
        f"{sum(r.accepted for r in rows)} of {sum(r.variants for r in rows)} correct variants accepted"
    )


def markdown(rows: list[Row]) -> str:
    """A table per chapter: a line per exercise, each wrong version with the graders that catch it."""
    lines = ["<!-- made by `make mutants`: do not edit -->", "", f"All chapters: {totals(rows)}.", ""]
    for stem in dict.fromkeys(r.exercise.chapter for r in rows):
        own = [r for r in rows if r.exercise.chapter == stem]
        lines += [f"```{{admonition}} {_chapter(stem)}: {totals(own)}", ":class: dropdown", ""]
        lines += ["| exercise | wrong version: caught by |", "|---|---|"]
        for r in own:
            name = f"{r.exercise.number} `{r.exercise.name}`<br>{r.graders} graders"
            by = "<br>".join(f"`{m}`: {', '.join(by).replace('_', ' ')}" for m, by in r.kills.items())
            lines.append(f"| {name} | {by} |")
        lines += ["```", ""]
    return "\n".join(lines)


def _chapter(stem: str) -> str:
    return f"Chapter {stem[2:].partition('_')[0].lstrip('0')}"


def names(root: Path = ROOT) -> set[tuple[str, str]]:
    """Exercise and mutant, as the files under tests/mutants/ name them; nothing is imported."""
    found = set()
    for name, exercise in load_exercises(root).items():
        path = root / "tests" / "mutants" / f"{exercise.chapter}.py"
        tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
        for node in tree.body:
            if getattr(node, "name", "").startswith(name + "__"):
                found.add((name, node.name.removeprefix(name + "__")))
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("chapters", nargs="*", help="only print these chapters, and store nothing")
    options = parser.parse_args(arguments)
    rows = []
    for exercise in load_exercises().values():
        if options.chapters and exercise.chapter not in options.chapters:
            continue
        r = row(exercise)
        rows.append(r)
        print(
            f"{exercise.number:>5}  {exercise.name}: {r.killed} of {len(r.kills)} wrong versions caught",
            flush=True,
        )
        for mutant, by in r.kills.items():
            print(f"{'':>9}{mutant}: {', '.join(by) or 'NOT CAUGHT'}")
    print(totals(rows))
    if not options.chapters:
        STORED.parent.mkdir(exist_ok=True)
        STORED.write_text(markdown(rows), encoding="utf-8")
        print(f"stored: {STORED.relative_to(ROOT)}")
    return int(any(r.killed < len(r.kills) or r.accepted < r.variants for r in rows))


if __name__ == "__main__":
    sys.exit(main())
