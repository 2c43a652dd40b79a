"""Find what was handed in: one notebook, one learner's folder, or a class."""

import re
from pathlib import Path
from typing import NamedTuple

from rlcourse.grading.exercises import Exercise
from rlcourse.grading.extract import Unreadable, read_cells, read_scope

COPY = re.compile(r"(?:[-_ ]*(?:copy\s?\d*|kopie|final|solved|done|v\d+))+$|\s*\(\d+\)$", re.IGNORECASE)


class Submission(NamedTuple):
    """One learner's notebooks."""

    student: str
    files: dict[str, Path]  # by chapter
    notes: tuple[str, ...] = ()


def find(path: Path, exercises: dict[str, Exercise], reports: Path | None = None) -> list[Submission]:
    """The submissions that a path stands for.

    A file is one submission. A folder with notebooks is one submission, or, if every file name holds more
    than the chapter (`ch02_mdp_alice.ipynb`), a class by file name. A folder of folders is a class.

    Raises:
        FileNotFoundError: if there is nothing of that name.
    """
    stems = list(dict.fromkeys(e.chapter for e in exercises.values()))
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(path)
    if not path.is_dir() or path.suffix == ".ipynb":
        return [_one(split_name(path, stems)[1] or path.stem, [path], stems, exercises)]
    files = [p for p in sorted(path.iterdir()) if p.suffix == ".ipynb" and not p.name.startswith(".")]
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and _is_learners(p) and p != reports]
    named = {p: split_name(p, stems) for p in files}
    if files and not all(stem and who for stem, who in named.values()):
        return [_one(path.resolve().name, files, stems, exercises)]
    by_name: dict[str, list[Path]] = {}
    for file, (_, who) in named.items():
        by_name.setdefault(who, []).append(file)
    for folder in folders:
        inside = [p for p in sorted(folder.rglob("*.ipynb")) if all(_is_learners(q) for q in p.parents)]
        inside = [
            p for p in inside if not p.name.startswith(".") and folder not in _folder_notebooks(p, folder)
        ]
        by_name.setdefault(folder.name, []).extend(inside)
    return [_one(who, found, stems, exercises) for who, found in sorted(by_name.items())]


def _is_learners(folder: Path) -> bool:
    return folder.suffix != ".ipynb" and folder.name not in (
        "__MACOSX",
        "__pycache__",
        ".ipynb_checkpoints",
        ".git",
    )


def _folder_notebooks(path: Path, folder: Path) -> list[Path]:
    """Never empty for a file below a folder that is itself called `*.ipynb`."""
    return [folder for p in path.relative_to(folder).parents if p.suffix == ".ipynb"]


def split_name(path: Path, stems: list[str]) -> tuple[str, str]:
    """Chapter and learner from a file name: `ch02_mdp_alice (1).ipynb` is ("ch02_mdp", "alice")."""
    name = path.name.removesuffix(".ipynb")
    for stem in sorted(stems, key=len, reverse=True):
        if stem in name:
            before, _, after = name.partition(stem)
            break
    else:
        short = re.search(r"ch(?:apter)?[-_ ]?(\d{1,2})(?!\d)", name, re.IGNORECASE)
        number = f"ch{int(short[1]):02}" if short else "-"
        fitting = [s for s in stems if s.startswith(number)]
        if len(fitting) != 1:
            return "", ""
        stem, before, after = fitting[0], name[: short.start()], name[short.end() :]
    rest = COPY.sub("", f"{before.strip('-_ .')} {after.strip('_ .')}").strip("-_ .")
    return stem, rest


def _one(student: str, files: list[Path], stems: list[str], exercises: dict[str, Exercise]) -> Submission:
    """Decide which file is which chapter; where two claim one, the better named or fuller one counts."""
    claims: dict[str, list[tuple]] = {}
    notes = []
    for path in files:
        stem = split_name(path, stems)[0]
        written = _written(path, exercises)
        if not stem and written:
            stem = max(stems, key=lambda s: sum(exercises[n].chapter == s for n in written))
        if stem:
            claims.setdefault(stem, []).append((path.stem != stem, -len(written or []), str(path), path))
        elif written is None:
            notes.append(f"{path.name!r} {_problem(path)}")
        else:
            notes.append(f"{path.name!r} is no lab of this course: it defines none of its exercises")
    chosen = {}
    for stem in sorted(claims):
        first, *others = sorted(claims[stem])
        chosen[stem] = first[-1]
        notes += [f"{first[-1].name!r} is graded, {other[-1].name!r} is not" for other in others]
    if not files:
        notes.append("there is no notebook in the folder")
    return Submission(student, chosen, tuple(notes))


def _written(path: Path, exercises: dict[str, Exercise]) -> list[str] | None:
    """The exercises that a notebook defines, stubs included; None if it cannot be read."""
    try:
        return [name for name in read_scope(read_cells(path)).binding if name in exercises]
    except Unreadable:
        return None


def _problem(path: Path) -> str:
    try:
        read_cells(path)
    except Unreadable as error:
        return str(error)
    return ""
