"""Build the book from the stored outputs: `python tools/build_book.py [html|singlehtml]`, inside .venv."""

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
SHELL = [
    "_config.yml",
    "_toc.yml",
    "_ext/*.py",
    "book/_static/*",
    "requirements-book.txt",
    "rlcourse/player.js",
]


def shell_hash() -> str:
    """Changes with the files that Sphinx does not watch: theme, extensions, table of contents."""
    digest = hashlib.sha256()
    for pattern in SHELL:
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def build(builder: str = "html") -> int:
    """Build the changed pages, or all of them if the shell changed; warnings are errors."""
    stamp = BUILD / f"shell-{builder}"
    if not stamp.is_file() or stamp.read_text() != shell_hash():
        for folder in (BUILD / builder, BUILD / ".doctrees"):
            shutil.rmtree(folder, ignore_errors=True)
        BUILD.mkdir(exist_ok=True)
        stamp.write_text(shell_hash())
    options = [] if builder == "html" else ["--builder", "custom", "--custom-builder", builder]
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [jupyter_book, "build", ".", "-W", "-n", "--keep-going", "-q"]
    return subprocess.run([*command, *options], cwd=ROOT, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    builder = sys.argv[1] if len(sys.argv) > 1 else "html"
    print(f"Building the book ({builder}; half a minute the first time) …", flush=True)
    start = time.perf_counter()
    if build(builder):
        sys.exit("The book has errors: see above.")
    print(f"Done in {time.perf_counter() - start:.0f} s.")
    if builder == "html":
        print(f"Open {(BUILD / builder / 'index.html').as_uri()}")
