// Wires one grid player: a slider, three buttons and the keys. No library, no network.
window.rlPlayer = window.rlPlayer || function (figure) {
  if (!figure || figure.dataset.ready) return;
  figure.dataset.ready = "1";
  const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const { rows, cols, frames, cliff, goal, start } = data;
  const svg = figure.querySelector("svg"), slider = figure.querySelector("input");
  const count = figure.querySelector("output"), note = figure.querySelector(".rl-note");
  const [back, play, forward] = figure.querySelectorAll("button");
  const SIZE = 60, cells = [];
  const add = (tag, attributes, text) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text) node.textContent = text;
    return svg.appendChild(node);
  };
  const centre = (s) => [(s % cols) * SIZE + SIZE / 2, Math.floor(s / cols) * SIZE + SIZE / 2];
  const known = frames.flatMap((f) => f.values || []).filter((v) => v !== null);
  const low = Math.min(...known), high = Math.max(...known);
  for (let s = 0; s < rows * cols; s++) {
    const [x, y] = centre(s);
    const rect = add("rect", { x: x - SIZE / 2 + 1, y: y - SIZE / 2 + 1, width: SIZE - 2, height: SIZE - 2, rx: 5 });
    const value = add("text", { x, y: y + SIZE * 0.38, "text-anchor": "middle", "font-size": 15 });
    const arrow = add("text", { x, y: y + 3, "text-anchor": "middle", "font-size": 22 });
    cells.push({ rect, value, arrow });
  }
  for (const [s, letter] of [[start, "S"], [goal, "G"]]) {
    if (s === null) continue;
    const [x, y] = centre(s);
    add("text", { x: x - SIZE / 2 + 7, y: y - SIZE / 2 + 18, "font-size": 14, "font-weight": 700, fill: "#1f2933" }, letter);
  }
  const agent = add("circle", { r: SIZE * 0.2, fill: "#7c3aed", stroke: "#fff", "stroke-width": 3 });
  function show(k) {
    const frame = frames[k];
    cells.forEach((cell, s) => {
      const v = frame.values ? frame.values[s] : null, inCliff = cliff.includes(s);
      const t = v === null || high === low ? 0 : (v - low) / (high - low);
      const dark = !inCliff && t > 0.6;
      cell.rect.setAttribute("fill", inCliff ? "#b45309" : `hsl(217 75% ${93 - 50 * t}%)`);
      cell.value.textContent = v === null || inCliff ? "" : v;
      cell.arrow.textContent = frame.arrows && !inCliff ? frame.arrows[s] : "";
      for (const text of [cell.value, cell.arrow]) text.setAttribute("fill", dark ? "#ffffff" : "#1f2933");
    });
    const there = frame.agent !== undefined && frame.agent !== null;
    agent.setAttribute("visibility", there ? "visible" : "hidden");
    if (there) { const [x, y] = centre(frame.agent); agent.setAttribute("cx", x); agent.setAttribute("cy", y); }
    slider.value = k;
    slider.setAttribute("aria-valuetext", `step ${k}: ${frame.note || ""}`);
    count.textContent = `${k} / ${frames.length - 1}`;
    note.textContent = frame.note || "";
  }
  let timer = null;
  const at = () => Number(slider.value);
  function stop() { clearInterval(timer); timer = null; play.textContent = "Play"; }
  function go(k) { stop(); show(Math.max(0, Math.min(frames.length - 1, k))); }
  function toggle() {
    if (timer) return stop();
    if (at() === frames.length - 1) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => { show(at() + 1); if (at() === frames.length - 1) stop(); }, data.pause);
  }
  slider.addEventListener("input", () => go(at()));
  back.addEventListener("click", () => go(at() - 1));
  forward.addEventListener("click", () => go(at() + 1));
  play.addEventListener("click", toggle);
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) go(at() + step);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(frames.length - 1);
    else if (event.key === " " && event.target.tagName !== "BUTTON") toggle();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  show(0);
};
