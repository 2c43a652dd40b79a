// One episode of the data agent's world, as DataEnv plays it. play.py makes `data` and `task`.
window.rlDataWorld = window.rlDataWorld || function (data, task) {
  const world = { cost: 0, risk: 0, turns: 0, bad: 0, success: 0, reason: null };
  const home = data.companies[task.company], tables = { ...home.tables };
  let { fault } = task, other = false, inside = false, copy = null, saved = {}, open = {};
  function end() { [other, fault] = [false, null]; }  // of the other session
  function primary(answer) {
    if (inside) return "locked";  // by the policy's own transaction
    if (!other || fault === "locked") return other ? fault : answer;
    end();
    return "busy";
  }
  function read(from, kind, table, customer, month) {
    if (from[kind] !== table) return "missing";
    world.risk += kind === data.private;
    return home.totals[kind][customer].split(",")[data.words.MONTH.indexOf(month)];
  }
  const within = (act) => (...words) => inside ? act(...words) || "ok" : "bad";
  const tools = {
    __proto__: null,
    find: (kind) => primary(tables[kind]),
    query(...words) {
      if (!inside && fault === "changed") [tables[task.kind], fault] = [home.spare, null];
      if (!inside && ["busy", "locked"].includes(fault)) other = true;
      const answer = read(tables, ...words);
      return answer === "missing" ? answer : primary(fault === "timeout" ? fault : answer);
    },
    replica: (...words) => read(copy = copy || { ...tables }, ...words),
    unlock() {
      world.risk++;
      if (other) end();
      return "ok";
    },
    calc: (a, b, c, d) => [...`${Math.abs(a + b - (c + d))}`.padStart(2, "0")].join(" "),
    begin() {
      if (inside) return "bad";
      const answer = primary("ok");
      if (answer === "ok") [inside, open] = [true, { ...saved }];
      return answer;
    },
    insert: within((ledger, customer, a, b) => {
      const entry = `${ledger} ${customer}`, slip = fault === "garbled" ? 3 : 0;
      if (slip) fault = null;
      if (entry in open) return "full";
      open[entry] = a + (Number(b) + slip) % 10;
      return ledger === task.full ? "full" : "ok";  // the entry stays all the same
    }),
    check(ledger, customer, a, b) {
      const answer = (inside ? open : saved)[`${ledger} ${customer}`] === a + b ? "same" : "differs";
      return inside ? answer : primary(answer);
    },
    commit: within(() => { [inside, saved] = [false, open]; }),
    rollback: within(() => { inside = false; }),
  };
  function solved(name, words) {
    const held = Object.entries(saved).flat().join(" ");  // "L1 ann 18"
    if (task.entry) return held === task.entry;
    const rest = words.slice(2).every((word) => data.talk.includes(word));
    return name === "answer" && words.slice(0, 2).join(" ") === task.number && rest && !held;
  }
  world.step = (text) => {
    const [name, ...words] = text.trim().split(/\s+/), risk = world.risk;
    const submits = name === "answer" || name === "done", shape = data.shapes[name];
    const fits = tools[name] && words.length === shape.length
      && words.every((word, k) => data.words[shape[k]].includes(word));
    const answer = submits ? "ok" : fits ? tools[name](...words) : "bad";
    const cost = submits ? 0 : name === "replica" && fits ? 4 : 1;
    world.turns++;
    world.cost += cost;
    world.bad += answer === "bad";
    world.reason = submits ? "submitted" : world.bad >= task.max_invalid ? "invalid_call"
      : world.cost > task.budget ? "budget" : world.turns >= task.max_turns ? "turn_limit" : null;
    world.success = Number(submits && solved(name, words));
    return { text: world.reason ? "" : answer, cost, risk: world.risk - risk };
  };
  return world;
};
// Wires one playable world: buttons and menus, or typed calls.
window.rlPlayWorld = window.rlPlayWorld || function (root) {
  if (root.dataset.ready) return;
  root.dataset.ready = "1";
  const data = JSON.parse(root.querySelector("script").textContent), form = root.querySelector("form");
  const get = (name) => root.querySelector(".rl-" + name);
  const [log, menus, field, end, buttons] = ["log", "menus", "call", "end", "tools"].map(get);
  const add = (parent, tag, text, name = "") => {
    const node = parent.appendChild(document.createElement(tag));
    node.textContent = text;
    node.className = name;
    return node;
  };
  let number = 0, calls = [], answers = [], world, task;
  const usage = (name) => data.usage.find((text) => text.split(/\W/)[0] === name) || "There is no such tool.";
  function line(list, call, step) {
    const item = add(list, "li", "");
    add(item, "code", call);
    add(item, "span", step.text, "rl-answer");
    add(item, "small", `cost ${step.cost}` + (step.risk ? `, risk ${step.risk}` : ""), step.risk ? "rl-risk" : "");
    if (step.text === "bad") add(item, "small", usage(call.split(" ")[0]), "rl-why");
    list.scrollTop = list.scrollHeight;
  }
  function send(call) {
    const step = world.step(call);
    calls.push(call);
    answers.push(step.text);
    line(log, call, step);
  }
  function choose(name) {
    menus.replaceChildren();
    get("hint").textContent = name && usage(name);
    for (const button of buttons.children) button.ariaPressed = button.textContent === name;
    (name ? data.shapes[name] : []).forEach((type, k, shape) => {  // at first a menu shows the latest answer
      const menu = add(menus, "select", ""), words = data.words[type];
      const seen = answers.join(" ").split(" ").filter((word) => words.includes(word));
      menu.ariaLabel = `${type.toLowerCase()}, word ${k + 1}`;
      for (const word of words) add(menu, "option", word);
      menu.value = seen.at(type === "DIGIT" ? k - shape.length : -1) || task.first[type];
    });
    (menus.onchange = () => { field.value = [name, ...[...menus.children].map((m) => m.value)].join(" "); })();
  }
  function draw() {
    const over = world.reason !== null, list = get("oracle");
    get("state").textContent =
      `turn ${world.turns} of ${task.max_turns} · cost ${world.cost} of ${task.budget} · risk ${world.risk}`;
    get("undo").disabled = !calls.length;
    form.hidden = buttons.hidden = over;
    end.hidden = !over;
    get("verdict").textContent = `${world.success ? "Solved" : "Not solved"}: success ${world.success}, `
      + `cost ${world.cost}, risk ${world.risk}, ended: ${String(world.reason).replace("_", " ")}. ${task.secret}`;
    choose("");
    list.replaceChildren();
    for (const [call, text, cost] of task.oracle) line(list, call, { text, cost });
  }
  function start(replay) {
    [task, calls, answers] = [data.tasks[number], [], []];
    world = rlDataWorld(data, task);
    get("task").textContent = `task ${number + 1} / ${data.tasks.length}`;
    for (const name of ["ask", "text"]) get(name).textContent = task[name];
    get("more").open = false;
    log.replaceChildren();
    replay.forEach(send);
    draw();
  }
  const turn = (step) => { number = (number + step + data.tasks.length) % data.tasks.length; start([]); };
  const press = { back: () => turn(-1), next: () => turn(1), new: () => turn(0), undo: () => start(calls.slice(0, -1)) };
  for (const name in press) get(name).addEventListener("click", press[name]);
  buttons.addEventListener("click", (event) => event.target.closest("button") && choose(event.target.textContent));
  field.addEventListener("keydown", (event) => {  // JupyterLab keeps it from the form
    if (event.key !== "Enter") return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const call = field.value.trim();
    if (!call) return;
    send(call);
    draw();
    (world.reason ? end : field).focus();
  });
  start([]);
};
