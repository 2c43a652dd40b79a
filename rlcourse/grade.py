"""Grade submitted notebooks without trusting them: `python -m rlcourse.grade notebooks/ --report out`.

PATH is a notebook, a learner's folder of notebooks, a folder with one folder per learner, or a folder of
notebooks named like ch02_mdp_alice.ipynb. The exit code is 0 when grading worked, whatever the marks are;
1 with --strict if an exercise is not right; 2 for a wrong command; 3 if the graders themselves do not run.
"""

import argparse
import json
import os
import re
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rlcourse.grading import report as reports
from rlcourse.grading.exercises import ROOT
from rlcourse.grading.runner import Grader, GraderBroken, Result, fingerprint
from rlcourse.grading.submissions import Submission, find


def grade_submission(grader: Grader, submission: Submission, chapters: list[str]) -> dict:
    """The report of one submission over these chapters. A chapter that was not handed in is not attempted."""
    results, files = [], {}
    for stem in chapters:
        path = submission.files.get(stem)
        if path is None:
            results += [Result(e, "not attempted") for e in grader.of_chapter(stem)]
            continue
        files[stem] = {"file": reports.clean(path.name, 200), "sha256": fingerprint(path)}
        results += grader.grade(path, stem)
    return reports.as_dict(submission.student, files, results, submission.notes)


def folder_names(students: list[str]) -> list[str]:
    """A safe and unique folder name for every learner."""
    names, taken = [], set()
    for student in students:
        base = re.sub(r"[^\w.-]+", "_", student).strip("._")[:80] or "learner"
        name, n = base, 2
        while name.lower() in taken:
            name, n = f"{base}-{n}", n + 1
        taken.add(name.lower())
        names.append(name)
    return names


def stored(folder: Path, submission: Submission, chapters: list[str]) -> dict | None:
    """The report of an earlier run, if it is about the very same files and chapters."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        same = {s: v["sha256"] for s, v in found["files"].items()}
        now = {s: fingerprint(p) for s, p in submission.files.items() if s in chapters}
        covered = list(dict.fromkeys(e["chapter"] for e in found["exercises"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if same == now and covered == chapters else None


def grade_all(grader, submissions, chapters, folder, jobs=1, resume=False) -> tuple[list[dict], list[str]]:
    """Grade every submission; each report is written as soon as it is there.

    Returns:
        The reports, and one sentence for each submission that could not be graded.
    """
    many = len(submissions) > 1
    names = folder_names([s.student for s in submissions])
    done, broken = [], []

    def one(submission, name):
        own = folder / name if folder and many else folder
        if resume and own and (found := stored(own, submission, chapters)):
            return found, True
        found = grade_submission(grader, submission, chapters)
        if own:
            reports.write(own, found)
        return found, False

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        waiting = {pool.submit(one, s, n): s for s, n in zip(submissions, names, strict=True)}
        for future in as_completed(waiting):
            student = waiting[future].student
            try:
                found, old = future.result()
            except GraderBroken as error:
                broken.append(f"{student}: not graded. {error}")
                continue
            except Exception as error:
                traceback.print_exc()
                broken.append(f"{student}: not graded. The grader failed: {type(error).__name__}: {error}")
                continue
            done.append(found)
            if many:
                print(f"{found['points']:>4} of {found['of']}  {found['student']}{'  (graded before)' * old}")
                if folder:
                    reports.write_class(folder, done)
            else:
                print(reports.terminal(found))
    return done, broken


def chapters_of(submissions: list[Submission], grader: Grader, asked: list[str] | None) -> list[str]:
    known = list(dict.fromkeys(e.chapter for e in grader.exercises.values()))
    if asked:
        if unknown := set(asked) - set(known):
            raise SystemExit2(f"no chapter {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
        return [s for s in known if s in asked]
    handed = {stem for s in submissions for stem in s.files}
    return [s for s in known if s in handed]


class SystemExit2(Exception):
    """A wrong command; the message says what is wrong."""


def parse(arguments: list[str] | None):
    parser = argparse.ArgumentParser("python -m rlcourse.grade", description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="+", type=Path, help="notebook, folder, or class")
    parser.add_argument("--report", type=Path, metavar="DIR", help="where reports go (a class: grades/)")
    parser.add_argument(
        "--chapter", action="append", metavar="STEM", help="only this chapter; may be repeated"
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="submissions that are graded at once")
    parser.add_argument("--seconds", type=float, help="CPU seconds per exercise (default 10, with torch 30)")
    parser.add_argument("--resume", action="store_true", help="keep reports of files that did not change")
    parser.add_argument("--strict", action="store_true", help="exit with 1 unless every exercise is right")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    options = parse(arguments)
    threading.stack_size(64 << 20)  # deeply nested source needs room to be refused in good order
    grader = Grader(root, seconds=options.seconds)
    submissions: list[Submission] = []
    try:
        for path in options.path:
            submissions += find(path, grader.exercises, options.report)
        chapters = chapters_of(submissions, grader, options.chapter)
    except FileNotFoundError as error:
        print(f"{error}: there is no such file or folder", file=sys.stderr)
        return 2
    except SystemExit2 as error:
        print(error, file=sys.stderr)
        return 2
    if not submissions:
        print(f"no notebooks in {', '.join(map(str, options.path))}", file=sys.stderr)
        return 2
    many = len(submissions) > 1
    folder = options.report or (Path("grades") if many else None)
    if os.name == "nt":
        print("Windows: no limits on memory and CPU time; the clock still stops endless loops.")
    if many:
        print(f"{len(submissions)} submissions, chapters: {', '.join(chapters) or 'none recognised'}")
    done, broken = grade_all(grader, submissions, chapters, folder, options.jobs, options.resume)
    if folder:
        print(f"reports: {folder}")
    for sentence in broken:
        print(sentence, file=sys.stderr)
    if broken:
        return 3
    return int(options.strict and any(e["status"] != "right" for r in done for e in r["exercises"]))


if __name__ == "__main__":
    sys.exit(main())
