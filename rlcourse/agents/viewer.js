// Wires one episode viewer: pairs of episodes, token by token. No library, no network.
window.rlEpisodes = window.rlEpisodes || function (root) {
  if (root.dataset.ready) return;
  root.dataset.ready = "1";
  const [place, line, back, count, next, json] =
    [".rl-columns", ".rl-line", ".rl-back", "output", ".rl-next", "script"].map((name) => root.querySelector(name));
  const { columns, pairs, scale } = JSON.parse(json.textContent);
  const add = (parent, tag, name, text, attributes) => {
    const node = parent.appendChild(document.createElement(tag));
    node.className = name;
    node.textContent = text;
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    return node;
  };
  const sign = (x) => x > 0 ? "+" : x < 0 ? "\u2212" : "";
  function addToken(box, label, token) {  // the policy's are lists, the others are words
    const own = Array.isArray(token), [text, p, a] = own ? token : [token];
    const node = add(box, "span", "rl-token", text, { role: "option", "aria-selected": false, tabindex: -1 });
    node.says = `\u201c${text}\u201d, ${own ? "chosen by the policy" : `put in by the ${label}, mask 0`}`;
    if (!own) return;
    if (p !== null) node.says += `, probability ${p.toFixed(2)}`;
    if (a !== null) node.says += `, advantage ${sign(a)}${Math.abs(a)}`;
    if (a) node.classList.add(a > 0 ? "up" : "down");
    node.dataset.sign = sign(a);
    node.style = `--p:${p || 0};--s:${a === null ? 0.35 : Math.abs(a) / (scale || 1)}`;
  }
  let pair = 0;
  function show(k) {
    pair = k;
    place.replaceChildren();
    hide();
    pairs[k].forEach((episode, c) => {
      const column = add(place, "section", "rl-column", "");
      add(column, "div", "rl-name", columns[c]);
      const list = add(column, "div", "rl-turns", "", { role: "listbox", "aria-label": `tokens, ${columns[c]}` });
      for (const [label, tokens] of episode.turns) {
        const turn = add(list, "div", "rl-turn " + label, "", { role: "group", "aria-label": label });
        add(turn, "span", "rl-role", label, { "aria-hidden": true });
        const box = add(turn, "span", "rl-tokens", "");
        for (const token of tokens) addToken(box, label, token);
      }
      list.querySelector(".rl-token").tabIndex = 0;
      add(column, "div", "rl-outcome", episode.outcome);
    });
    count.textContent = `${k + 1} / ${pairs.length}`;
    back.disabled = k === 0;
    next.disabled = k === pairs.length - 1;
  }
  function tell(node) {  // in a line just below the token
    const column = node.closest(".rl-column");
    line.textContent = node.says;
    line.style = `top:${node.offsetTop + node.offsetHeight + 3}px;left:${column.offsetLeft}px;`
      + `max-width:${column.offsetWidth}px`;
  }
  function hide() { line.textContent = ""; }
  function move(here, node) {
    here.tabIndex = -1;
    node.tabIndex = 0;
    node.focus();
  }
  const token = (event) => event.target.closest(".rl-token");
  const current = (node) => node.closest(".rl-turns").querySelector("[tabindex='0']");
  const on = (type, act) => place.addEventListener(type, (event) => act(token(event)));
  on("mouseover", (node) => node ? tell(node) : hide());
  on("mouseleave", hide);
  on("focusin", (node) => { node.ariaSelected = true; tell(node); });
  on("focusout", (node) => { node.ariaSelected = false; hide(); });
  on("click", (node) => { if (node) { move(current(node), node); tell(node); } });
  back.addEventListener("click", () => show(pair - 1));
  next.addEventListener("click", () => show(pair + 1));
  place.addEventListener("keydown", (event) => {
    const here = token(event), turns = [...here.closest(".rl-turns").children];
    const all = [...here.closest(".rl-turns").querySelectorAll(".rl-token")], at = all.indexOf(here);
    const first = (step) => turns[turns.indexOf(here.closest(".rl-turn")) + step]?.querySelector(".rl-token");
    const to = {
      ArrowLeft: all[at - 1], ArrowRight: all[at + 1], Home: all[0], End: all[all.length - 1],
      ArrowUp: first(-1), ArrowDown: first(1),
    };
    if (event.key === "Escape") hide();
    if (!(event.key in to)) return;
    if (to[event.key]) move(here, to[event.key]);
    event.preventDefault();
    event.stopPropagation();
  });
  show(0);
};
