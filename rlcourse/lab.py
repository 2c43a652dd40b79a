"""What the first cell of every lab brings in."""

import random
import warnings

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display

from rlcourse.claims import claim
from rlcourse.device import pick_device
from rlcourse.grading import check
from rlcourse.plotting import COLORS, use_style

__all__ = ["COLORS", "check", "claim", "device", "np", "plt", "record", "show"]

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, without ipywidgets
SEED = 0
random.seed(SEED)
np.random.seed(SEED)  # noqa: NPY002  labs pass generators; this is for what a learner adds
device = pick_device()
use_style()


class _Output:
    """An output with a name, so that a page of the book can quote it."""

    def __init__(self, bundle: dict, metadata: dict):
        self.bundle, self.metadata = bundle, {"rlcourse": metadata}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.bundle, self.metadata


def record(name: str, value, form: str = "{}") -> None:
    """Print `name = value`, and keep the value for the book's role {run}`chapter:name`.

    Args:
        name: unique within the lab.
        value: anything that `form` can format, or a tuple of such things.
        form: a format string; round to at most 3 significant digits.
    """
    text = form.format(*value) if isinstance(value, tuple) else form.format(value)
    display(_Output({"text/plain": f"{name} = {text}"}, {"record": name, "value": text}))


def show(name: str, item, alt: str) -> None:
    """Display a figure or a player, and keep it for the book's directive {run-figure} chapter:name.

    Args:
        name: unique within the lab.
        item: a matplotlib figure, or anything with `_repr_html_`.
        alt: what the figure shows, for those who cannot see it.
    """
    bundle = {"text/plain": f"[figure {name}: {alt}]"}
    if hasattr(item, "savefig"):
        bundle["image/png"] = _png(item)
        plt.close(item)
    else:
        bundle["text/html"] = item._repr_html_()
    display(_Output(bundle, {"show": name, "alt": alt}))


def _png(figure) -> str:
    """The figure as base64 text, without the metadata that differs between machines."""
    import base64
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
