"""Which device a lab runs on."""

import importlib.util
import os
import shutil
import sys


def pick_device() -> str:
    """ "cuda" or "mps" if there is one, else "cpu"; COURSE_DEVICE overrides.

    torch is imported only where a GPU driver is present: chapters without torch stay quick to start.

    Raises:
        RuntimeError: if COURSE_DEVICE asks for a GPU that torch cannot use here.
    """
    wanted = os.environ.get("COURSE_DEVICE", "")
    driver = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia")
    if not wanted and not driver and sys.platform != "darwin":
        return "cpu"
    if wanted == "cpu" or importlib.util.find_spec("torch") is None:
        return "cpu"
    import torch

    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted and not usable.get(wanted.split(":")[0], False):
        raise RuntimeError(f"COURSE_DEVICE={wanted}, but torch finds no such device; unset it to use the CPU")
    return wanted or next((name for name, there in usable.items() if there), "cpu")
