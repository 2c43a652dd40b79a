"""The fence around a learner's code: limits of the operating system, and a guard on Python's own events.

What it does not do: code that runs in the same interpreter as the graders can, with enough effort, read and
change their memory. The fence stops mistakes, endless loops, the usual tricks and every road to the files
with the answers; it is no place to run code that you believe to be malicious. Use a container for that.
"""

import contextlib
import ctypes
import inspect
import os
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None

OUTSIDE = "code that is being graded must not"
REFUSED_EVENTS = {  # event of Python's audit hooks, or its first part: what the learner reads
    "ctypes": f"{OUTSIDE} use ctypes",
    "socket": f"{OUTSIDE} use the network",
    "subprocess": f"{OUTSIDE} start other programs",
    "pty": f"{OUTSIDE} start other programs",
    "os.system": f"{OUTSIDE} start other programs",
    "os.exec": f"{OUTSIDE} start other programs",
    "os.posix_spawn": f"{OUTSIDE} start other programs",
    "os.spawn": f"{OUTSIDE} start other programs",
    "os.startfile": f"{OUTSIDE} start other programs",
    "os.fork": f"{OUTSIDE} start processes",
    "os.forkpty": f"{OUTSIDE} start processes",
    "os.kill": f"{OUTSIDE} send signals",
    "os.killpg": f"{OUTSIDE} send signals",
    "signal.pthread_kill": f"{OUTSIDE} send signals",
    "_thread.start_new_thread": f"{OUTSIDE} start threads",
    "sys.settrace": f"{OUTSIDE} trace the grader",
    "sys.setprofile": f"{OUTSIDE} trace the grader",
    "sys.addaudithook": f"{OUTSIDE} watch the grader",
    "sys._current_frames": f"{OUTSIDE} look into the grader",
    "sys._current_exceptions": f"{OUTSIDE} look into the grader",
    "gc.get_objects": f"{OUTSIDE} look into the grader",
    "gc.get_referrers": f"{OUTSIDE} look into the grader",
    "gc.get_referents": f"{OUTSIDE} look into the grader",
    "resource.setrlimit": f"{OUTSIDE} change its limits",
    "resource.prlimit": f"{OUTSIDE} change its limits",
}
LOOKS = {"sys._getframe", "object.__getattr__", "object.__setattr__"}  # libraries may, a submission may not
FRAMES = {"tb_frame", "gi_frame", "cr_frame", "ag_frame", "__code__", "__defaults__", "__kwdefaults__"}
CHANGES = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
}
CHANGES |= {"os.chown", "os.utime", "shutil.rmtree", "shutil.move", "sqlite3.connect"}
MOST_FILES = 50  # that a submission may open for writing
SOURCE_NAME = "<submission>"


class Limits(NamedTuple):
    """What one exercise may use."""

    seconds: float = 10.0  # of CPU time; three times as much on the clock
    memory: int = 1 << 30  # bytes on top of what the grader itself takes
    file_size: int = 16 << 20

    @property
    def clock(self) -> float:
        return 3 * self.seconds + 5


class Roads(NamedTuple):
    """Which files may be opened."""

    read: tuple[str, ...]
    hidden: tuple[str, ...]  # not even if they lie under `read`
    write: str

    def may_read(self, path: str) -> bool:
        return _under(path, (*self.read, self.write)) and not _under(path, self.hidden)

    def may_write(self, path: str) -> bool:
        return path == os.devnull or _under(path, (self.write,))


def _under(path: str, folders) -> bool:
    return any(path == f or path.startswith(f.rstrip(os.sep) + os.sep) for f in folders)


def roads(root: Path, work: Path) -> Roads:
    """Reading: Python, its packages, the course's plumbing and its models. Writing: `work` only."""
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share", "/etc/localtime", "/etc/fonts"]
    system += ["/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu"]
    python = [sys.prefix, sys.base_prefix, *(p for p in sys.path if p and Path(p).is_dir())]
    course = [root / "rlcourse", root / "models"]
    read = {os.path.realpath(p) for p in [*system, *python, *course] if os.path.exists(p)}
    read -= {os.path.realpath(root)}
    hidden = [root / name for name in ("solutions", "tests", "notebooks", "book", "results", ".git")]
    return Roads(tuple(sorted(read)), tuple(os.path.realpath(p) for p in hidden), os.path.realpath(work))


