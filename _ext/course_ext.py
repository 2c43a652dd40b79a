"""Sphinx extension of the course: figures that follow dark mode, and numbers that come from runs.

{svg-figure}  puts an SVG file into the page
{run}         a value that a lab recorded, {run}`ch04_value_methods:sarsa_return`
{run-figure}  a figure or player that a lab showed
"""

import functools
import html
import json
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).resolve().parents[1]
LOG = logging.getLogger(__name__)


@functools.cache
def run_outputs(stem: str, stamp: float) -> dict[str, dict]:
    """The named outputs of a lab: name to the output's data and metadata."""
    notebook = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    found = {}
    for cell in notebook["cells"]:
        for out in cell.get("outputs", []):
            meta = out.get("metadata", {}).get("rlcourse", {})
            if name := meta.get("record") or meta.get("show"):
                found[name] = {"meta": meta, "data": out.get("data", {})}
    return found


def find_output(directive, target: str) -> dict | None:
    """The output `chapter:name`, or None after a warning that says what there is."""
    stem, _, name = target.strip().partition(":")
    path = ROOT / "notebooks" / f"{stem}.ipynb"
    outputs = run_outputs(stem, path.stat().st_mtime) if path.is_file() else {}
    directive.env.note_dependency(str(path))
    if name not in outputs:
        there = ", ".join(outputs) or "none"
        LOG.warning(
            "lab %s has no output %r; it has: %s", stem, name, there, location=directive.get_location()
        )
        return None
    return outputs[name]


class RunRole(SphinxRole):
    """A value that a lab recorded with `record(name, value)`."""

    def run(self):
        output = find_output(self, self.text)
        value = output["meta"].get("value", "") if output else "?"
        return [nodes.inline("", value, classes=["run-value"])], []


class FigureBase(SphinxDirective):
    """A figure node (so that it is numbered and can be cited) around raw HTML."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {
        "name": directives.unchanged,
        "alt": directives.unchanged,
        "class": directives.class_option,
    }

    def figure(self, markup: str):
        figure = nodes.figure("", nodes.raw("", markup, format="html"))
        figure["classes"] += ["course-figure", *self.options.get("class", [])]
        figure["align"] = "default"
        self.set_source_info(figure)
        if self.content:
            caption = nodes.caption()
            inlines, messages = self.state.inline_text("\n".join(self.content), self.lineno)
            caption += inlines
            figure += caption
            figure += messages
        self.add_name(figure)
        return [figure]


class SvgFigure(FigureBase):
    """An SVG of ours inside the page: its colours are CSS variables, so it follows dark mode."""

    def run(self):
        here = Path(self.env.doc2path(self.env.docname)).parent
        path = here / self.arguments[0]
        self.env.note_dependency(str(path))
        if not path.is_file():
            LOG.warning("no figure file %s", self.arguments[0], location=self.get_location())
            return []
        if not self.options.get("alt"):
            LOG.warning("figure %s needs :alt:", self.arguments[0], location=self.get_location())
        svg = re.sub(
            r"<\?xml.*?\?>|<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        ).strip()
        alt = html.escape(self.options.get("alt", ""), quote=True)
        svg = re.sub(r"^<svg\b", f'<svg role="img" aria-label="{alt}" class="course-svg"', svg)
        return self.figure(svg)


class RunFigure(FigureBase):
    """A figure or player that a lab showed with `show(name, …)`."""

    def run(self):
        output = find_output(self, self.arguments[0])
        if output is None:
            return []
        alt = html.escape(self.options.get("alt") or output["meta"]["alt"], quote=True)
        if png := output["data"].get("image/png"):
            data = "".join(png).replace("\n", "")
            return self.figure(f'<img class="run-figure" alt="{alt}" src="data:image/png;base64,{data}">')
        return self.figure("".join(output["data"]["text/html"]))


def link_equations(app, docname, source):
    """A lab's link `[(3.4)](../book/ch03.md#equation-eq-x)` becomes a checked reference in the book."""
    if docname.startswith("notebooks/"):
        source[0] = re.sub(r"\]\(\.\./book/\w+\.md#equation-(eq-[\w-]+)\)", r"](#\1)", source[0])


def setup(app):
    app.connect("source-read", link_equations)
    app.add_role("run", RunRole())
    app.add_directive("svg-figure", SvgFigure)
    app.add_directive("run-figure", RunFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
