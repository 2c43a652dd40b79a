"""For each exercise of a notebook: the source that the isolated process runs, or why there is none."""

import ast
from pathlib import Path
from typing import NamedTuple

from rlcourse.grading.extract import LAB, Scope, Statement, builtin, read_scope

FORBIDDEN_MODULES = {  # nothing that an exercise needs; each opens a way round the grader
    *("ctypes", "gc", "builtins", "importlib", "subprocess", "multiprocessing", "threading"),
    *("_thread", "socket", "signal", "atexit", "faulthandler", "pty", "mmap", "resource", "runpy", "code"),
    *("imp", "tracemalloc", "cffi", "marshal", "concurrent", "asyncio"),
}
FORBIDDEN_NAMES = {
    *("__subclasses__", "__globals__", "__closure__", "__code__", "__builtins__", "__import__", "__loader__"),
    *("f_back", "f_locals", "f_globals", "f_builtins", "tb_frame", "gi_frame", "cr_frame", "ag_frame"),
    *("_getframe", "_current_frames", "settrace", "setprofile", "addaudithook", "_exit", "getrefcount"),
}


class Job(NamedTuple):
    """What the isolated process gets for one exercise."""

    name: str
    source: str = ""  # the learner's definitions, in an order in which they can run
    standins: tuple[str, ...] = ()  # references that stand in for what the learner has not (rightly) written
    standin_source: str = ""
    earlier: tuple[str, ...] = ()  # solutions of earlier chapters that the source imports
    uses: tuple[str, ...] = ()  # the learner's other exercises that this one calls
    problem: str = ""  # why it cannot run
    notes: tuple[str, ...] = ()

    @property
    def attempted(self) -> bool:
        return bool(self.source or self.problem)


