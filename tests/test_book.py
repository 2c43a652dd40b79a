"""The built book, read from its files: complete, offline, no dead link, right numbers, launch buttons."""

import functools
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "_ext"))


def toc_files(node=None):
    """The documents of _toc.yml in order, as `book/ch02_mdp`."""
    node = yaml.safe_load((ROOT / "_toc.yml").read_text()) if node is None else node
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [
        f for key in ("parts", "chapters", "sections") for n in node.get(key, []) for f in toc_files(n)
    ]


DOCS = toc_files()


class Page(HTMLParser):
    """The links, loaded files, ids and images of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids, self.images = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        self.ids |= {a[key] for key in ("id", "name") if a.get(key)}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.loaded.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loaded.append(a["href"])
        if tag == "img":
            self.images.append(a)


@functools.cache
def parse(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_table_of_contents_names_every_page():
    there = {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    there |= {f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("ch*.ipynb")}
    assert sorted(there - set(DOCS)) == [] and len(DOCS) == len(set(DOCS))


@pytest.mark.parametrize("doc", DOCS)
def test_a_page_is_complete_and_offline(site, doc):
    """Everything that a page loads is a file of the book; every link inside the book has a target."""
    path = site / f"{doc}.html"
    page = parse(path)
    for address in page.loaded:
        parts = urlsplit(address)
        assert parts.scheme in ("", "data") and not parts.netloc, f"loads {address}"
        assert parts.scheme or (path.parent / unquote(parts.path)).is_file(), f"missing {address}"
    for address in page.links:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or address == "#":
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        assert target.is_file(), f"dead link {address}"
        if parts.fragment and target.suffix == ".html":
            assert unquote(parts.fragment) in parse(target).ids, f"no such place: {address}"
    assert all(image.get("alt") is not None for image in page.images)
    assert path.stat().st_size < 4e6


def test_opening_the_index_leads_to_the_landing_page(site):
    target = re.search(r'url=([^"]+)"', (site / "index.html").read_text())[1]
    assert (site / target).is_file() and target == f"{DOCS[0]}.html"


@pytest.mark.parametrize("doc", [d for d in DOCS if d.startswith("book/ch")])
def test_a_chapter_has_the_number_in_its_name(site, doc):
    text = (site / f"{doc}.html").read_text(encoding="utf-8")
    number = re.search(r'<h1><span class="section-number">(\d+)\. </span>', text)[1]
    assert int(number) == int(doc[7:9])
    assert set(re.findall(r'<span class="eqno">\((\d+)\.\d+\)', text)) <= {number}


@pytest.mark.parametrize("doc", [d for d in DOCS if d.startswith("notebooks/")])
def test_a_lab_has_its_title_and_framed_exercises(site, doc):
    text = (site / f"{doc}.html").read_text(encoding="utf-8")
    assert re.search(rf"<h1>Lab {int(doc[12:14])}: ", text)
    cells = json.loads((ROOT / f"{doc}.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    wanted = len(re.findall(r"^### Exercise ", prose, re.MULTILINE))
    assert text.count("exercise-card") == wanted
    assert (site / "_sources" / f"{doc}.ipynb").is_file(), "the download button needs the notebook"


def test_the_landing_page_leads_to_every_chapter_and_way_of_use(site):
    links = {
        unquote(urlsplit(a).path).removeprefix("../book/") for a in parse(site / "book" / "intro.html").links
    }
    assert {f"{d[5:]}.html" for d in DOCS if d.startswith("book/") and d != "book/intro"} <= links


def test_mathjax_comes_from_the_installed_package_and_is_not_committed(site):
    package = importlib.metadata.distribution("sphinx-mathjax-offline")
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    served = site / "_static" / "mathjax"
    files = [p for p in served.rglob("*") if p.is_file()]
    assert len(files) > 10
    assert all(p.read_bytes() == (source / p.relative_to(served)).read_bytes() for p in files)
    assert not list((ROOT / "book").rglob("*mathjax*"))


# ---- launch buttons ----

REMOTES = {
    "https://github.com/some-one/rl.course": "https://github.com/some-one/rl.course",
    "https://github.com/someone/course.git": "https://github.com/someone/course",
    "https://token@github.com/someone/course/": "https://github.com/someone/course",
    "git@github.com:someone/course.git": "https://github.com/someone/course",
    "ssh://git@github.com/someone/course.git": "https://github.com/someone/course",
    "": "",
}


@pytest.mark.parametrize("remote", REMOTES)
def test_the_repository_address_is_found_in_the_git_remote(monkeypatch, remote):
    import book_ext

    for name in ("COURSE_REPO_URL", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(book_ext, "git", lambda *arguments: remote)
    assert book_ext.repository_url() == REMOTES[remote]


def test_variables_come_before_the_git_remote(monkeypatch):
    import book_ext

    monkeypatch.setattr(book_ext, "git", lambda *arguments: "https://github.com/c/c")
    monkeypatch.setenv("GITHUB_REPOSITORY", "b/b")
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    monkeypatch.delenv("COURSE_REPO_URL", raising=False)
    assert book_ext.repository_url() == "https://github.com/b/b"
    monkeypatch.setenv("COURSE_REPO_URL", "https://github.com/a/a")
    assert book_ext.repository_url() == "https://github.com/a/a"


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """Builds a book of one page and one lab with our configuration, for a repository address."""
    folder = tmp_path_factory.mktemp("small")

    def build(url: str) -> str:
        config = yaml.safe_load((ROOT / "_config.yml").read_text())
        config["sphinx"]["local_extensions"] = {
            name: str(ROOT / "_ext") for name in ("course_ext", "book_ext")
        }
        config["bibtex_bibfiles"] = [str(ROOT / "book" / "references.bib")]
        for name in ("book/_static", "notebooks"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in (ROOT / "book" / "_static").iterdir():
            (folder / "book" / "_static" / path.name).write_bytes(path.read_bytes())
        cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Lab 1: A title\n\nText."}]
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook = {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "notebooks" / "ch01_x.ipynb").write_text(json.dumps(notebook))
        (folder / "book" / "intro.md").write_text("# A book\n\nText.\n")
        (folder / "_toc.yml").write_text(
            "{format: jb-book, root: book/intro, chapters: [{file: notebooks/ch01_x}]}"
        )
        (folder / "_config.yml").write_text(yaml.safe_dump(config))
        command = [Path(sys.executable).with_name("jupyter-book"), "build", ".", "-W", "-n", "-q", "--all"]
        environment = {**os.environ, "COURSE_REPO_URL": url}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return (folder / "_build" / "html" / "notebooks" / "ch01_x.html").read_text(encoding="utf-8")

    return build


def test_launch_buttons_lead_to_the_lab(small_book):
    links = Page(small_book("https://github.com/someone/course")).links
    assert "https://colab.research.google.com/github/someone/course/blob/main/notebooks/ch01_x.ipynb" in links
    binder = "https://mybinder.org/v2/gh/someone/course/main?urlpath=lab/tree/notebooks/ch01_x.ipynb"
    assert binder in links
    assert "../_sources/notebooks/ch01_x.ipynb" in links


def test_without_an_address_only_the_download_button_stays(small_book):
    links = Page(small_book("none")).links
    assert not [a for a in links if re.search("colab|binder|github", a)]
    assert "../_sources/notebooks/ch01_x.ipynb" in links


# ---- colours ----


def palette(theme: str) -> dict[str, str]:
    """The --c-* variables of the theme, from the style sheet."""
    css = (ROOT / "book" / "_static" / "course.css").read_text()
    selector = "html" if theme == "light" else r'html\[data-theme="dark"\]'
    block = re.search(rf"^{selector} \{{(.*?)^\}}", css, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"--c-(\w+): (#\w{6});", block[1]))


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figure_colours_stand_out_on_page_and_panel(theme):
    """WCAG AA: 4.5 for colours that also carry text; 2.2 for soft lines, which carry no meaning alone."""
    colors = palette(theme)
    assert set(palette("light")) == set(colors)
    for name, color in colors.items():
        if name in ("paper", "panel"):
            continue
        for background in (colors["paper"], colors["panel"]):
            high, low = sorted((luminance(color), luminance(background)), reverse=True)
            limit = {"line": 2.2, "reference": 4.3}.get(name, 4.5)
            assert (high + 0.05) / (low + 0.05) >= limit, f"{name} {color} on {background}"


def test_figures_and_plots_share_the_light_colours():
    from rlcourse.plotting import COLORS

    assert {k: v for k, v in palette("light").items() if k in COLORS} == COLORS
