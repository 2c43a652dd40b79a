"""Run labs and keep their stored outputs true: `python -m rlcourse.labs [chNN_name …]`."""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat

from rlcourse.grading.exercises import ROOT

LABS = ROOT / "notebooks"
LABEL = re.compile(r"^\$\$\s*\((eq-[\w-]+)\)\s*$", re.MULTILINE)
CARD_LINK = re.compile(r"\[\((?:\?|\d+\.\d+)\)\]\(\.\./book/(ch\w+)\.md#equation-(eq-[\w-]+)\)")


def equation_numbers(stem: str) -> dict[str, str]:
    """Label to number for a chapter page: labelled equations are numbered in order, `(3.1)`, `(3.2)` …"""
    page = ROOT / "book" / f"{stem}.md"
    labels = LABEL.findall(page.read_text(encoding="utf-8")) if page.is_file() else []
    return {label: f"{int(stem[2:4])}.{i}" for i, label in enumerate(labels, 1)}


def number_cards(text: str) -> str:
    """Write the true equation number into every link to a labelled equation of the book."""

    def number(match):
        stem, label = match.groups()
        n = equation_numbers(stem).get(label, "?")
        return f"[({n})](../book/{stem}.md#equation-{label})"

    return CARD_LINK.sub(number, text)


def join_streams(outputs: list) -> list:
    """One stdout output per run of prints: the kernel may cut them anywhere."""
    joined = []
    for out in outputs:
        last = joined[-1] if joined else None
        if last and out.output_type == last.output_type == "stream" and out.name == last.name:
            last.text += out.text
        else:
            joined.append(out)
    return joined


def normalise(notebook) -> None:
    """Drop what differs between machines and editors, so that a diff shows only real changes."""
    for i, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{i:03d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.NotebookNode({"tags": tags} if tags else {})
        if cell.cell_type == "markdown":
            cell.source = number_cards(cell.source)
        else:
            cell.outputs = join_streams(cell.outputs)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.execution_count is not None:
            count += 1
            cell.execution_count = count
            for out in cell.outputs:
                if "execution_count" in out:
                    out.execution_count = count
    notebook.metadata = nbformat.NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5


def run(path: Path, timeout: int = 400) -> float:
    """Execute a lab from top to bottom and write it back; the seconds that it took.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails; the file is then left as it was.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": LABS}}
    )
    client.execute()
    normalise(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labs", nargs="*", help="stems such as ch03_bellman; none means all")
    parser.add_argument("--only-format", action="store_true", help="normalise without running")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    known = {p.stem: p for p in sorted(LABS.glob("ch*.ipynb"))}
    if unknown := [s for s in options.labs if s not in known]:
        print(f"no lab called {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for stem in options.labs or known:
        print(f"{stem} …", end=" ", flush=True)
        if options.only_format:
            notebook = nbformat.read(known[stem], as_version=4)
            normalise(notebook)
            nbformat.write(notebook, known[stem])
            print("formatted")
        else:
            print(f"{run(known[stem]):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