def limit_process(limits: Limits) -> None:
    """Limits that the operating system enforces, where it can (not on Windows)."""
    if resource is None:
        return
    space, used = _address_space() + limits.memory, time.process_time()
    wanted = {
        "RLIMIT_CPU": (int(used + limits.seconds + 1), int(used + limits.seconds + 2)),
        "RLIMIT_FSIZE": (limits.file_size, limits.file_size),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (0, 0),
    }
    if sys.platform == "linux":
        wanted["RLIMIT_AS"] = (space, space + (64 << 20))
    for name, pair in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), pair)


def release_memory_limit() -> None:
    """A little more memory, to report that there was too little."""
    if resource is not None:
        with contextlib.suppress(ValueError, OSError):
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return 1 << 32
    return pages * os.sysconf("SC_PAGE_SIZE")


def die_with_parent() -> None:
    """On Linux, the kernel ends this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def lock_files(allowed: Roads) -> bool:
    """Landlock: from here on, the Linux kernel refuses all other files, programs, connections and signals.

    Returns:
        False where the kernel has no Landlock (before 5.13, or not Linux): then only the guard holds.
    """
    if sys.platform != "linux":
        return False
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(444, None, 0, 1)  # landlock_create_ruleset: which version is there?
    if version < 1:
        return False
    every = (1 << (13 + (version >= 2) + (version >= 3))) - 1
    write_file, read_file, read_folder = 1 << 1, 1 << 2, 1 << 2 | 1 << 3
    change = write_file | read_folder | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | (1 << 14) * (version >= 3)
    rules = struct.pack("QQQ", every, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = call(444, rules, size, 0)
    if ruleset < 0:
        return False
    wanted = [(p, read_folder if os.path.isdir(p) else read_file) for p in allowed.read]
    wanted += [(allowed.write, change), (os.devnull, read_file | write_file)]
    for path, access in wanted:
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_PATH)
            call(445, ruleset, 1, struct.pack("=Qi", access, fd), 0)
            os.close(fd)
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    done = call(446, ruleset, 0) == 0
    os.close(ruleset)
    return done


class Guard:
    """Watches Python's audit events; once armed, it refuses what a submission must not do."""

    def __init__(self, allowed: Roads):
        self.allowed, self.armed, self.busy, self.files = allowed, False, False, 0
        self.seen: list[str] = []  # what was refused, for the report
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if not self.armed or self.busy:
            return
        self.busy = True
        try:
            reason = self._reason(event, arguments, sys._getframe(1))
        finally:
            self.busy = False
        if reason:
            if len(self.seen) < 10 and reason not in self.seen:
                self.seen.append(reason)
            raise PermissionError(reason)

    def _reason(self, event, arguments, frame) -> str:
        if event == "open":
            return self._open(*arguments)
        if event in CHANGES:
            return self._change(arguments)
        if event in LOOKS:
            looks = event == "sys._getframe" or arguments[1] in FRAMES
            return f"{OUTSIDE} look into the grader" if looks and _mine(frame, arguments) else ""
        return REFUSED_EVENTS.get(event) or REFUSED_EVENTS.get(event.split(".")[0], "")

    def _open(self, path, mode, flags) -> str:
        if isinstance(path, int):
            return ""
        name = os.path.realpath(os.fsdecode(path))
        flags = flags if isinstance(flags, int) else 0
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        if (mode and set(mode) & set("wax+")) or (mode is None and flags & writes):
            self.files += 1
            if self.files > MOST_FILES:
                return f"{OUTSIDE} write more than {MOST_FILES} files"
            return "" if self.allowed.may_write(name) else f"{OUTSIDE} write files outside its folder"
        return "" if self.allowed.may_read(name) else f"{OUTSIDE} read {os.path.basename(name)}"

    def _change(self, arguments) -> str:
        paths = [os.path.realpath(os.fsdecode(a)) for a in arguments if isinstance(a, str | bytes)]
        allowed = all(p == os.path.realpath(":memory:") or self.allowed.may_write(p) for p in paths)
        return "" if allowed else f"{OUTSIDE} change files outside its folder"


def _mine(frame, arguments) -> bool:
    """Did the submission itself cause the event? `inspect` asks for frames on behalf of its caller."""
    own = (SOURCE_NAME, "<string>")
    signature = len(arguments) > 1 and str(arguments[1]).startswith("__")  # inspect.signature: that is fine
    while frame and frame.f_code.co_filename == inspect.__file__ and not signature:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename in own
