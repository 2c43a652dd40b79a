"""A player for grid worlds: stored frames, a slider and buttons, in the book and in JupyterLab.

The output is deterministic text (ids are content hashes), so nbval compares it like any other output.
"""

import hashlib
import html
import json
from pathlib import Path

import numpy as np

SCRIPT = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")


class GridPlayer:
    """Frames of a grid world that a reader can step through.

    Args:
        rows, cols: size of the grid; cells are numbered row * cols + column.
        frames: one dict per step, all keys optional: `agent` (cell number), `values` (one number per cell,
            NaN for none), `arrows` (one string per cell), `note` (a line of text).
        title: what the reader sees and hears first.
        cliff: cells drawn as cliff. start, goal: cells marked S and G.
        digits: decimals that `values` are rounded to. pause: milliseconds per step when playing.

    Raises:
        ValueError: if there are no frames, or a frame has the wrong number of values or arrows.
    """

    def __init__(self, rows, cols, frames, title, cliff=(), start=None, goal=None, digits=1, pause=500):
        if not frames:
            raise ValueError("a player needs at least one frame")
        for k, frame in enumerate(frames):
            for key in ("values", "arrows"):
                if frame.get(key) is not None and len(frame[key]) != rows * cols:
                    raise ValueError(f"frame {k}: {key} needs {rows * cols} entries")
        self.rows, self.title = rows, title
        self.cols = cols
        clean = [self._clean(frame, digits) for frame in frames]
        self.data = {
            "rows": rows,
            "cols": cols,
            "cliff": [int(s) for s in cliff],
            "start": start,
            "goal": goal,
            "pause": pause,
            "frames": clean,
        }

    @staticmethod
    def _clean(frame: dict, digits: int) -> dict:
        clean = {k: v for k, v in frame.items() if v is not None}
        if "agent" in clean:
            clean["agent"] = int(clean["agent"])
        if "values" in clean:
            rounded = np.round(np.asarray(clean["values"], dtype=float), digits) + 0.0  # no -0.0
            clean["values"] = [None if np.isnan(v) else float(v) for v in rounded]
        if "arrows" in clean:
            clean["arrows"] = list(clean["arrows"])
        return clean

    def __repr__(self):
        return f"<GridPlayer {self.title!r}, {len(self.data['frames'])} frames>"

    def _repr_html_(self):
        data = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False)
        data = data.replace("</", r"<\/")  # no note can end the script element
        uid = "player-" + hashlib.sha256(data.encode()).hexdigest()[:10]
        title = html.escape(self.title, quote=True)
        last = len(self.data["frames"]) - 1
        width, height = self.cols * 60, self.rows * 60
        return (
            f'<div class="rl-player" id="{uid}" role="group" aria-label="{title}" '
            f'style="max-width:{max(320, min(760, width))}px;margin:1em auto">'
            f'<svg role="img" aria-label="{title}" viewBox="0 0 {width} {height}" '
            f'font-family="sans-serif" style="width:100%;height:auto;display:block"></svg>'
            f'<div style="display:flex;gap:.5em;align-items:center;padding:.4em 0">'
            f'<button type="button" aria-label="one step back">&#8249;</button>'
            f'<button type="button">Play</button>'
            f'<button type="button" aria-label="one step forward">&#8250;</button>'
            f'<input type="range" min="0" max="{last}" value="0" step="1" aria-label="step" '
            f'style="flex:1;min-width:5em"><output>0 / {last}</output></div>'
            f'<div class="rl-note" aria-live="polite" style="min-height:1.5em"></div>'
            f'<script type="application/json">{data}</script></div>'
            f'<script>{SCRIPT}\nrlPlayer(document.getElementById("{uid}"));</script>'
        )
