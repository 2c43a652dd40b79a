"""Read a submitted notebook without running it, and take out what each exercise needs.

The learner's definitions are found by name in the syntax tree: tags and cell ids get lost when cells are
copied. The last definition that is not a stub wins.
"""

import ast
import builtins
import json
import re
import symtable
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 30_000_000
LAB = {  # what a name of the labs' first cell stands for while grading
    "np": "import numpy as np",
    "plt": "import matplotlib.pyplot as plt",
    "device": 'device = "cpu"',
    "COLORS": "from rlcourse.plotting import COLORS",
    "check": "def check(implementation, keep_going=False):\n    return implementation",
    "claim": "def claim(*anything):\n    pass",
    "record": "def record(*anything):\n    pass",
    "show": "def show(*anything, **more):\n    pass",
}
LAB_CALLS = {"check", "claim", "record", "show"}
MAGIC_WORDS = ("%%time", "%%timeit", "%%capture", "%%prun")  # cell magics whose body is Python
KINDS_OF_FILE = {  # what else people hand in
    b"PK\x03\x04": "is a ZIP archive: unpack it first",
    b"\x1f\x8b": "is a gzip archive: unpack it first",
    b"%PDF": "is a PDF: hand in the .ipynb file itself",
    b"\x89PNG": "is a picture: hand in the .ipynb file itself",
    b"version https://git-lfs": "is a Git LFS pointer, not the notebook: run `git lfs pull`",
}


class Unreadable(Exception):
    """The file is no notebook that can be graded; the message says why in one sentence."""


class Statement(NamedTuple):
    """A top-level statement that binds names."""

    cell: int  # the number of the code cell, from 1
    names: tuple[str, ...]
    node: ast.stmt
    text: str
    needs: frozenset[str]  # the global names that it uses
    stub: bool


class Scope(NamedTuple):
    """The statements of a notebook or a module that bind a name."""

    binding: dict[str, list[Statement]]
    broken: list[tuple[int, str, str]]  # code cell, its text, what is wrong with it
    cells: int


def read_cells(path: Path) -> list[str]:
    """The sources of the notebook's code cells.

    Raises:
        Unreadable: with one sentence for every kind of broken file.
    """
    text = _read_text(Path(path))
    try:
        notebook = json.loads(text)
    except RecursionError:
        raise Unreadable("is nested too deeply to be a notebook") from None
    except ValueError as error:
        raise Unreadable(_why_not_json(text, error)) from None
    if not isinstance(notebook, dict):
        raise Unreadable("is JSON, but not a notebook")
    if "worksheets" in notebook:
        raise Unreadable("has the old notebook format 3: open it in Jupyter and save it again")
    version = notebook.get("nbformat", 4)
    if version != 4:
        raise Unreadable(
            f"has notebook format {str(version)[:20]}, not 4: open it in Jupyter and save it again"
        )
    if not isinstance(notebook.get("cells"), list):
        raise Unreadable("is JSON, but not a notebook: it has no list of cells")
    return [_source(c) for c in notebook["cells"] if isinstance(c, dict) and c.get("cell_type") == "code"]


def _read_text(path: Path) -> str:
    if path.is_symlink():
        raise Unreadable("is a link to another file: hand in the file itself")
    if path.is_dir():
        raise Unreadable("is a folder, not a notebook")
    if not path.exists():
        raise Unreadable("does not exist")
    if not path.is_file():
        raise Unreadable("is not an ordinary file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise Unreadable(f"has {size / 1e6:.0f} MB: clear its outputs and save it again (limit 30 MB)")
        raw = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror}") from None
    if not raw.strip():
        raise Unreadable("is empty")
    for start, text in KINDS_OF_FILE.items():
        if raw.startswith(start):
            raise Unreadable(text)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("is saved as UTF-16: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text (byte {error.start}): it is damaged, or no notebook") from None


