"""From the command line to the reports: one learner, a class, and what must not get lost."""

import csv
import io
import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from rlcourse import grade
from rlcourse.grading import report as reports
from rlcourse.grading.exercises import ROOT, Exercise
from rlcourse.grading.runner import Grader, GraderBroken, Result
from rlcourse.grading.submissions import find, split_name
from tests.grading_course import GOOD, STEM, body, make, write

NAMES = ["first", "second", "third"]
RIGHT = GOOD.replace("NAME", "first")
ADDS = body("return [factor + v for v in values]").replace("NAME", "second")
STUB = body("raise NotImplementedError").replace("NAME", "third")
NASTY = "=1+1|`<script>alert(1)</script>`]]>\x1b[31m\u202e\x00 & \"'\n# Title"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course"), NAMES)


@pytest.fixture
def learner(tmp_path):
    return write(tmp_path / "alice" / f"{STEM}.ipynb", RIGHT, ADDS, STUB)


def run(course, *arguments):
    return grade.main([str(a) for a in arguments], root=course)


def test_one_notebook(course, learner, tmp_path, capsys):
    assert run(course, learner, "--report", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "10 of 30 points" in text
    words = " ".join(text.split())
    assert "✓ 98.1 first 10/10" in words and "✗ 98.2 second 0/10" in words and "○ 98.3 third" in words
    assert "expected [3, 6], got [4, 5]" in text
    assert "Diagnosis (adds): You add the factor to every value" in text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [e["points"] for e in report["exercises"]] == [10, 0, 0]
    assert report["exercises"][1]["mutant"] == "adds"
    cases = ET.parse(tmp_path / "out" / "junit.xml").getroot().findall(".//testcase")
    assert [[child.tag for child in case] for case in cases] == [[], ["failure"], ["skipped"]]
    assert "| ✗ | 98.2 `second` | 0/10 |" in (tmp_path / "out" / "report.md").read_text()
    assert "10 / 30" in ET.parse(tmp_path / "out" / "badge.svg").getroot()[0].text


def test_the_same_submission_gives_the_same_report(course, learner, tmp_path):
    for out in ("a", "b"):
        run(course, learner, "--report", tmp_path / out)
    for name in ("report.json", "junit.xml", "report.md", "badge.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_exit_codes(course, learner, tmp_path, capsys):
    assert run(course, learner) == 0
    assert run(course, learner, "--strict") == 1
    right = [GOOD.replace("NAME", n) for n in NAMES]
    assert run(course, write(tmp_path / "b" / f"{STEM}.ipynb", *right), "--strict") == 0
    assert run(course, tmp_path / "missing") == 2
    assert run(course, learner, "--chapter", "ch99_none") == 2
    (tmp_path / "void").mkdir()
    assert run(course, tmp_path / "void") == 2
    assert "no such file" in (err := capsys.readouterr().err) and "there are: ch98_fixture" in err


def test_graders_that_do_not_run_are_reported_as_such(course, learner, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise GraderBroken("the graders do not run: no module x")

    monkeypatch.setattr(Grader, "grade", broken)
    assert run(course, learner, "--report", tmp_path / "out") == 3
    assert "not graded" in capsys.readouterr().err


@pytest.fixture
def klass(tmp_path):
    folder = tmp_path / "class"
    write(folder / "alice" / f"{STEM}.ipynb", RIGHT, ADDS)
    write(folder / "bob" / "deep" / "down" / "Untitled7 (2).ipynb", RIGHT, ADDS)
    write(folder / "carol" / f"{STEM}-Copy1.ipynb", *(GOOD.replace("NAME", n) for n in NAMES))
    write(folder / "carol" / ".ipynb_checkpoints" / f"{STEM}-checkpoint.ipynb", RIGHT)
    (folder / "dave").mkdir()
    (folder / "erin").mkdir()
    (folder / "erin" / f"{STEM}.ipynb").write_text("{")
    (folder / "frank").mkdir()
    (folder / "frank" / "essay.ipynb").write_bytes(b"%PDF")
    write(folder / "grace" / f"{STEM}.ipynb", body("while True:\n    pass").replace("NAME", "first"), ADDS)
    write(folder / "=cmd|x" / f"{STEM}.ipynb", RIGHT)
    (folder / "heidi" / f"{STEM}.ipynb").mkdir(parents=True)
    write(folder / "ivan" / "holiday.ipynb", "x = 1")
    return folder


def rows(path):
    text = path.read_bytes().decode("utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text))}


def test_a_class_of_folders(course, klass, tmp_path):
    out = tmp_path / "out"
    assert run(course, klass, "--report", out, "-j", "2", "--seconds", "0.5") == 0
    table = rows(out / "class.csv")
    got = {who: [row["points"], row["first"], row["second"]] for who, row in table.items()}
    assert got == {
        "'=cmd|x": ["10", "10", ""],
        "alice": ["10", "10", "0"],
        "bob": ["10", "10", "0"],
        "carol": ["30", "10", "10"],
        "dave": ["0", "", ""],
        "erin": ["0", "0", "0"],
        "frank": ["0", "", ""],
        "grace": ["0", "0", "0"],
        "heidi": ["0", "0", "0"],
        "ivan": ["0", "", ""],
    }
    assert "no notebook" in table["dave"]["notes"] and "breaks off" in table["erin"]["notes"]
    assert "is a PDF" in table["frank"]["notes"] and "no answer within" in table["grace"]["notes"]
    assert "is a folder" in table["heidi"]["notes"]
    assert "defines none of its exercises" in table["ivan"]["notes"]
    assert all(row["of"] == "30" for row in table.values())
    for name in ("report.json", "junit.xml", "report.md", "badge.svg"):
        assert len(list(out.glob(f"*/{name}"))) == 10
    mistakes = list(csv.DictReader(io.StringIO((out / "mistakes.csv").read_bytes().decode("utf-8-sig"))))
    assert [mistakes[0][k] for k in ("exercise", "mistake", "learners")] == ["second", "adds", "3"]


def test_a_class_by_file_name(course, tmp_path):
    for who in ("alice", "bob smith"):
        write(tmp_path / "class" / f"{STEM}_{who}.ipynb", RIGHT)
    write(tmp_path / "class" / f"zoe-{STEM} (1).ipynb", ADDS)
    assert [s.student for s in find(tmp_path / "class", Grader(course).exercises)] == [
        "alice",
        "bob smith",
        "zoe",
    ]


def test_which_of_two_notebooks_counts(course, tmp_path):
    write(tmp_path / "a" / f"{STEM}.ipynb", RIGHT)
    write(tmp_path / "a" / f"{STEM}-old.ipynb", RIGHT, ADDS)
    (only,) = find(tmp_path / "a", Grader(course).exercises)
    assert only.files == {STEM: tmp_path / "a" / f"{STEM}.ipynb"}
    assert only.notes == (f"'{STEM}.ipynb' is graded, '{STEM}-old.ipynb' is not",)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ch02_mdp", ("ch02_mdp", "")),
        ("ch02_mdp_alice", ("ch02_mdp", "alice")),
        ("ch02_mdp-Copy1", ("ch02_mdp", "")),
        ("ch02_mdp (3)", ("ch02_mdp", "")),
        ("Alice Smith_1234_ch02_mdp", ("ch02_mdp", "Alice Smith_1234")),
        ("Chapter 2 bob", ("ch02_mdp", "bob")),
        ("ch12", ("", "")),
        ("notes", ("", "")),
    ],
)
def test_names_of_files(name, expected, tmp_path):
    assert split_name(tmp_path / f"{name}.ipynb", ["ch02_mdp", "ch03_bellman"]) == expected


def test_names_of_report_folders():
    assert grade.folder_names(["a/../b", "a b", "a_b", "A_B", "..", "日本", "x" * 300]) == [
        *("a_.._b", "a_b", "a_b-2", "A_B-3", "learner", "日本", "x" * 80)
    ]


def test_one_submission_that_breaks_the_grader_does_not_stop_the_others(
    course, klass, tmp_path, monkeypatch, capsys
):
    true = Grader.grade

    def sometimes(self, path, stem):
        if "alice" in str(path):
            raise RuntimeError("surprise")
        return true(self, path, stem)

    monkeypatch.setattr(Grader, "grade", sometimes)
    assert run(course, klass, "--report", tmp_path / "out", "--seconds", "0.5") == 3
    table = rows(tmp_path / "out" / "class.csv")
    assert len(table) == 9 and "alice" not in table
    assert "alice: not graded. The grader failed: RuntimeError: surprise" in capsys.readouterr().err


def test_each_report_is_there_as_soon_as_it_is_graded(course, klass, tmp_path, monkeypatch):
    """An interruption, such as Ctrl-C or a power cut, loses nothing that was finished."""
    seen = []

    def written(self, path, stem):
        seen.append(len(list((tmp_path / "out").glob("*/report.json"))))
        return [Result(e, "not attempted") for e in self.of_chapter(stem)]

    monkeypatch.setattr(Grader, "grade", written)
    run(course, klass, "--report", tmp_path / "out")
    assert seen[-1] >= 5


def test_resume_grades_only_what_changed(course, klass, tmp_path, monkeypatch):
    out, graded, true = tmp_path / "out", [], Grader.grade
    run(course, klass, "--report", out, "--seconds", "0.5")
    first = (out / "class.csv").read_bytes()
    monkeypatch.setattr(
        Grader, "grade", lambda self, path, stem: graded.append(path) or true(self, path, stem)
    )
    run(course, klass, "--report", out, "--resume", "--seconds", "0.5")
    assert graded == [] and (out / "class.csv").read_bytes() == first
    write(klass / "alice" / f"{STEM}.ipynb", RIGHT)
    run(course, klass, "--report", out, "--resume", "--seconds", "0.5")
    assert [p.parent.name for p in graded] == ["alice"]


def test_hostile_text_stays_text(tmp_path):
    exercise = Exercise("one", STEM, "98.1", "T", 1, 5, 10, None)
    results = [
        Result(exercise, status, NASTY, notes=(NASTY,), diagnosis=NASTY) for status in ("wrong", "error")
    ]
    report = reports.as_dict(NASTY, {}, results, [NASTY])
    reports.write(tmp_path, report)
    reports.write_class(tmp_path, [report])
    ET.parse(tmp_path / "junit.xml")
    ET.parse(tmp_path / "badge.svg")
    written = reports.terminal(report) + "".join(p.read_text() for p in tmp_path.iterdir())
    assert not set("\x1b\x00\u202e") & set(written)
    page = (tmp_path / "report.md").read_text()
    assert "<script" not in page and "\n# Title" not in page
    assert all(line.count("|") - line.count("\\|") == 5 for line in page.splitlines() if line.startswith("|"))
    row = next(csv.reader(io.StringIO((tmp_path / "class.csv").read_text().split("\n", 1)[1])))
    assert row[0].startswith("'=")


def test_the_command(learner):
    """As the README gives it; with the true course, whose exercises this notebook does not have."""
    command = [sys.executable, "-m", "rlcourse.grade", str(learner)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "defines none of its exercises" in done.stdout
