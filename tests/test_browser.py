"""The book in a real browser: Chromium or Chrome, headless, over the built site served from this machine.

Every page is loaded once and looked at three times: 1400 px, 390 px, and dark.
"""

import functools
import http.server
import itertools
import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.test_book import DOCS
from tools.print_pdf import FLAGS, find_browser, print_pdf

BROWSER = find_browser()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome found: install one or set BROWSER_PATH"),
]
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}

CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")


def look(tab, what):
    """The answer of one function of page_checks.js."""
    return tab.evaluate(f"{CHECKS}.{what}()")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def context(address):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
        browser.close()


@pytest.fixture
def tab(context, address):
    """A tab whose complaints (console, failed and outside requests) make the test fail at its end."""
    page = context.new_page()
    page.set_viewport_size(DESKTOP)
    complaints = []
    page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: complaints.append(f"script error: {e}"))
    page.on("requestfailed", lambda r: complaints.append(f"failed: {r.url}"))
    page.on(
        "request", lambda r: r.url.startswith((address, "data:")) or complaints.append(f"outside: {r.url}")
    )
    page.on("response", lambda r: r.status >= 400 and complaints.append(f"{r.status}: {r.url}"))
    yield page
    page.close()
    assert complaints == []


def visit(tab, address, doc):
    tab.goto(f"{address}/{doc}.html")
    tab.evaluate("() => window.MathJax?.startup?.promise")


def set_theme(tab, mode):
    """Choose the mode as a reader does: by the button, until it is there."""
    for _ in range(4):
        if tab.evaluate("document.documentElement.dataset.mode") == mode:
            return
        tab.locator("button.theme-switch-button").first.click()
    raise AssertionError(f"the button does not lead to {mode} mode")


@pytest.mark.parametrize("doc", DOCS)
def test_a_page_at_desktop_phone_and_dark(tab, address, doc):
    visit(tab, address, doc)
    facts = look(tab, "facts")
    assert facts["errors"] == [] and facts["typeset"] == facts["equations"]
    assert facts["headings"].count(1) == 1 and facts["headings"][0] == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(facts["headings"])), facts["headings"]
    assert facts["no_alt"] == 0 and facts["no_name"] == [] and facts["broken"] == 0
    assert facts["language"] == "en" and facts["title"]
    assert look(tab, "wide") == []
    assert look(tab, "pale") == []
    set_theme(tab, "dark")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    assert look(tab, "pale") == []
    set_theme(tab, "auto")
    tab.set_viewport_size(PHONE)
    assert look(tab, "wide") == []
    assert look(tab, "small") == []


def test_a_labelled_equation_shows_its_number(tab, address):
    visit(tab, address, "book/ch03_bellman")
    assert tab.locator("div.math .eqno").first.is_visible()


def test_search_finds_a_term(tab, address):
    tab.goto(f"{address}/search.html?q=Bellman")
    tab.locator("#search-results li a").first.wait_for(timeout=10_000)
    titles = " ".join(tab.locator("#search-results li a").all_text_contents())
    assert "Bellman" in titles
    tab.goto(f"{address}/search.html?q=zzyzxq")
    tab.get_by_text("did not match any documents").wait_for(timeout=10_000)


def test_search_opens_by_keyboard(tab, address):
    visit(tab, address, "book/intro")
    tab.keyboard.press("Control+k")
    assert tab.locator("#pst-search-dialog").evaluate("dialog => dialog.open")
    tab.keyboard.type("Bellman")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/search.html?q=Bellman*")


def test_dark_mode_turns_on_and_stays(tab, address):
    visit(tab, address, "book/intro")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(colour)
    set_theme(tab, "dark")
    assert tab.evaluate(colour) != light
    visit(tab, address, "book/notation")
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    set_theme(tab, "auto")


def test_the_keyboard_reaches_the_content_and_focus_is_seen(tab, address):
    visit(tab, address, "book/intro")
    tab.keyboard.press("Tab")
    assert "Skip to main content" in tab.evaluate("document.activeElement.textContent")
    tab.wait_for_function("document.activeElement.getBoundingClientRect().top >= 0")  # it slides into view
    for _ in range(12):  # search, sidebar
        tab.keyboard.press("Tab")
        assert look(tab, "ring") >= 2, tab.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    tab.goto(f"{address}/book/intro.html")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    for _ in range(6):  # past the sidebar: header buttons, then the text
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.closest('main') !== null")
        assert look(tab, "ring") >= 2, tab.evaluate("document.activeElement.outerHTML.slice(0, 200)")


