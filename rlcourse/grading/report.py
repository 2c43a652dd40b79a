"""What grading writes: a table for the terminal, JSON, JUnit XML, Markdown, a badge, and CSV for a class."""

import csv
import html
import json
import os
import re
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from rlcourse.grading.runner import Result

MARKS = {"right": "✓", "wrong": "✗", "error": "!", "not attempted": "○"}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str, most: int = 2000) -> str:
    """A learner's text without what could steer a terminal, a spreadsheet or an XML reader."""
    text = CONTROL.sub("", str(text))
    return "".join(c for c in text if unicodedata.category(c) != "Cf")[:most]


def one_line(text: str, most: int = 300) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 2] + " …"


def as_dict(student: str, files: dict, results: list[Result], notes=()) -> dict:
    """A submission's report as plain data; the same submission gives the same report."""
    return {
        "student": clean(student, 200),
        "files": files,
        "points": sum(r.points for r in results),
        "of": sum(r.exercise.points for r in results),
        "notes": [clean(n) for n in notes],
        "exercises": [
            {
                "exercise": r.exercise.name,
                "chapter": r.exercise.chapter,
                "number": r.exercise.number,
                "title": r.exercise.title,
                "status": r.status,
                "points": r.points,
                "of": r.exercise.points,
                "message": clean(r.message),
                "mutant": r.mutant,
                "diagnosis": clean(r.diagnosis),
                "failures": [[clean(part) for part in f] for f in r.failures],
                "notes": [clean(n) for n in r.notes],
            }
            for r in results
        ],
    }


def terminal(report: dict) -> str:
    """A table of one line per exercise, and what to mend."""
    width = max([len(e["exercise"]) for e in report["exercises"]], default=0)
    lines = [f"{report['student']}: {report['points']} of {report['of']} points"]
    for e in report["exercises"]:
        points = f"{e['points']}/{e['of']}"
        text = e["message"] if e["status"] in ("wrong", "error") else e["status"]
        lines.append(
            f"  {MARKS[e['status']]} {e['number']:>5}  {e['exercise']:<{width}}  {points:>6}"
            f"  {one_line(text)}"
        )
        if e["diagnosis"]:
            lines.append(f"{'':>11}Diagnosis ({e['mutant']}): {e['diagnosis']}")
        lines += [f"{'':>11}Note: {one_line(n)}" for n in e["notes"]]
    lines += [f"  Note: {one_line(n)}" for n in report["notes"]]
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """A summary for a job's page."""
    lines = [f"## {_cell(report['student'])}: {report['points']} of {report['of']} points", ""]
    lines += ["| | exercise | points | what to look at |", "|---|---|---:|---|"]
    for e in report["exercises"]:
        text = _cell(e["message"]) if e["status"] in ("wrong", "error") else e["status"]
        text += f"<br>**Diagnosis:** {_cell(e['diagnosis'])}" if e["diagnosis"] else ""
        text += "".join(f"<br>Note: {_cell(n)}" for n in e["notes"])
        name = f"{e['number']} `{e['exercise']}`"
        lines.append(f"| {MARKS[e['status']]} | {name} | {e['points']}/{e['of']} | {text} |")
    lines += ["", *(f"Note: {_cell(n)}\n" for n in report["notes"])]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    text = html.escape(one_line(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|@~$])", r"\\\1", text)


def junit(report: dict) -> str:
    """JUnit XML: a suite per chapter, a case per exercise; not attempted is skipped."""
    chapters = dict.fromkeys(e["chapter"] for e in report["exercises"])
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites name={_attribute(report['student'])}>"]
    for chapter in chapters:
        rows = [e for e in report["exercises"] if e["chapter"] == chapter]
        count = Counter(e["status"] for e in rows)
        lines.append(
            f'<testsuite name={_attribute(chapter)} tests="{len(rows)}" failures="{count["wrong"]}" '
            f'errors="{count["error"]}" skipped="{count["not attempted"]}">'
        )
        for e in rows:
            lines.append(f"<testcase classname={_attribute(chapter)} name={_attribute(e['exercise'])}>")
            body = escape(clean("\n".join(filter(None, [e["message"], e["diagnosis"], *e["notes"]]))))
            tag = {"wrong": "failure", "error": "error"}.get(e["status"])
            if tag:
                lines.append(f"<{tag} message={_attribute(one_line(e['message']))}>{body}</{tag}>")
            elif e["status"] == "not attempted":
                lines.append("<skipped message='not attempted'/>")
            lines.append("</testcase>")
        lines.append("</testsuite>")
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _attribute(text: str) -> str:
    return quoteattr(clean(text), {"\n": " ", "\t": " "})


def badge(report: dict) -> str:
    """A small picture with the points, for a README."""
    points, of = report["points"], report["of"]
    label, value = "exercises", f"{points} / {of}"
    left, right = 74, 14 + 7 * len(value)
    colour = "#15803d" if of and points == of else "#2563eb" if points else "#64748b"
    text = 'fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}"><title>{label}: {value}</title>'
        f'<rect width="{left + right}" height="20" rx="3" fill="{colour}"/>'
        f'<path d="M3 0h{left - 3}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#334155"/>'
        f'<text x="{left / 2:g}" y="14" {text}>{label}</text>'
        f'<text x="{left + right / 2:g}" y="14" {text}>{value}</text></svg>\n'
    )


def write(folder: Path, report: dict) -> None:
    """All reports of one submission."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    save(folder / "junit.xml", junit(report))
    save(folder / "report.md", markdown(report))
    save(folder / "badge.svg", badge(report))


def save(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old text or the new one, never a half."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


def write_class(folder: Path, reports: list[dict]) -> None:
    """class.csv: a row a learner, a column an exercise. mistakes.csv: which known mistake how often."""
    names = list(dict.fromkeys(e["exercise"] for r in reports for e in r["exercises"]))
    rows = [["student", "points", "of", *names, "notes"]]
    for r in sorted(reports, key=lambda r: r["student"]):
        got = {e["exercise"]: e["points"] if e["status"] != "not attempted" else "" for e in r["exercises"]}
        notes = [*r["notes"], *(f"{e['exercise']}: {n}" for e in r["exercises"] for n in e["notes"])]
        notes += [f"{e['exercise']}: {e['message']}" for e in r["exercises"] if e["status"] == "error"]
        rows.append([r["student"], r["points"], r["of"], *(got.get(n, "") for n in names), "; ".join(notes)])
    _csv(folder / "class.csv", rows)
    wrong = [e for r in reports for e in r["exercises"] if e["status"] == "wrong"]
    count = Counter((e["exercise"], e["mutant"] or "(not a known mistake)", e["diagnosis"]) for e in wrong)
    mistakes = [[name, mutant, n, text] for (name, mutant, text), n in count.most_common()]
    _csv(folder / "mistakes.csv", [["exercise", "mistake", "learners", "diagnosis"], *mistakes])


def _csv(path: Path, rows: list[list]) -> None:
    """UTF-8 with a mark, so that spreadsheets read it; no cell begins like a formula."""
    import io

    text = io.StringIO()
    safe = [[_no_formula(one_line(c, 1000)) if isinstance(c, str) else c for c in row] for row in rows]
    csv.writer(text, lineterminator="\n").writerows(safe)
    save(path, "\ufeff" + text.getvalue())


def _no_formula(text: str) -> str:
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text
