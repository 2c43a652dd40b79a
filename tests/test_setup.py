"""The set-up: what it says when something is missing, and that pins and documents agree."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tools import environment

ROOT = Path(__file__).resolve().parents[1]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pins(name):
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)$", read(name), re.MULTILINE))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def sentence(capsys, function, *arguments):
    """What a function says on stderr before it exits; it must be one paragraph without a traceback."""
    with pytest.raises(SystemExit) as stop:
        function(*arguments)
    assert stop.value.code == 1
    text = capsys.readouterr().err.strip()
    assert "\n" not in text and "Traceback" not in text
    return text


def test_an_unsupported_python_is_named(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    text = sentence(capsys, environment.find_python, (3, 10))
    assert "needs Python 3.11, 3.12 or 3.13, and found only 3.10" in text


def test_an_unsupported_python_looks_for_a_better_one(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
    monkeypatch.setattr(environment, "version_of", lambda python: (3, 12) if python.endswith("12") else None)
    assert environment.find_python((3, 14)) == "/opt/python3.12"


def test_a_full_disk_is_named_before_anything_is_done(capsys, monkeypatch):
    usage = shutil.disk_usage(ROOT)._replace(free=200_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "disk is nearly full: 0.2 GB are free" in sentence(capsys, environment.check_space, 4)


@pytest.mark.parametrize(
    "log, words",
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "The disk is full"),
        ("ConnectionResetError: Connection reset by peer", "No network"),
        ("Command '[…, '-m', 'ensurepip']' returned non-zero exit status 1", "python3-venv"),
        ("ERROR: something nobody thought of", "something nobody thought of"),
    ],
)
def test_a_failed_installation_is_explained(log, words):
    assert words in environment.explain(log)


def test_without_network_the_set_up_says_so(tmp_path):
    """The real script, in an empty folder, with a package index that refuses connections."""
    for name in ("requirements.txt", "requirements-book.txt", "constraints.txt", "tools/environment.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    clean |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_CACHE_DIR": "1",
    }
    script = tmp_path / "tools" / "environment.py"
    done = subprocess.run(
        [sys.executable, script, "book"], env=clean, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith("No network:") and "Traceback" not in done.stderr
    assert not (tmp_path / ".venv" / "ready-book").exists()


def test_every_pin_is_exact_and_agrees_with_the_constraints():
    constraints = {normal(k): v for k, v in pins("constraints.txt").items()}
    for name in ("requirements-book.txt", "requirements.txt"):
        lines = [line for line in read(name).splitlines() if line and line[0] not in "#-"]
        assert len(lines) == len(pins(name)), f"{name}: pin every package with =="
        for package, version in pins(name).items():
            if package != "torch":
                assert constraints[normal(package)] == version


def test_torch_has_one_version_everywhere():
    assert environment.TORCH == f"torch=={pins('requirements.txt')['torch']}"
    assert set(re.findall(r"torch==[\d.]+\d", read("README.md"))) == {environment.TORCH}


def test_the_supported_versions_agree():
    low, high = environment.SUPPORTED[0], environment.SUPPORTED[-1]
    assert f'requires-python = ">={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}"' in read("pyproject.toml")


def test_documented_commands_exist():
    targets = set(re.findall(r"^([\w. -]+):", read("Makefile"), re.MULTILINE))
    names = {t for line in targets for t in line.split()}
    for page in ("README.md", "CONTRIBUTING.md"):
        wanted = set(re.findall(r"`make ([\w-]+)", read(page))) | set(
            re.findall(r"^make ([\w-]+)", read(page), re.MULTILINE)
        )
        assert wanted and wanted <= names, f"{page} names {sorted(wanted - names)}"


def test_the_repository_stays_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing to weigh")
    sizes = {f: (ROOT / f).stat().st_size for f in listed.stdout.split("\0") if f and (ROOT / f).is_file()}
    assert sum(sizes.values()) < 40e6
    assert not [f for f, size in sizes.items() if size > 3e6]


def test_the_pinned_packages_run_on_every_supported_python():
    """Also on the first releases: Debian 12 still has Python 3.11.2."""
    supported = [f"{major}.{minor}.{patch}" for major, minor in environment.SUPPORTED for patch in (0, 2, 9)]
    for package, version in pins("constraints.txt").items():
        try:
            found = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # another platform's
        assert found.version == version, f"{package}: {found.version} is installed, {version} is pinned"
        allowed = SpecifierSet(found.metadata["Requires-Python"] or "")
        assert all(allowed.contains(python) for python in supported), f"{package} {version} needs {allowed}"
