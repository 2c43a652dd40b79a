// What scrolls sideways gets a keyboard stop: formulas, tables and drawings that are wider than their place.
document.addEventListener("DOMContentLoaded", () => {
  const places = "article .math, .pst-scrollable-table-container, .course-figure";
  const mark = () => {
    for (const box of document.querySelectorAll(places)) {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  (window.MathJax?.startup?.promise ?? Promise.resolve()).then(mark);
  let waiting;
  window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(mark, 100); });
});
