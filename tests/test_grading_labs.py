"""The real labs as submissions: references are right, stubs are not attempted, mutants are named."""

import ast
import json
import os
import subprocess
import sys

import pytest

from rlcourse.grading import kill_table
from rlcourse.grading.exercises import ROOT, alternatives, load_exercises
from rlcourse.grading.runner import TORCH, Grader

EXERCISES = load_exercises()
STEMS = [
    s
    for s in dict.fromkeys(e.chapter for e in EXERCISES.values())
    if (ROOT / f"notebooks/{s}.ipynb").is_file()
]
PLAIN = [s for s in STEMS if not TORCH.search((ROOT / f"solutions/{s}.py").read_text(encoding="utf-8"))]
every_lab = pytest.mark.parametrize("stem", STEMS)


def definitions(path):
    """Source of the functions and classes of a module, by name, each with its decorators."""
    text = path.read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


def filled(stem, answers, folder, extra=""):
    """The lab with these answers in place of its stubs, and one more cell in front."""
    notebook = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        for name, text in answers.items():
            if cell["cell_type"] == "code" and f"\n{name} = check({name})" in source:
                cell["source"] = f"{text}\n\n\n{name} = check({name})"
    notebook["cells"].insert(0, {"cell_type": "code", "metadata": {}, "outputs": [], "source": extra})
    path = folder / f"{stem}.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


@every_lab
def test_the_references_are_right_in_fifteen_seconds(stem, tmp_path):
    source = definitions(ROOT / "solutions" / f"{stem}.py")
    path = filled(stem, {n: source[n] for n, e in EXERCISES.items() if e.chapter == stem}, tmp_path)
    start = sum(os.times()[:4])  # CPU seconds of this process and of those that it waited for
    results = Grader().grade(path, stem)
    seconds = sum(os.times()[:4]) - start
    assert [(r.exercise.name, r.status, r.message) for r in results if r.status != "right"] == []
    assert [r.notes for r in results if r.notes] == []
    if stem in PLAIN:
        assert seconds < 15


def test_the_labs_as_they_are_count_as_not_attempted():
    for stem in STEMS:
        results = Grader().grade(ROOT / "notebooks" / f"{stem}.ipynb", stem)
        assert {r.status for r in results} == {"not attempted"}


def test_a_chapter_of_mutants_is_named(tmp_path):
    """One wrong version of every exercise of chapter 2 in one notebook."""
    stem = "ch02_mdp"
    answers, expected = {}, {}
    mutants = ROOT / "tests" / "mutants" / f"{stem}.py"
    source = definitions(mutants)
    for exercise in (e for e in EXERCISES.values() if e.chapter == stem):
        suffix = next(iter(alternatives(exercise, "mutants")))
        expected[exercise.name] = suffix
        answers[exercise.name] = source[f"{exercise.name}__{suffix}"].replace(f"__{suffix}", "")
    results = Grader().grade(filled(stem, answers, tmp_path, mutants.read_text(encoding="utf-8")), stem)
    assert {r.exercise.name: r.mutant for r in results} == expected


def test_pytest_grades_a_submission(tmp_path):
    stem = "ch02_mdp"
    right = definitions(ROOT / "solutions" / f"{stem}.py")["discounted_return"]
    wrong = "def returns_to_go(rewards, gamma):\n    return 0"
    path = filled(stem, {"discounted_return": right, "returns_to_go": wrong}, tmp_path)
    command = [sys.executable, "-m", "pytest", "-rA", "-p", "no:cacheprovider", f"--submission={path}"]
    done = subprocess.run(
        [*command, "rlcourse/grading/pytest_submission.py"], cwd=ROOT, capture_output=True, text=True
    )
    count = sum(e.chapter == stem for e in EXERCISES.values())
    assert f"1 failed, 1 passed, {count - 2} skipped" in done.stdout, done.stdout + done.stderr
    assert "test_exercise[ch02_mdp-returns_to_go]" in done.stdout


def test_the_stored_kill_table_is_current():
    """After a change of the mutants: `make mutants`."""
    stored = set()
    for line in kill_table.STORED.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and "`" in line:
            first, second = line.strip("| ").split(" | ")
            for part in second.split("<br>"):
                _, mutant, graders = part.split("`")
                assert graders.strip(": |"), f"no grader catches {mutant}"
                stored.add((first.split("`")[1], mutant))
    assert stored == kill_table.names()
