"""In Colab: install what the labs need and the machine lacks, and touch nothing that is there."""

import importlib.metadata
import subprocess
import sys

NEEDED = ("numpy", "matplotlib", "gymnasium", "torch", "transformers", "tokenizers", "safetensors")


def missing() -> list[str]:
    """The packages of NEEDED that are not installed, in any version."""
    absent = []
    for name in NEEDED:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(name)
    return absent


if __name__ == "__main__" and (names := missing()):
    print("installing", *names)
    sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "-q", *names]))