def test_hidden_answers_open(tab, address, site):
    folded = re.compile(r'<div class="(?=[^"]*\badmonition\b)(?=[^"]*\bdropdown\b)')
    doc = next((d for d in DOCS if folded.search(read(site, d))), None)
    assert doc, "no page hides an answer"
    visit(tab, address, doc)
    box = tab.locator(".admonition.dropdown").first
    closed = box.bounding_box()["height"]
    box.locator("button.toggle-button").first.focus()
    tab.keyboard.press("Enter")
    tab.wait_for_function(
        "([e, h]) => e.getBoundingClientRect().height > h + 10", arg=[box.element_handle(), closed]
    )


def test_hints_of_a_lab_open(tab, address, site):
    doc = next(d for d in DOCS if "<details><summary>Hint" in read(site, d))
    visit(tab, address, doc)
    hint = tab.locator("details", has_text="Hint 1").first
    assert not hint.evaluate("d => d.open")
    hint.locator("summary").click()
    assert hint.evaluate("d => d.open") and hint.locator("p").first.is_visible()


def read(site, doc):
    return (site / f"{doc}.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("chapter", ["ch01_rl_basics", "ch03_bellman"])
def test_the_player_plays_by_button_and_key(tab, address, site, chapter):
    docs = [d for d in DOCS if d.endswith(chapter) and 'class="rl-player"' in read(site, d)]
    assert docs, f"{chapter} has no player, neither on its page nor in its lab"
    visit(tab, address, docs[0])
    player = tab.locator(".rl-player").first
    count, slider = player.locator("output"), player.locator("input")
    last = int(count.text_content().split("/")[1])
    player.get_by_label("one step forward").click()
    assert count.text_content() == f"1 / {last}"
    slider.focus()
    tab.keyboard.press("ArrowRight")
    assert count.text_content() == f"2 / {last}"
    player.get_by_label("one step back").click()
    assert count.text_content() == f"1 / {last}"
    tab.keyboard.press("End")
    assert count.text_content() == f"{last} / {last}"
    tab.keyboard.press("Home")
    assert count.text_content() == f"0 / {last}"
    slider.evaluate("(s) => { s.value = 1; s.dispatchEvent(new Event('input', { bubbles: true })); }")
    assert count.text_content() == f"1 / {last}"
    player.get_by_role("button", name=re.compile("play", re.I)).click()
    tab.wait_for_function("(o) => parseInt(o.textContent) >= 2", arg=count.element_handle())
    assert player.locator("svg rect").count() >= 4


def test_a_lab_can_be_downloaded_and_no_launch_button_is_dead(tab, address, site):
    doc = next(d for d in DOCS if d.startswith("notebooks/"))
    visit(tab, address, doc)
    links = tab.eval_on_selector_all(
        "header a[href], .bd-header-article a[href]", "all => all.map((a) => a.href)"
    )
    notebook = [a for a in links if a.endswith(".ipynb") and a.startswith(address)]
    assert notebook and tab.request.get(notebook[0]).json()["cells"]
    for link in (a for a in links if "colab" in a or "binder" in a):
        assert re.search(r"/gh/[\w.-]+/[\w.-]+/|/github/[\w.-]+/[\w.-]+/blob/", link) and doc in link


def test_the_book_opens_as_a_file(context, site):
    """Without a server: double-click on index.html."""
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("requestfailed", lambda r: problems.append(r.url))
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/book/intro.html")
    page.goto((site / "book" / "ch03_bellman.html").as_uri())
    page.evaluate("() => window.MathJax.startup.promise")
    assert page.locator("mjx-container").count() > 0 and problems == []
    page.close()


def test_one_page_prints_as_pdf(context, tmp_path, site):
    """What `make pdf` does, on one page of the site: the whole book takes longer and nothing else."""
    target = tmp_path / "page.pdf"
    print_pdf(context.browser, site / "book" / "ch03_bellman.html", target)
    assert target.read_bytes()[:5] == b"%PDF-" and target.stat().st_size > 30_000
