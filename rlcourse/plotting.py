"""One look for all figures: the same colour for the same thing everywhere."""

import matplotlib.pyplot as plt
import numpy as np

COLORS = {
    "state": "#2563eb",
    "action": "#c2410c",
    "reward": "#a16207",
    "value": "#15803d",
    "policy": "#7c3aed",
    "reference": "#64748b",
    "ink": "#1f2933",
    "line": "#9aa5b1",
}


def use_style() -> None:
    """Set matplotlib's defaults for the course."""
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.facecolor": "white",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": COLORS["line"],
            "axes.labelcolor": COLORS["ink"],
            "axes.titlesize": 11,
            "axes.prop_cycle": plt.cycler(
                color=[COLORS[k] for k in ("state", "action", "value", "policy", "reward", "reference")]
            ),
            "xtick.color": COLORS["ink"],
            "ytick.color": COLORS["ink"],
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def plot_band(ax, x, runs, label: str, color: str):
    """Mean over runs with a 95% interval of the mean (normal approximation).

    Args:
        ax: matplotlib axes.
        x: (T,) positions.
        runs: (seeds, T) one row per seed.
        label: legend text.
        color: a key of COLORS or any matplotlib colour.
    """
    runs = np.asarray(runs, dtype=float)
    mean = runs.mean(0)
    half = 1.96 * runs.std(0, ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else np.zeros_like(mean)
    color = COLORS.get(color, color)
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    return ax.plot(x, mean, color=color, label=label)[0]
