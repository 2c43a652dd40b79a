// What the browser tests ask a page. An expression: an object of functions, each without arguments.
({
  // Text that is too pale: WCAG AA asks for 4.5, or 3 for large text. Pictures and hidden text are left out.
  pale() {
    const channels = (text) => {
      const numbers = text.match(/[\d.]+/g).map(Number);
      return numbers.length < 4 ? [...numbers, 1] : numbers;
    };
    const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const background = (node) => {
      for (; node; node = node.parentElement) {
        const color = channels(getComputedStyle(node).backgroundColor);
        if (color[3] > 0.9) return color;
      }
      return [255, 255, 255];
    };
    const left_out = "svg, mjx-assistive-mml, script, style, noscript, dialog, .skip-link, .visually-hidden";
    const found = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode.data.trim(), node = walker.currentNode.parentElement;
      if (!text || node.closest(left_out)) continue;
      if (!node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      if (node.getBoundingClientRect().width < 2) continue;
      const style = getComputedStyle(node), size = parseFloat(style.fontSize);
      const pair = [luminance(channels(style.color)), luminance(background(node))].sort((a, b) => b - a);
      const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
      const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
      if (ratio < (large ? 3 : 4.5)) {
        found.add(`${text.slice(0, 30)}: ${ratio.toFixed(1)}, ${node.tagName}.${node.className}`);
      }
    }
    return [...found];
  },

  // Boxes beyond the window's right edge that no ancestor lets the reader scroll to.
  wide() {
    const width = document.documentElement.clientWidth, found = new Set();
    if (document.documentElement.scrollWidth > width) found.add("the page");
    for (const node of document.querySelectorAll("article *")) {
      const box = node.getBoundingClientRect();
      if (box.width === 0 || box.right <= width + 1 || node.closest("mjx-assistive-mml, svg *")) continue;
      let up = node.parentElement;
      while (up && !["auto", "scroll"].includes(getComputedStyle(up).overflowX)) up = up.parentElement;
      if (!up || up === document.body || up === document.documentElement) {
        found.add(`${node.tagName}.${node.className} to ${Math.round(box.right)}: ${node.textContent.slice(0, 30)}`);
      }
    }
    return [...found];
  },

  // Words in drawings that are too small to read.
  small() {
    return [...document.querySelectorAll(".course-svg text")]
      .filter((text) => {
        const svg = text.ownerSVGElement;
        const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
        return scale * parseFloat(getComputedStyle(text).fontSize) < 9.5;
      })
      .map((text) => text.textContent.slice(0, 30));
  },

  facts() {
    const article = document.querySelector("article");
    const all = (selector) => [...article.querySelectorAll(selector)];
    const named = (node) => node.textContent.trim() || node.title || node.dataset.tooltip || node.labels?.length
      || node.getAttribute("aria-label") || node.getAttribute("aria-labelledby");
    return {
      equations: all(".math").length,
      typeset: all(".math").filter((math) => math.querySelector("mjx-container")).length,
      errors: all("mjx-merror, [data-mjx-error]").map((node) => node.textContent.slice(0, 60)),
      headings: all("h1, h2, h3, h4, h5, h6").filter((h) => !h.closest(".admonition, details")).map((h) => +h.tagName[1]),
      no_alt: all("img, svg[role=img]").filter((node) => !(node.alt || node.getAttribute("aria-label"))).length,
      no_name: all("button, input").filter((node) => !named(node)).map((node) => node.outerHTML.slice(0, 80)),
      broken: [...document.images].filter((i) => i.complete && !i.naturalWidth && i.checkVisibility()).length,
      language: document.documentElement.lang,
      title: document.title,
    };
  },

  // The width of the ring around what has the focus; 0 for none.
  ring() {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth);
  },
})
