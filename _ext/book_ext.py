"""Sphinx extension of the book's shell: MathJax, launch buttons, clean pages, exercise cards, one page."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parents[1]
GITHUB = re.compile(r"https://github\.com/[\w.-]+/[\w.-]+")
EXERCISE = re.compile(r"Exercise \d+\.\d+: ")


def repository_url() -> str:
    """COURSE_REPO_URL, else GITHUB_REPOSITORY, else the git remote `origin`, else ''."""
    if repository := os.environ.get("GITHUB_REPOSITORY"):
        repository = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
    url = os.environ.get("COURSE_REPO_URL") or repository or git("remote", "get-url", "origin")
    match = re.match(r"(?:https?://|ssh://)?(?:[^@/]+@)?([^/:]+)[:/](.+?)(?:\.git)?/?$", url)
    return f"https://{match[1]}/{match[2]}" if match else ""


def git(*arguments: str) -> str:
    """What git answers, or '' (no git, no repository, no remote)."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def set_repository(app, config):
    """Launch buttons need a GitHub address; without one they go, and the download button stays."""
    options = config.html_theme_options
    url = repository_url()
    known = bool(GITHUB.fullmatch(url))
    options["use_repository_button"] = options["use_issues_button"] = known
    if known:
        options["repository_url"] = url
        options["repository_branch"] = os.environ.get("COURSE_REPO_BRANCH") or "main"
    else:
        options["launch_buttons"] = {}


def copy_mathjax(app, exception):
    """Serve MathJax from the book itself: two parts of the installed package, nothing committed here."""
    if exception or app.builder.format != "html":
        return
    try:
        package = importlib.metadata.distribution("sphinx-mathjax-offline")
    except importlib.metadata.PackageNotFoundError:
        raise ExtensionError("MathJax is missing: pip install -r requirements-book.txt") from None
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    if not (target / fonts).is_dir():
        shutil.copytree(source / fonts, target / fonts)
        shutil.copy(source / "tex-chtml.js", target)


def drop_double_scripts(app, pagename, templatename, context, doctree):
    """jupyter-book adds inline scripts twice (a SyntaxError in the console), and thebe, which needs a CDN."""
    seen, kept = set(), []
    for script in context.get("script_files", []):
        name = str(getattr(script, "filename", script) or "")
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        if "thebe" in name or "THEBE" in body or (name, body) in seen:
            continue
        seen.add((name, body))
        kept.append(script)
    context["script_files"][:] = kept


def typeset_one_page(app):
    """The one page of the PDF needs MathJax, although its first document has no formula."""
    if app.builder.name == "singlehtml":
        app.set_html_assets_policy("always")


def place_one_page(app, exception):
    """The one page is written as if it stood at the root, but into its document's folder: put it right."""
    if app.builder.name == "singlehtml" and not exception:
        shutil.copy(Path(app.outdir) / f"{app.config.root_doc}.html", Path(app.outdir) / "book.html")


def unnumber_labs(app, env):
    """A lab stands beside the sections of its chapter, but is not one of them: no section number."""
    for docname in env.found_docs:
        if docname.startswith("notebooks/"):
            env.toc_secnumbers.pop(docname, None)
            env.titles[docname].attributes.pop("secnumber", None)
            for reference in env.tocs[docname].findall(nodes.reference):
                reference.attributes.pop("secnumber", None)


def frame_exercises(app, doctree):
    """In a lab, put an exercise (its card, text, hints and the cell to fill) into a box of its own."""
    for section in list(doctree.findall(nodes.section)):
        title = section.next_node(nodes.title)
        if title is None or not EXERCISE.match(title.astext()):
            continue
        start = section.index(title) + 1
        is_cell = [isinstance(n, nodes.container) and "cell" in n["classes"] for n in section.children]
        end = is_cell.index(True, start) + 1 if True in is_cell[start:] else len(section)
        card = nodes.container("", *section.children[start:end], classes=["exercise-card"])
        if len(card) and isinstance(card[0], nodes.paragraph):
            card[0]["classes"].append("exercise-facts")
        section[start:end] = [card]


def fold_setup_cell(app, doctree):
    """The first code cell is the same in every lab: fold it away in the book."""
    if not app.env.docname.startswith("notebooks/"):
        return
    cell = next((n for n in doctree.findall(nodes.container) if "cell" in n["classes"]), None)
    if cell is not None:
        at = cell.parent.index(cell)
        opening = nodes.raw("", "<details><summary>Set-up, the same in every lab</summary>", format="html")
        cell.parent[at : at + 1] = [opening, cell, nodes.raw("", "</details>", format="html")]


def mark_verdicts(app, doctree):
    """Printed verdicts (✓ of a claim, ○ and ✗ of a check) become blocks with a style of their own."""
    kinds = {"✓": "verdict-right", "○": "verdict-open", "✗": "verdict-wrong"}
    for block in list(doctree.findall(nodes.literal_block)):
        text = block.astext()
        if "stream" not in block["classes"] or not re.search("^[✓○✗]", text, re.MULTILINE):
            continue
        parts, kind = [], None
        for line in text.splitlines(keepends=True):
            new = kinds.get(line[0]) or (kind if kind == "verdict-wrong" and line[0] == " " else "")
            if new != kind:
                parts.append(nodes.literal_block("", "", **block.attributes))
                parts[-1]["classes"] = [*block["classes"], new] if new else list(block["classes"])
            kind = new
            parts[-1].rawsource += line
            parts[-1].children = [nodes.Text(parts[-1].rawsource)]
        block.parent[block.parent.index(block) : block.parent.index(block) + 1] = parts


def describe_figures(app, doctree):
    """A figure that a lab showed with `show(…, alt=…)` keeps its description, the text output beside it."""
    for bundle in doctree.findall(nodes.container):
        if bundle.get("nb_element") != "mime_bundle":
            continue
        match = re.match(r"\[figure \S+: (.*)\]$", bundle.astext().strip(), re.DOTALL)
        for image in bundle.findall(nodes.image):
            image["alt"] = match[1] if match else "Figure drawn by the cell above"


def setup(app):
    app.connect("config-inited", set_repository)
    app.connect("builder-inited", typeset_one_page)
    app.connect("doctree-read", frame_exercises)
    app.connect("doctree-read", fold_setup_cell)
    app.connect("doctree-read", mark_verdicts)
    app.connect("doctree-read", describe_figures)
    app.connect("env-check-consistency", unnumber_labs)  # after the numbers were given
    app.connect("html-page-context", drop_double_scripts, priority=900)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", place_one_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