def _why_not_json(text: str, error: ValueError) -> str:
    for i, line in enumerate(text.splitlines(), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            return f"holds marks of an unresolved merge (line {i}): resolve it and save it again"
    if text.lstrip()[:1] == "<":
        return "is a web page (an HTML export): hand in the .ipynb file itself"
    if text.lstrip()[:1] not in "{[":
        return "is not a notebook: a notebook is a JSON file, made by Jupyter"
    if not isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON: {str(error).partition(':')[0]}"
    if error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated"):
        return f"breaks off at line {error.lineno}: it was not saved or copied completely"
    return f"is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"


def _source(cell: dict) -> str:
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def to_python(source: str) -> str:
    """A cell's source without magics and shell lines."""
    head = source.lstrip()
    if head.startswith(MAGIC_WORDS):
        source = head.partition("\n")[2]
    elif head.startswith("%%"):
        return ""
    if not re.search(r"^\s*(?:[%!?]|>>> |In \[)|[?]\s*$|=\s*[%!]", source, re.MULTILINE):
        return source
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def read_scope(sources: list[str]) -> Scope:
    """What the cells bind. A cell that cannot be parsed is noted and left out."""
    binding, broken = {}, []
    for number, source in enumerate(sources, 1):
        try:
            text = to_python(source)
            statements = list(_statements(text, ast.parse(text).body, number))
        except SyntaxError as error:
            why = "unresolved merge marks" if re.search(r"^(<{7}|>{7}) ", source, re.MULTILINE) else error.msg
            broken.append((number, source, f"code cell {number}, line {error.lineno}: syntax error: {why}"))
            continue
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            why = "is nested too deeply" if isinstance(error, RecursionError | MemoryError) else str(error)
            broken.append((number, source, f"code cell {number} cannot be read: it {why}"))
            continue
        for statement in statements:
            for name in statement.names:
                binding.setdefault(name, []).append(statement)
    return Scope(binding, broken, len(sources))


def _statements(text: str, body: list, cell: int):
    for node in body:
        names = _bound(node)
        if names:
            node = _without_check(node)
            own = _text_of(text, node)
            yield Statement(cell, names, node, own, _needs(own), is_stub(node))
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, ast.If | ast.Try | ast.With):
                yield from _statements(text, getattr(node, part, []), cell)


def _bound(node: ast.stmt) -> tuple[str, ...]:
    """The names that a top-level statement binds, so far as grading needs them."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return tuple((a.asname or a.name).split(".")[0] for a in node.names)
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return ()
    call = node.value
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in LAB_CALLS:
        return ()  # name = check(name)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return tuple(n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and _stored(n))


def _stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _without_check(node: ast.stmt) -> ast.stmt:
    """Take the decorator @check off."""
    if getattr(node, "decorator_list", None):
        node.decorator_list = [d for d in node.decorator_list if getattr(d, "id", "") != "check"]
    return node


def _text_of(text: str, node: ast.stmt) -> str:
    """The statement as the learner wrote it, so that line numbers and comments stay."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    own = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    try:
        tree = ast.parse(own).body
    except SyntaxError:
        tree = []
    return own if len(tree) == 1 and ast.dump(tree[0]) == ast.dump(node) else ast.unparse(node)


def _needs(text: str) -> frozenset[str]:
    """The global names that a statement uses. Locals that happen to share a name do not count."""
    found = set()

    def walk(table, top):
        found.update(
            s.get_name() for s in table.get_symbols() if (s.is_referenced() if top else s.is_global())
        )
        for inner in table.get_children():
            walk(inner, False)

    walk(symtable.symtable(text, "<cell>", "exec"), True)
    return frozenset(found)


def is_stub(node: ast.stmt) -> bool:
    """A definition whose body is only a docstring and `...`, `pass` or `raise NotImplementedError`."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    body = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if isinstance(node, ast.ClassDef) and any(isinstance(s, ast.FunctionDef) for s in body):
        methods = [s for s in body if isinstance(s, ast.FunctionDef) and s.name != "__init__"]
        return bool(methods) and all(map(is_stub, methods))
    if not body or isinstance(body[0], ast.Pass):
        return len(body) <= 1
    return isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.dump(body[0])


def builtin(name: str) -> bool:
    return hasattr(builtins, name)
