"""Print the one-page book as PDF with Chromium or Chrome: `python tools/print_pdf.py [OUT.pdf]`."""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "_build" / "singlehtml" / "book.html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FOOTER = '<div style="font-size:8px;width:100%;text-align:center"><span class="pageNumber"></span></div>'


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome; the variable BROWSER_PATH wins."""
    found = [os.environ.get("BROWSER_PATH"), *map(shutil.which, NAMES), MAC]
    return next((path for path in found if path and Path(path).is_file()), None)


def print_pdf(browser, page: Path, target: Path) -> None:
    """Open the page, wait for its equations, unfold what is folded, print."""
    tab = browser.new_page(color_scheme="light")
    tab.goto(page.as_uri(), timeout=120_000)
    tab.evaluate("() => window.MathJax?.startup?.promise")
    raw = tab.evaluate("() => document.querySelectorAll('.math:not(:has(mjx-container))').length")
    if raw:
        raise RuntimeError(f"{raw} formulas of {page.name} are not typeset")
    tab.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    tab.pdf(
        path=target,
        format="A4",
        margin={"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
        outline=True,
        tagged=True,
    )
    tab.close()


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "book.pdf"
    path = find_browser()
    if path is None:
        sys.exit(
            "No Chromium or Chrome found: install one, or say where it is with BROWSER_PATH=/path/to/chrome."
        )
    print("Printing (one to two minutes) …", flush=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        print_pdf(browser, PAGE, target)
        browser.close()
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
