"""What every lab must be, read from its file without running it."""

import ast
import functools
import inspect
import re
import statistics
import textwrap
from pathlib import Path

import nbformat
import pytest

from rlcourse.grading.exercises import load_exercises, reference
from rlcourse.labs import CARD_LINK, LABS, equation_numbers

PATHS = sorted(LABS.glob("ch*.ipynb"))
STEMS = [p.stem for p in PATHS]
every_lab = pytest.mark.parametrize("stem", STEMS)


@functools.cache
def cells(stem):
    return nbformat.read(LABS / f"{stem}.ipynb", as_version=4).cells


def code(stem):
    return [c for c in cells(stem) if c.cell_type == "code"]


def prose(stem):
    return [c for c in cells(stem) if c.cell_type == "markdown"]


def functions(source):
    """Top-level functions and classes of a cell or module, by name."""
    tree = ast.parse(source)
    return {n.name: n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}


def is_stub(node):
    return "NotImplementedError" in ast.unparse(node.body[-1])


def exercises_of(stem):
    return {n: ex for n, ex in load_exercises().items() if ex.chapter == stem}


@every_lab
def test_the_first_cell_is_the_same_everywhere(stem):
    assert code(stem)[0].source == code(STEMS[0])[0].source


@every_lab
def test_every_cell_was_run_in_order_and_without_error(stem):
    counts = [c.execution_count for c in code(stem)]
    assert counts == list(range(1, len(counts) + 1)), "run it with `make run-labs`"
    assert not [o for c in code(stem) for o in c.outputs if o.output_type == "error"]
    assert not [o for c in code(stem) for o in c.outputs if o.get("name") == "stderr"]


@every_lab
def test_few_cells_ignore_their_output(stem):
    ignored = [c for c in code(stem) if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(ignored) <= 3
    assert not [
        c for c in cells(stem) if {"nbval-skip", "raises-exception"} & set(c.metadata.get("tags", []))
    ]


@every_lab
def test_every_exercise_has_its_stub_and_check(stem):
    wanted = exercises_of(stem)
    for name, exercise in wanted.items():
        cell = next((c for c in code(stem) if name in functions(c.source)), None)
        assert cell, f"no cell defines {name}"
        node = functions(cell.source)[name]
        original = functions(textwrap.dedent(inspect.getsource(reference(exercise))))[name]
        assert ast.get_docstring(node) == ast.get_docstring(original), f"{name}: docstring differs"
        if isinstance(node, ast.FunctionDef):
            assert is_stub(node), f"{name}: the lab shows the answer"
            assert ast.dump(node.args) == ast.dump(original.args), f"{name}: signature differs"
        assert cell.source.rstrip().endswith(f"{name} = check({name})")
        assert cell.outputs and "not attempted" in cell.outputs[0].text


@every_lab
def test_every_exercise_has_a_card_that_agrees_with_the_table(stem):
    text = "\n".join(c.source for c in prose(stem))
    for name, ex in exercises_of(stem).items():
        card = f"### Exercise {ex.number}: {ex.title}\n`{name}` · difficulty {ex.dots}"
        card += f" · {ex.minutes} min · {ex.points} points"
        if ex.equation:
            number = equation_numbers(stem).get(ex.equation, "?")
            card += f" · implements [({number})](../book/{stem}.md#equation-{ex.equation})"
        assert card in text, f"the card should read:\n{card}"


@every_lab
def test_links_to_equations_carry_true_numbers(stem):
    for cell in prose(stem):
        for match in CARD_LINK.finditer(cell.source):
            number = equation_numbers(match[1]).get(match[2])
            assert number, f"{match[2]} is no label of {match[1]}"
            assert f"[({number})]" in match[0]


@every_lab
def test_what_is_not_an_exercise_equals_the_solution(stem):
    """The lab implements its chapter in full; a copy that drifts from solutions/ is an error."""
    module = Path("solutions") / f"{stem}.py"
    original = functions((LABS.parent / module).read_text(encoding="utf-8"))
    for cell in code(stem):
        for name, node in functions(cell.source).items():
            if name in original and name not in exercises_of(stem):
                assert ast.dump(node) == ast.dump(original[name]), f"{name} differs from {module}"
        assert not re.search(rf"^\s*(from|import) solutions\.{stem}\b", cell.source, re.MULTILINE)
    shown = {name for cell in code(stem) for name in functions(cell.source)}
    assert set(original) <= shown, f"the lab does not show {sorted(set(original) - shown)}"


@every_lab
def test_cells_are_short(stem):
    lengths = [
        len(c.source.splitlines()) for c in code(stem) if not any(map(is_stub, functions(c.source).values()))
    ]
    assert max(lengths) <= 64 and statistics.median(lengths) <= 12
    assert max(len(c.source.split()) for c in prose(stem)) <= 180
    assert max(len(line) for c in code(stem) for line in c.source.splitlines()) <= 100


@pytest.mark.parametrize("path", sorted((LABS.parent / "solutions").glob("ch*.py")), ids=lambda p: p.stem)
def test_solutions_fit_the_book_page(path):
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 94
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 380


@every_lab
def test_markdown_is_portable(stem):
    for cell in prose(stem):
        assert not re.search(r"^(```|:::|~~~)\s*\{", cell.source, re.MULTILINE), (
            "MyST does not render in JupyterLab"
        )
        assert not re.search(r"\{(ref|eq|cite|doc|numref)[:\w]*\}`", cell.source)
        text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", cell.source, flags=re.DOTALL)  # formulas
        for target in re.findall(r"\]\(((?!https?:)[^)#\s]+)", text):
            assert (LABS / target).is_file(), f"broken link {target}"


@every_lab
def test_it_begins_with_a_title_and_ends_with_summary_and_go_further(stem):
    text = [c.source for c in prose(stem)]
    assert text[0].startswith("# ")
    assert re.search(r"^## Summary", "\n".join(text), re.MULTILINE)
    assert re.search(r"^## Go further", "\n".join(text), re.MULTILINE)


@every_lab
def test_it_makes_claims(stem):
    assert sum(c.source.count("claim(") for c in code(stem)) >= 2