def parameters(node) -> list[str]:
    """The parameter names of a function, or of a class's __init__ without `self`."""
    if isinstance(node, ast.ClassDef):
        init = [s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        return parameters(init[0])[1:] if init else []
    a = node.args
    every = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    return [p.arg for p in every]


class Chapter:
    """A chapter's references, read without running them."""

    def __init__(self, root: Path, stem: str, exercises: list[str]):
        self.root, self.stem, self.exercises = root, stem, exercises
        source = (root / "solutions" / f"{stem}.py").read_text(encoding="utf-8")
        self.scope = read_scope([source])

    def parameters(self, name: str) -> list[str]:
        return parameters(self.scope.binding[name][-1].node)

    def is_class(self, name: str) -> bool:
        return isinstance(self.scope.binding[name][-1].node, ast.ClassDef)

    def job(self, notebook: Scope, name: str, replaced: frozenset[str] = frozenset()) -> Job:
        """What to run for one exercise; `replaced` are exercises that the reference stands in for."""
        written = [s for s in notebook.binding.get(name, []) if not s.stub]
        for number, text, message in notebook.broken:
            later = not written or written[-1].cell < number
            if later and (f"def {name}(" in text or f"class {name}" in text):
                return Job(name, problem=message)
        if not written:
            return Job(name)
        gather = _Gather(self, notebook, name, replaced)
        try:
            gather.visit(name)
        except _Refused as refusal:
            return Job(name, problem=str(refusal))
        cells = sorted({s.cell for s in written if isinstance(s.node, ast.FunctionDef | ast.ClassDef)})
        notes = [f"defined in code cells {cells}; the last one is graded"] if len(cells) > 1 else []
        return Job(
            name,
            gather.source(),
            tuple(sorted(gather.standins)),
            _standin_source(self, gather.standins, name),
            tuple(sorted(gather.earlier)),
            tuple(sorted(gather.uses)),
            notes=tuple(notes),
        )


class _Refused(Exception):
    """The source uses something that is not allowed; the message goes to the learner."""


class _Gather:
    """Collects the statements that an exercise needs, each after those that it uses."""

    def __init__(self, chapter: Chapter, notebook: Scope, own: str, replaced: frozenset[str]):
        self.chapter, self.notebook, self.own, self.replaced = chapter, notebook, own, replaced
        self.lines, self.done, self.emitted = [], set(), set()
        self.standins, self.earlier, self.uses = set(), set(), set()

    def visit(self, name: str) -> None:
        if name in self.done:
            return
        self.done.add(name)
        chain = self._chain(name)
        if name == "ROOT":
            self._emit(f"from pathlib import Path\nROOT = Path({str(self.chapter.root)!r})")
        elif chain:
            if name != self.own and name in self.chapter.exercises:
                self.uses.add(name)
            for statement in chain:
                self._take(statement, name)
        elif name in LAB:
            self._emit(LAB[name])
        elif name != self.own and name in self.chapter.scope.binding:
            self.standins.add(name)
        elif not builtin(name):
            self._star_imports()

    def _chain(self, name: str) -> list[Statement]:
        """The binding that counts, after those that it builds on (`f = cache(f)`)."""
        if name in self.replaced and name != self.own:
            return []
        found = [s for s in self.notebook.binding.get(name, []) if not s.stub]
        chain = []
        for statement in reversed(found):
            chain.append(statement)
            if name not in statement.needs or isinstance(statement.node, ast.FunctionDef | ast.ClassDef):
                break
        return chain[::-1]

    def _take(self, statement: Statement, name: str) -> None:
        if id(statement) in self.emitted:
            return
        self.emitted.add(id(statement))
        if _module(statement.node) == "rlcourse.lab":
            self._emit(LAB.get(name, f"from rlcourse.lab import {name}"))
            self.emitted.discard(id(statement))  # it binds several names, each with its own line
            return
        self._inspect(statement)
        for needed in sorted(statement.needs - {name}):
            self.visit(needed)
        self._emit(statement.text)

    def _emit(self, text: str) -> None:
        if text not in self.lines:
            self.lines.append(text)

    def _star_imports(self) -> None:
        for statement in self.notebook.binding.get("*", []):
            self._take(statement, "*")

    def _inspect(self, statement: Statement) -> None:
        """Refuse what an exercise never needs and what is an answer."""
        for node in ast.walk(statement.node):
            word = getattr(node, "attr", getattr(node, "id", None))
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                word = node.value
            if word in FORBIDDEN_NAMES:
                raise _Refused(
                    f"the code uses {word}, which a submission must not (code cell {statement.cell})"
                )
            if isinstance(node, ast.Import):
                modules = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                modules = [f"solutions.{a.name}" for a in node.names] if base == "solutions" else [base]
            else:
                continue
            for module in modules:
                self._module(module, statement.cell)

    def _module(self, module: str, cell: int) -> None:
        top, _, rest = module.partition(".")
        stem = rest.split(".")[0]
        if top == "solutions":
            if not stem or stem >= self.chapter.stem:
                raise _Refused(
                    f"code cell {cell} takes the answer from {module}: write the function yourself"
                )
            self.earlier.add(f"solutions.{stem}")
        if top in FORBIDDEN_MODULES or top == "tests" or module.startswith("rlcourse.grading"):
            raise _Refused(f"the code imports {module}, which a submission must not (code cell {cell})")

    def source(self) -> str:
        future = [t for t in self.lines if t.startswith("from __future__")]
        first = [s.text for s in self.notebook.binding.get("annotations", []) if "__future__" in s.text]
        return (
            "\n\n".join([*dict.fromkeys(future + first), *(t for t in self.lines if t not in future)]) + "\n"
        )


def _module(node: ast.stmt) -> str:
    return node.module or "" if isinstance(node, ast.ImportFrom) else ""


def _standin_source(chapter: Chapter, names: set[str], own: str) -> str:
    """The references `names` and what they need, but never the exercise that is graded."""
    lines, done = [], {own}

    def visit(name):
        if name in done:
            return
        done.add(name)
        for statement in chapter.scope.binding.get(name, []):
            for needed in sorted(statement.needs - {name}):
                visit(needed)
            if statement.text not in lines:
                lines.append(statement.text)

    for name in sorted(names):
        visit(name)
    return "\n\n".join(lines)
