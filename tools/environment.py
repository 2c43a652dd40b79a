"""Make .venv and install the pinned packages: `python3 tools/environment.py book` (no torch) or `all`.

Only the standard library, and syntax that an old Python can read, so that it can say what is wrong.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
SUPPORTED = [(3, 11), (3, 12), (3, 13)]
TORCH = "torch==2.13.0"
SPACE_GB = {"book": 1, "all": 4}  # with the CUDA build of torch: about 8
INSTALLS = {
    "book": [("the book's packages (about 1 minute, 0.4 GB)", ["-r", "requirements-book.txt"])],
    "all": [
        ("PyTorch (1 to 5 minutes; set TORCH_INDEX for the small CPU build, see README)", [TORCH]),
        ("all other packages (1 to 3 minutes, 1 GB)", ["-r", "requirements.txt"]),
    ],
}


def fail(sentence):
    print("\n" + sentence, file=sys.stderr)
    sys.exit(1)


def version_of(python):
    """(major, minor) of an interpreter, or None if it does not run."""
    try:
        code = "import sys; print(sys.version_info[0], sys.version_info[1])"
        text = subprocess.check_output([python, "-c", code], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(int(part) for part in text.split())


def find_python(current=sys.version_info[:2]):
    """This interpreter if the course supports it, else one found on the path."""
    if tuple(current) in SUPPORTED:
        return sys.executable
    for major, minor in reversed(SUPPORTED):
        python = shutil.which(f"python{major}.{minor}")
        if python and version_of(python) == (major, minor):
            return python
    fail(
        f"This course needs Python 3.11, 3.12 or 3.13, and found only {current[0]}.{current[1]}: install one "
        "of them, or say where it is with `make book PYTHON=/path/to/python3.12`."
    )


def venv_python():
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(VENV, folder, name)


def check_space(gigabytes):
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < gigabytes:
        fail(f"The disk is nearly full: {free:.1f} GB are free here, and this step needs {gigabytes} GB.")


NO_SPACE = r"No space left|Errno 28|Disk quota|not enough space"
NO_NETWORK = (
    r"NewConnectionError|Failed to establish|name resolution|Network is unreachable|ConnectTimeout"
    r"|ReadTimeout|Connection (refused|reset|aborted)|ProxyError|SSLError|Max retries|Read timed out"
)


def explain(log):
    """One sentence for what pip or venv said."""
    if re.search(NO_SPACE, log, re.IGNORECASE):
        return "The disk is full: free 4 GB (8 GB with the CUDA build of PyTorch) and run the command again."
    if re.search(NO_NETWORK, log, re.IGNORECASE):
        return (
            "No network: the package index cannot be reached. Connect (or set PIP_INDEX_URL) and try again."
        )
    if "ensurepip" in log:
        return (
            "This Python cannot make virtual environments: install its venv package (Debian: python3-venv)."
        )
    lines = [line for line in log.splitlines() if line.strip()]
    return "Installing failed; the last lines were:\n  " + "\n  ".join(lines[-5:])


def run(command):
    """Run a long command, show a dot for each package, and end with one sentence if it fails."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = []
    for raw in process.stdout:
        log.append(raw.decode("utf-8", "replace"))
        if log[-1].startswith("Collecting "):
            print(".", end="", flush=True)
        elif log[-1].startswith("Installing collected"):
            print(" installing", end="", flush=True)
    if process.wait():
        fail(explain("".join(log)))
    if any(line.startswith("Collecting") for line in log):
        print(flush=True)


def fingerprint(what):
    """Changes when the pinned packages change."""
    files = ["requirements-book.txt", "constraints.txt"] + (["requirements.txt"] if what == "all" else [])
    digest = hashlib.sha256(TORCH.encode())
    for name in files:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_ready(what):
    """True if .venv was finished for `what` with today's pins (`all` contains `book`)."""
    for name in ("all",) if what == "all" else ("book", "all"):
        stamp = os.path.join(VENV, "ready-" + name)
        if os.path.isfile(stamp) and open(stamp).read() == fingerprint(name):
            return version_of(venv_python()) in SUPPORTED
    return False


def prepare(what):
    if is_ready(what):
        return
    python = find_python()
    check_space(SPACE_GB[what])
    if version_of(venv_python()) not in SUPPORTED:
        print(
            "Making the virtual environment .venv with Python {}.{} …".format(*version_of(python)), flush=True
        )
        run([python, "-m", "venv", "--clear", VENV])
    pip = [
        venv_python(),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "2",
    ]
    for title, arguments in INSTALLS[what]:
        print("Installing " + title + " ", end="", flush=True)
        index = os.environ.get("TORCH_INDEX")
        extra = ["--index-url", index] if index and TORCH in arguments else []
        run(pip + arguments + extra)
    with open(os.path.join(VENV, "ready-" + what), "w") as stamp:
        stamp.write(fingerprint(what))


if __name__ == "__main__":
    if sys.argv[1:] not in (["book"], ["all"]):
        fail("usage: python3 tools/environment.py book|all")
    try:
        prepare(sys.argv[1])
    except OSError as error:
        fail(explain(str(error)))
    except KeyboardInterrupt:
        fail("Stopped. Run the command again to go on.")
