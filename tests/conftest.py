"""Shared by the tests of the built book: the site is built once, whichever worker asks first."""

import subprocess
import sys
from pathlib import Path

import pytest

try:
    import fcntl
except ImportError:  # Windows: run the tests without -n
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built book; fails on any warning of the build."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with open(ROOT / "_build" / "lock", "w") as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "build_book.py"], capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, f"the book does not build cleanly:\n{done.stderr[-6000:]}"
    return ROOT / "_build" / "html"
