"""Broken files and odd notebooks: one clear sentence each, and never an exception."""

import json
import os

import pytest

from rlcourse.grading import extract
from rlcourse.grading.extract import Unreadable, read_cells, read_scope, to_python
from rlcourse.grading.runner import Grader
from tests.grading_course import GOOD, STEM, make, notebook, write

TEXT = json.dumps(notebook(GOOD))
BROKEN = {
    "empty": (b"", "is empty"),
    "only spaces": (b" \n\n ", "is empty"),
    "cut off": (TEXT[:200].encode(), "breaks off"),
    "cut off after a brace": (b"{", "breaks off"),
    "cut off in a string": (b'{"cells": [{"source": "de', "breaks off"),
    "not json": (b'{"cells": [}, "nbformat": 4}', "not valid JSON (line 1, column 12"),
    "merge marks": (
        b'{\n<<<<<<< HEAD\n "cells": [],\n=======\n "cells": [1],\n>>>>>>> b\n}',
        "unresolved merge (line 2)",
    ),
    "a list": (b"[]", "JSON, but not a notebook"),
    "a number": (b"3", "not a notebook"),
    "no cells": (b'{"nbformat": 4}', "no list of cells"),
    "cells are a number": (b'{"cells": 3}', "no list of cells"),
    "cells are an object": (b'{"cells": {}}', "no list of cells"),
    "format 3": (b'{"worksheets": [{"cells": []}], "nbformat": 3}', "format 3"),
    "format 5": (b'{"cells": [], "nbformat": 5}', "format 5"),
    "format is text": (b'{"cells": [], "nbformat": "four"}', "format four"),
    "zip": (b"PK\x03\x04\x00", "ZIP"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "pdf": (b"%PDF-1.7", "PDF"),
    "png": (b"\x89PNG\r\n", "picture"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "script": (b"import numpy as np\n", "not a notebook"),
    "large file storage": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "utf-16": (TEXT.encode("utf-16"), "UTF-16"),
    "latin-1": ('{"cells": "größe"}'.encode("latin-1"), "not UTF-8 text (byte 13)"),
    "random bytes": (bytes(range(128, 256)), "not UTF-8"),
    "null bytes": (b"\0" * 100, "not a notebook"),
    "nested too deeply": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "endless number": (b'{"cells": 1' + b"0" * 10_000 + b"}", "not valid JSON"),
}
ODD = {  # readable, and right all the same
    "byte order mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "source as a list": json.dumps(notebook(GOOD.splitlines(keepends=True))).encode(),
    "odd cells": json.dumps(
        notebook(GOOD)
        | {
            "cells": [
                1,
                None,
                {},
                {"cell_type": "code"},
                {"cell_type": "code", "source": 3},
                *notebook(GOOD)["cells"],
            ]
        }
    ).encode(),
    "source list with numbers": json.dumps(notebook([1, None, GOOD])).encode(),
    "no metadata": json.dumps({"cells": [{"cell_type": "code", "source": GOOD}]}).encode(),
    "duplicate keys": TEXT.replace('"nbformat": 4', '"nbformat": 3, "nbformat": 4').encode(),
    "not a number": TEXT.replace('"metadata": {}', '"metadata": {"x": NaN}').encode(),
    "a cell that cannot be parsed": json.dumps(notebook("def other(:", GOOD, "%%bash\nrm -rf /")).encode(),
    "stored errors": json.dumps(notebook(GOOD))
    .replace('"outputs": []', '"outputs": [{"output_type": "error"}]')
    .encode(),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_gets_one_sentence(kind, tmp_path):
    raw, part = BROKEN[kind]
    path = tmp_path / "handed_in.ipynb"
    path.write_bytes(raw)
    with pytest.raises(Unreadable) as error:
        read_cells(path)
    assert part in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 150


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_file_is_read(kind, tmp_path):
    path = tmp_path / "handed_in.ipynb"
    path.write_bytes(ODD[kind])
    assert "NAME" in read_scope(read_cells(path)).binding


def test_what_is_no_file(tmp_path, monkeypatch):
    def why(path):
        with pytest.raises(Unreadable) as error:
            read_cells(path)
        return str(error.value)

    assert "does not exist" in why(tmp_path / "missing.ipynb")
    (tmp_path / "folder.ipynb").mkdir()
    assert "is a folder" in why(tmp_path / "folder.ipynb")
    write(tmp_path / "true.ipynb", GOOD)
    (tmp_path / "link.ipynb").symlink_to(tmp_path / "true.ipynb")
    assert "is a link" in why(tmp_path / "link.ipynb")
    os.mkfifo(tmp_path / "pipe.ipynb")
    assert "not an ordinary file" in why(tmp_path / "pipe.ipynb")
    monkeypatch.setattr(extract, "MAX_BYTES", 100)
    assert "clear its outputs" in why(tmp_path / "true.ipynb")


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may read every file")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path / "closed.ipynb", GOOD)
    path.chmod(0)
    with pytest.raises(Unreadable, match="cannot be opened"):
        read_cells(path)


@pytest.mark.parametrize(
    "cell, kept",
    [
        ("x = 1", "x = 1"),
        ("%%time\nx = 1", "x = 1"),
        ("%%bash\nls", ""),
        ("%%html\n<b>x</b>", ""),
        ("%%capture out\nx = 1", "x = 1"),
    ],
)
def test_magics(cell, kept):
    assert to_python(cell) == kept
    assert read_scope([cell]).broken == []


def test_shell_lines_are_not_run(tmp_path):
    scope = read_scope([f"!touch {tmp_path}/x\nfiles = !ls\nnp?\n%cd /\ny = 1"])
    assert "y" in scope.binding and not list(tmp_path.iterdir())


def test_only_what_an_exercise_needs_is_taken(tmp_path):
    course = make(tmp_path, ["one"])
    text = "A = 1\nB = train_for_hours()\n\ndef helper(v):\n    return A * v\n\ndef other():\n    return B\n"
    source = GOOD.replace("NAME", "one").replace("factor * v", "factor * helper(v)")
    job = Grader(course).chapter(STEM).job(read_scope([text, source + "\n\none = check(one)"]), "one")
    assert "A = 1" in job.source and "def helper" in job.source
    assert "train_for_hours" not in job.source and "other" not in job.source and "check" not in job.source


def test_the_line_number_is_the_learners(tmp_path):
    course = make(tmp_path, ["one"])
    source = "# a comment\n\ndef one(values, factor):\n    # another\n\n    return 1 / 0\n"
    result = Grader(course).grade(write(tmp_path / "a.ipynb", "x = 1", source), STEM)[0]
    assert "(line 4 of your function)" in result.message


def test_every_exercise_of_an_unreadable_notebook_says_why(tmp_path):
    course = make(tmp_path, ["one", "two"])
    (tmp_path / "bad.ipynb").write_text("{")
    results = Grader(course).grade(tmp_path / "bad.ipynb", STEM)
    assert [r.status for r in results] == ["error", "error"]
    assert all(r.message.startswith("'bad.ipynb' breaks off") for r in results)
