// Small repairs that need the finished page: formulas wider than the line scroll, and what scrolls has a keyboard stop.
document.addEventListener("DOMContentLoaded", () => {
  const repair = () => {
    for (const formula of document.querySelectorAll("article span.math")) {
      formula.classList.remove("wide");
      const line = formula.closest("p, li, td, dd, figcaption, div");
      const right = line.getBoundingClientRect().right;
      if (formula.getBoundingClientRect().right > right + 1) formula.classList.add("wide");
    }
    for (const box of document.querySelectorAll("div.math, span.math.wide, .pst-scrollable-table-container, .course-figure")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  const ready = window.MathJax?.startup?.promise ?? Promise.resolve();
  ready.then(repair);
  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(repair, 100); });
});
