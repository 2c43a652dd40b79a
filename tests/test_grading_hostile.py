# ruff: noqa: E501  (a table of cases, one line each)
"""Hostile and broken answers: each gets a clear verdict, and costs nobody else a point.

All functions below are graded in one notebook, each as an exercise of its own.

What the isolation does not protect from: code that runs in the interpreter of the graders and knows them can
search its memory (by `gc` objects reached through extension modules, by guessing the verdict's descriptor and
nonce, by bugs of C extensions) and forge a verdict; it can recognise the graders' inputs, which are public,
and answer those alone; without Landlock (other than Linux 5.13 or later), C code in an installed package may
open files behind Python's back. Whoever grades strangers runs the grader in a container and reads what the
report notes.
"""

import os
import tempfile

import pytest

from rlcourse.grading.extract import read_cells, read_scope
from rlcourse.grading.runner import Grader, GraderBroken
from tests.grading_course import GOOD, SECRET, SIGNATURE, STEM, body, make, write

LOOP = "no answer within"
NOT_LOADED = "cannot be loaded"
YES = "class Yes(float):\n    __eq__ = __ge__ = __le__ = lambda *a: True\n\n"

# name: (the learner's cell or cells, the status, a part of what the report says)
RIGHT = {
    "good": GOOD,
    "helper": "def multiply(a, b):\n    return a * b\n\n"
    + body("return [multiply(v, factor) for v in values]"),
    "numpy_of_first_cell": body("return factor * np.asarray(values)"),
    "other_alias": "import numpy\n" + body("return numpy.multiply(values, factor)"),
    "a_lambda": "NAME = lambda values, factor: [factor * v for v in values]",
    "alias_name": "def mine(values, factor):\n    return [factor * v for v in values]\n\nNAME = mine",
    "decorated_by_check": "@check\n" + GOOD,
    "wrapped": "import functools\n"
    + GOOD
    + "\n\nNAME = functools.wraps(NAME)(lambda values, factor: NAME2(values, factor))"
    "\n\ndef NAME2(values, factor):\n    return [factor * v for v in values]",
    "magics": "%matplotlib inline\n!echo hello\nfiles = !ls\n" + GOOD,
    "timed_cell": "%%time\n" + GOOD,
    "prompts": ">>> " + GOOD.replace("\n", "\n... "),
    "constant": "ONE = 1.0\n" + body("return [ONE * factor * v for v in values]"),
    "under_if": "if True:\n" + "\n".join("    " + line for line in GOOD.splitlines()),
    "last_definition_counts": [body("return 0"), GOOD],
    "stub_after_the_answer": [GOOD, body("raise NotImplementedError")],
    "annotated": "from __future__ import annotations\nimport typing as t\n"
    "def NAME(values: t.List[float], factor: Undefined) -> t.Any:\n    return [factor * v for v in values]",
    "more_parameters": "def NAME(values, factor, verbose=False):\n    return [factor * v for v in values]",
    "windows_lines": GOOD.replace("\n", "\r\n"),
    "tabulators": SIGNATURE + "\treturn [factor * v for v in values]",
    "unicode": body("größe = factor\nreturn [größe * v for v in values]"),
    "star_import": "from math import *\n" + body("return [prod([factor, v]) for v in values]"),
    "own_class": "class Box:\n    def __init__(self, v):\n        self.v = v\n\n"
    + body("return [Box(factor * v).v for v in values]"),
    "a_dataclass": "from dataclasses import dataclass\n@dataclass\nclass Pair:\n    a: float\n    b: float = 1.0\n\n"
    + body("return [Pair(factor * v).a for v in values]"),
    "named_tuple": "from typing import NamedTuple\nclass Pair(NamedTuple):\n    a: float\n    b: float = 1.0\n\n"
    + body("return [Pair(factor * v).a for v in values]"),
    "looks_at_a_signature": "import inspect\n"
    + body("inspect.signature(np.isclose), inspect.signature(NAME)\nreturn [factor * v for v in values]"),
    "prints_much": body("print('x' * 10_000_000)\nreturn [factor * v for v in values]"),
    "warns": "import warnings\n" + body("warnings.warn('careful')\nreturn [factor * v for v in values]"),
    "writes_in_its_folder": body("open('note.txt', 'w').write('x')\nreturn [factor * v for v in values]"),
    "temporary_file": "import tempfile\n"
    + body("tempfile.TemporaryFile().write(b'x')\nreturn [factor * v for v in values]"),
    "earlier_solutions": "from solutions.ch97_earlier import twice\n"
    + body("return [twice(factor * v) / 2 for v in values]"),
    "local_named_like_an_experiment": "result = endless_experiment()\n"
    + body("result = [factor * v for v in values]\nreturn result"),
    "print_fake_verdict_but_right": body(
        'print(\'{"outcome": "graded"}\')\nreturn [factor * v for v in values]'
    ),
}
NOT_ATTEMPTED = {
    "stub": body('"""What it does."""\nraise NotImplementedError'),
    "stub_with_text": body("raise NotImplementedError('later')"),
    "passes": body("pass"),
    "dots": body("..."),
    "docstring": body('"""Nothing yet."""'),
    "missing": "x = 1",
    "raises_it_when_called": body("if values is not None:\n    raise NotImplementedError"),
    "other_spelling": GOOD.replace("NAME", "Name_"),
}
WRONG = {
    "adds": (body("return [factor + v for v in values]"), "You add the factor"),
    "in_place": (
        body("for i, v in enumerate(values):\n    values[i] = factor * v\nreturn values"),
        "list of the caller",
    ),
    "half_done": (
        body("if values:\n    raise NotImplementedError\nreturn []").replace("if values", "if values == [2]"),
        "",
    ),
    "shape": (body("return [[factor * v for v in values]]"), "shape (1, 2)"),
    "returns_none": (body("[factor * v for v in values]"), "None"),
    "words": (body("return ['a'] * len(values)"), "expected numbers"),
    "nan": (body("return [float('nan') for v in values]"), "nan"),
    "infinite": (body("return [float('inf') for v in values]"), "inf"),
    "ragged": (body("return [[1.0], [1.0, 2.0]]"), "a list that is no array"),
    "objects": (body("return [object() for v in values]"), "expected numbers"),
    "generator": (body("return (factor * v for v in values)"), "shape ()"),
    "an_async": ("async " + GOOD, "async def"),
    "signature": ("def NAME(values):\n    return values", "parameters should be (values, factor)"),
    "other_order": ("def NAME(factor, values):\n    return values", "parameters should be"),
    "needs_more": ("def NAME(values, factor, x):\n    return values", "parameters should be"),
    "a_number": ("NAME = 3", "not a function"),
    "unknown_name": (body("return [FACTOR * v for v in values]"), "FACTOR"),
    "lab_object": (body("return get_ipython().run('x')"), "get_ipython"),
    "divides_by_zero": (body("return 1 / 0"), "line 2 of your function"),
    "recursion": (body("return NAME(values, factor)"), "RecursionError"),
    "deep_recursion": (
        "import sys\n" + body("sys.setrecursionlimit(10**9)\nreturn NAME(values, factor)"),
        None,
    ),
    "asserts": (body("assert False, 'own words'"), "own words"),
    "stop_iteration": (body("raise StopIteration"), "StopIteration"),
    "calls_exit": (body("exit()"), "exit"),
    "calls_sys_exit": ("import sys\n" + body("sys.exit(0)"), "ends the whole program"),
    "keyboard_interrupt": (body("raise KeyboardInterrupt"), "KeyboardInterrupt"),
    "generator_exit": (body("raise GeneratorExit"), "GeneratorExit"),
    "base_exception": ("class Odd(BaseException):\n    pass\n\n" + body("raise Odd('x')"), "Odd"),
    "silent_exception": (
        "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n\n" + body("raise Odd"),
        "cannot be printed",
    ),
    "long_exception": (body("raise ValueError('x' * 10**7)"), "…"),
    "asks_for_input": (body("return input()"), "EOF"),
    "sets_a_breakpoint": (body("breakpoint()"), ""),
    "memory_at_once": (body("return [0] * 10**12"), "more memory"),
    "memory_numpy": (body("return np.ones(10**11)"), "emory"),
    "memory_slowly": (body("kept = []\nwhile True:\n    kept.append(bytes(10**7))"), "more memory"),
    "big_file": (body("open('x', 'wb').write(b'x' * 10**8)"), "large"),
    "many_files": (body("for i in range(10**6):\n    open(f'f{i}', 'w').close()"), "more than 50 files"),
    "ends_when_loaded": ("X = exit()\n" + body("return X"), NOT_LOADED),
    "fails_when_loaded": ("X = 1 / 0\n" + body("return X"), NOT_LOADED),
    "float_that_equals_all": (YES + body("return [Yes(0) for v in values]"), "class Yes"),
    "list_that_equals_all": (
        "class Same(list):\n    __eq__ = lambda *a: True\n\n" + body("return Same()"),
        "class Same",
    ),
    "array_that_equals_all": (
        "class Same(np.ndarray):\n    def __array_ufunc__(self, *a, **k):\n        return True\n\n"
        + body("return np.zeros(2).view(Same)"),
        "class Same",
    ),
    "int_made_at_run_time": (
        "Yes = type('Yes', (int,), {'__eq__': lambda *a: True})\n" + body("return [Yes(1), Yes(2)]"),
        "class Yes",
    ),
    "prints_a_verdict": (body('print(\'{"outcome": "graded", "failures": []}\')\nreturn 0'), ""),
    "reads_solutions": (body(f"return open(ROOT / 'solutions' / '{STEM}.py').read()"), "must not read"),
    "reads_solutions_numpy": (
        body(f"return np.fromfile(str(ROOT / 'solutions' / '{STEM}.py'), dtype='u1')"),
        "must not",
    ),
    "reads_the_graders": (body(f"return open(ROOT / 'tests' / 'test_{STEM}.py').read()"), "must not read"),
    "reads_by_descriptor": (
        "import os\n" + body(f"return os.read(os.open(str(ROOT / 'solutions/{STEM}.py'), os.O_RDONLY), 99)"),
        "must not read",
    ),
    "reads_by_folder": (
        "import os\n" + body("return os.listdir(os.open(str(ROOT), os.O_RDONLY))"),
        "must not",
    ),
    "reads_passwords": (body("return open('/etc/passwd').read()"), "must not read"),
    "reads_its_parent": (
        "import os\n" + body("return open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
        "must not read",
    ),
    "writes_its_memory": (body("return open('/proc/self/mem', 'r+b').read()"), "must not write"),
    "writes_elsewhere": (body("open(ROOT / 'x', 'w').write('x')"), "must not write"),
    "removes_files": (
        "import os\n" + body("os.remove(ROOT / 'solutions' / '__init__.py')"),
        "must not change",
    ),
    "removes_folders": ("import shutil\n" + body("shutil.rmtree(ROOT / 'solutions')"), "must not"),
    "makes_links": (
        "import os\n" + body("os.symlink(ROOT / 'solutions', 'here')\nopen('here/x')"),
        "must not change",
    ),
    "executes_an_import": (body(f"exec('from solutions.{STEM} import *')\nreturn 0"), "cannot be imported"),
    "finds_it_in_sys_modules": (
        "import sys\n" + body(f"return sys.modules['tests.test_{STEM}']"),
        "KeyError",
    ),
    "main_module": ("import sys\n" + body("return sys.modules['__main__'].job"), "AttributeError"),
    "shell": ("import os\n" + body("os.system('echo hello')"), "start other programs"),
    "popen": ("import os\n" + body("os.popen('echo hello').read()"), "start other programs"),
    "execv": ("import os\n" + body("os.execv('/bin/echo', ['echo'])"), "start other programs"),
    "forks": ("import os\n" + body("os.fork()\nwhile True:\n    pass"), "start processes"),
    "fork_bomb": ("import os\n" + body("while True:\n    os.fork()"), "start processes"),
    "kills_its_parent": ("import os\n" + body("os.kill(os.getppid(), 9)"), "send signals"),
    "kills_everyone": ("import os\n" + body("os.killpg(0, 9)"), "send signals"),
    "network": ("import urllib.request as u\n" + body("return u.urlopen('http://127.0.0.1:9')"), "network"),
    "native_memory": (body("return np.ctypeslib.ctypes.string_at(0)"), "ctypes"),
    "traces_by_another_name": ("import sys\n" + body("getattr(sys, 'settr' + 'ace')(print)"), "trace"),
    "frames_by_another_name": ("import sys\n" + body("return getattr(sys, '_getf' + 'rame')()"), "look into"),
    "frames_of_an_error": (
        body("try:\n    1 / 0\nexcept Exception as e:\n    return getattr(e.__traceback__, 'tb_fr' + 'ame')"),
        "look into",
    ),
    "code_of_a_grader": (
        body(
            "f = lambda *a, **k: True\nsetattr(np.isclose._implementation, '__co' + 'de__', getattr(f, '__co' + 'de__'))"
        ),
        "look into",
    ),
    "frames_by_inspect": ("import inspect\n" + body("return inspect.currentframe()"), "look into"),
    "stack_by_inspect": ("import inspect\n" + body("return inspect.stack()"), "look into"),
    "trace_by_inspect": (
        "import inspect\n" + body("try:\n    1 / 0\nexcept Exception:\n    return inspect.trace()"),
        "look into",
    ),
    "source_by_inspect": ("import inspect\n" + body("return inspect.getsource(NAME)"), "OSError|must not"),
    "quiet_about_refusals": (
        body("try:\n    open(ROOT / 'solutions' / '__init__.py')\nexcept Exception:\n    pass\nreturn 0"),
        "refused: ",
    ),
}
ERROR = {
    "endless": (body("while True:\n    pass"), LOOP),
    "endless_and_swallows": (
        body(
            "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
        ),
        LOOP,
    ),
    "sleeps": ("import time\n" + body("time.sleep(10**6)"), LOOP),
    "endless_when_loaded": ("X = [x for x in iter(int, 1)]\n" + body("return X"), LOOP),
    "endless_text": (
        "class Odd:\n    def __repr__(self):\n        while True:\n            pass\n\n"
        + body("raise ValueError(Odd())"),
        LOOP,
    ),
    "endless_in_c": (body("return sum(iter(int, 1))"), LOOP),
    "endless_prints": (body("while True:\n    print('x' * 1000)"), LOOP),
    "regular_expression": ("import re\n" + body("return re.match(r'(a+)+b', 'a' * 64)"), LOOP),
    "ends_the_process": ("import os\n" + body("getattr(os, '_ex' + 'it')(0)"), "process ended"),
    "aborts": ("import os\n" + body("os.abort()"), "SIGABRT"),
    "closes_everything": ("import os\n" + body("os.closerange(0, 1000)\nreturn 0"), "process ended"),
    "fills_the_pipe": (
        "import os\n"
        + body(
            "for fd in range(3, 200):\n    try:\n        while True:\n            os.write(fd, b'x' * 65536)\n    except OSError:\n        pass\nreturn 0"
        ),
        None,
    ),
    "replaces_isclose": (
        body("np.isclose = lambda *a, **k: np.array(True)\nreturn [0.0, 0.0]"),
        "numpy.isclose",
    ),
    "replaces_by_dictionary": (
        body("np.__dict__['asarray'] = lambda *a: 0\nreturn [0.0, 0.0]"),
        "numpy.asarray",
    ),
    "replaces_deep_inside": (
        "import sys\n" + body("sys.modules['numpy._core.numeric'].isclose = print\nreturn [0.0, 0.0]"),
        "isclose",
    ),
    "replaces_bool": (body("__builtins__['bool'] = lambda *a: True\nreturn 0"), "__builtins__"),
    "syntax": (body("return (1"), "syntax error"),
    "indentation": (SIGNATURE + "    x = 1\n   return x", "syntax error"),
    "merge_marks": (
        SIGNATURE + "<<<<<<< HEAD\n    return 1\n=======\n    return 2\n>>>>>>> other",
        "merge marks",
    ),
    "null_byte": (GOOD + "\n\0", "null bytes|cannot be read"),
    "surrogate": (GOOD + "\nx = '\ud800'", "cannot be read"),
    "too_deep": (SIGNATURE + "    return " + "-" * 10**6 + "1", "too deeply"),
    "too_many_brackets": (SIGNATURE + "    return " + "(" * 10**4, "too many nested"),
    "two_equal_parameters": ("def NAME(values, values):\n    return 1", "syntax error"),
    "imports_the_answer": (f"from solutions.{STEM} import NAME", "write the function yourself"),
    "imports_the_answer_inside": (
        body(f"from solutions.{STEM} import good\nreturn good(values, factor)"),
        "write the function yourself",
    ),
    "imports_the_package": (body("import solutions\nreturn 0"), "write the function yourself"),
    "imports_the_graders": ("import tests\n" + body("return tests"), "imports tests"),
    "imports_expect": (
        "import rlcourse.grading.expect as e\n" + body("e.expect_close = print\nreturn 0"),
        "imports rlcourse.grading",
    ),
    "imports_ctypes": ("import ctypes\n" + body("ctypes.string_at(0)"), "imports ctypes"),
    "imports_gc": ("import gc\n" + body("return gc.get_objects()"), "imports gc"),
    "imports_importlib": ("import importlib\n" + body("return importlib"), "imports importlib"),
    "imports_threading": (
        "import threading\n" + body("threading.Timer(1, print).start()"),
        "imports threading",
    ),
    "imports_atexit": ("import atexit\n" + body("atexit.register(print)"), "imports atexit"),
    "imports_signal": ("import signal\n" + body("signal.alarm(0)"), "imports signal"),
    "dunder_import": (body("return __import__('os')"), "__import__"),
    "subclasses": (body("return ().__class__.__base__.__subclasses__()"), "__subclasses__"),
    "globals_of_a_function": (body("return np.isclose.__globals__"), "__globals__"),
    "frames": (
        body("try:\n    1 / 0\nexcept Exception as e:\n    return e.__traceback__.tb_frame"),
        "tb_frame",
    ),
    "frame_by_string": ("import sys\n" + body("return getattr(sys, '_getframe')()"), "_getframe"),
}
CASES = (
    {name: (source, "right", "") for name, source in RIGHT.items()}
    | {name: (source, "not attempted", "") for name, source in NOT_ATTEMPTED.items()}
    | {name: (source, "wrong", text) for name, (source, text) in WRONG.items()}
    | {name: (source, "error", text) for name, (source, text) in ERROR.items()}
)


LIMITS = {"seconds": 0.5, "memory": 300 << 20}
EXTRA = ["uses_a_stub", "uses_a_wrong_one", "a_stub", "a_wrong_one"]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return make(tmp_path_factory.mktemp("course"), [*CASES, *EXTRA])


def grade(course, names, **settings):
    """Each case is read from a notebook of its own; all are run by one worker."""
    grader = Grader(course, **LIMITS, **settings)
    grader.mutants = {name: [] for name in CASES if name not in ("adds", "in_place")}
    jobs = {}
    for name in names:
        source = CASES[name][0]
        listed = source if isinstance(source, list) else [source]
        path = write(course / "handed" / f"{name}.ipynb", *(s.replace("NAME", name) for s in listed))
        jobs[name] = grader.chapter(STEM).job(read_scope(read_cells(path)), name)
    verdicts = grader._run(STEM, [job for job in jobs.values() if job.source])
    return {name: grader._result(grader.exercises[name], jobs[name], verdicts.get(name)) for name in names}


@pytest.fixture(scope="module")
def results(course):
    os.environ["SECRET_OF_THE_MACHINE"] = "xyzzy"
    before = {p: p.read_bytes() for p in course.rglob("*.py")}
    found = grade(course, CASES)
    assert before == {p: p.read_bytes() for p in course.rglob("*.py")}, "a submission changed the course"
    return found


def text_of(result):
    return " ".join([result.message, result.diagnosis, *result.notes])


@pytest.mark.parametrize("name", CASES)
def test_a_case(results, name):
    _, status, part = CASES[name]
    result = results[name]
    if part is None:  # the machine decides how it ends; it must end, without points
        assert result.status in ("wrong", "error"), result
    else:
        assert result.status == status, result
        assert any(p in text_of(result) for p in part.split("|")), result
    assert result.points == (10 if status == "right" else 0)
    assert status in ("right", "not attempted") or len(result.message) > 10
    assert SECRET not in text_of(result) and len(text_of(result)) < 5000
    assert "0x7" not in text_of(result), "an address in memory differs from run to run"


def test_there_are_many_cases():
    assert len(CASES) >= 120 and len(ERROR) + len(WRONG) >= 80


def test_a_known_mistake_is_named(results):
    assert results["adds"].mutant == "adds" and results["in_place"].mutant == "in_place"


SAMPLE = ["good", "adds", "stub", "endless", "aborts", "memory_numpy", "replaces_isclose", "reads_solutions"]


def test_the_same_verdicts_without_fork(course, results):
    """One process per exercise, as on Windows and macOS."""
    alone = grade(course, SAMPLE, fork=False)
    assert {n: r.status for n, r in alone.items()} == {n: results[n].status for n in SAMPLE}
    assert text_of(alone["adds"]) == text_of(results["adds"])


def test_python_alone_refuses_files_where_the_kernel_cannot(course):
    """Without Landlock the guard holds."""
    worker = course / "rlcourse" / "grading" / "isolation.py"
    text = worker.read_text()
    worker.write_text(text.replace('if sys.platform != "linux":', "if True:"))
    try:
        found = grade(course, [n for n in WRONG if n.startswith(("reads_", "writes_", "removes_"))])
    finally:
        worker.write_text(text)
    assert found and all(r.status == "wrong" and "must not" in text_of(r) for r in found.values())


def test_the_environment_of_the_machine_is_not_handed_on(course, results):
    source = "import os\n" + body("raise ValueError(sorted(os.environ.items()))").replace("NAME", "good")
    path = write(course / "handed" / "environment.ipynb", source)
    grader = Grader(course, **LIMITS)
    result = grader.grade(path, STEM)[list(CASES).index("good")]
    assert "ValueError" in result.message and "xyzzy" not in result.message


def test_the_reference_stands_in_for_an_exercise_that_was_not_attempted(course):
    cells = [
        body("raise NotImplementedError").replace("NAME", "a_stub"),
        body("return [factor + v for v in values]").replace("NAME", "a_wrong_one"),
        body("return a_stub(values, factor)").replace("NAME", "uses_a_stub"),
        body("return a_wrong_one(values, factor)").replace("NAME", "uses_a_wrong_one"),
    ]
    path = write(course / "handed" / "dependent.ipynb", *cells)
    grader = Grader(course, **LIMITS)
    found = {r.exercise.name: r for r in grader.grade(path, STEM) if r.exercise.name in EXTRA}
    assert {n: r.status for n, r in found.items()} == {
        "a_stub": "not attempted",
        "a_wrong_one": "wrong",
        "uses_a_stub": "right",
        "uses_a_wrong_one": "right",
    }
    assert "reference for a_wrong_one" in found["uses_a_wrong_one"].notes[0]


def test_a_worker_that_is_killed_costs_one_exercise(course, monkeypatch):
    """The kernel may end the worker itself, when the machine has no memory left."""
    worker = course / "rlcourse" / "grading" / "worker.py"
    text = worker.read_text()
    dies = '        if one["name"] == "adds":\n            os.kill(os.getpid(), 9)\n'
    worker.write_text(
        text.replace(
            '        exercise = exercises[one["name"]]\n',
            dies + '        exercise = exercises[one["name"]]\n',
        )
    )
    try:
        found = grade(course, ["good", "adds", "helper"])
    finally:
        worker.write_text(text)
    assert [r.status for r in found.values()] == ["right", "error", "right"]
    assert "SIGKILL" in found["adds"].message


def test_broken_graders_are_no_fault_of_the_learner(course):
    tests = course / "tests" / f"test_{STEM}.py"
    text = tests.read_text()
    tests.write_text(text + "\nimport no_such_module\n")
    try:
        with pytest.raises(GraderBroken, match="no_such_module"):
            grade(course, ["good"])
    finally:
        tests.write_text(text)


def test_nothing_is_left_running_or_lying_about(course, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    grade(course, ["good", "endless", "many_files"])
    assert list(tmp_path.iterdir()) == []
