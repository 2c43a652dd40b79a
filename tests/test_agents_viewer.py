"""The episode viewer and the playable world: what they say and refuse, and how they behave in a browser."""

import json
import random
import re
from pathlib import Path

import pytest

from rlcourse.agents import Episode, StopReason, Turn, rollout
from rlcourse.agents.database import DataEnv, Mix, Task, company, make_tasks, policies, tokenizer
from rlcourse.agents.database.env import WORDS
from rlcourse.agents.database.tools import SHAPES
from rlcourse.agents.play import MENUS, Console, PlayWorld, usage
from rlcourse.agents.viewer import EpisodeViewer, record
from rlcourse.lm.models import tiny_llama
from tools.print_pdf import FLAGS, find_browser

ROOT = Path(__file__).resolve().parents[1]
BROWSER = find_browser()
FAULTS = (None, "busy", "locked", "timeout", "changed", "full", "garbled")


def mix(fault):
    """Only this fault, or none."""
    chances = dict.fromkeys(FAULTS[1:], 0.0) | ({fault: 1.0} if fault else {})
    return Mix(**chances)


def tasks_of_all_faults(each=4):
    """Both kinds, every fault; questions have no ledger that could be full or garbled."""
    rng = random.Random(7)
    return [
        task
        for fault in FAULTS
        for posting in (False, True)
        if posting or fault not in ("full", "garbled")
        for task in make_tasks("test", each, rng, mix(fault), posting)
    ]


# ---- the viewer


def an_episode(success=1.0):
    turns = [
        Turn("user", "? orders ann", [1, 2, 3]),
        Turn("assistant", "find orders", [4, 5, 6], [-0.1, -2.0, -0.5]),
        Turn("tool", "T2", [7, 8]),
        Turn("assistant", "answer", [9], [-0.05]),  # cut by the limit of tokens
    ]
    mask = [0.0] * 3 + [1.0] * 3 + [0.0] * 2 + [1.0]
    return Episode(turns, StopReason.TOKEN_LIMIT, success, 2.0, 1.0, [], [], {}, [*range(1, 10)], mask)


def test_a_record_holds_tokens_probabilities_and_advantages():
    nan = float("nan")
    advantages = [nan, nan, nan, 1.234, -0.001, 0.5, nan, nan, -2.0, nan]  # as long as a padded row
    told = record(an_episode(), advantages=advantages, reward=-0.25)
    assert told["turns"] == [
        ["user", ["?", "orders", "ann"]],
        ["policy 1", [["find", 0.9, 1.23], ["orders", 0.14, 0], ["<eos>", 0.61, 0.5]]],
        ["tool", ["T2"]],
        ["policy 2", [["answer", 0.95, -2]]],
    ]
    words = told["outcome"].replace("\u00a0", " ")
    assert words == "solved · ended: token limit · cost 2 · risk 1 · reward −0.25"
    assert record(an_episode(0.0))["turns"][1][1][0] == ["find", 0.9, None]
    assert record(an_episode(0.0))["outcome"].startswith("not\u00a0solved")
    assert record(an_episode(), advantages=-1)["turns"][3][1] == [["answer", 0.95, -1]]
    other = record(an_episode(), row=[0, 0, 0, -0.7, -0.7, -0.7, 0, 0, -0.7])
    assert [token[1] for token in other["turns"][1][1]] == [0.5, 0.5, 0.5]


def test_the_viewer_shows_rollouts_with_their_tokens():
    words = tokenizer()
    model = tiny_llama(words, hidden=16, max_positions=128)
    tasks = make_tasks("test", 3, random.Random(0))
    batch = rollout(model, words, [DataEnv(task) for task in tasks], max_tokens=40)
    advantages = (batch.logprobs - batch.logprobs.mean()).double()
    viewer = EpisodeViewer.from_rollouts(
        {"before": batch, "after": batch},
        words,
        indices=[2, 0],
        advantages={"after": advantages},
        rewards={"before": batch.mask.sum(1)},
    )
    assert repr(viewer) == "<EpisodeViewer 'Episodes', before | after, 2 tasks>"
    for k, (before, after) in zip([2, 0], viewer.data["pairs"], strict=True):
        shown = [token for _, tokens in before["turns"] for token in tokens]
        plain = [token[0] if isinstance(token, list) else token for token in shown]
        ids = batch.episodes[k].ids
        assert plain == [words.decode([i]) for i in ids]
        assert [float(isinstance(token, list)) for token in shown] == batch.episodes[k].mask
        assert "reward" in before["outcome"] and "reward" not in after["outcome"]
        values = [token[2] for _, tokens in after["turns"] for token in tokens if isinstance(token, list)]
        assert values == pytest.approx(advantages[k][batch.mask[k] == 1].tolist(), abs=0.006)


def test_what_the_viewer_refuses():
    one = record(an_episode())
    for columns in ({}, {"before": []}, {"before": [], "after": []}):
        with pytest.raises(ValueError, match="at least one column with one record"):
            EpisodeViewer(columns, "x")
    with pytest.raises(ValueError, match="entry k of every column must be the same task"):
        EpisodeViewer({"before": [one], "after": [one, one]}, "x")
    with pytest.raises(ValueError, match="advantages has 3 entries, but the episode has 9 tokens"):
        record(an_episode(), advantages=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="finite"):
        record(an_episode(), advantages=float("nan"))
    empty = Episode([Turn("user", "")], StopReason.TIMEOUT, 0.0, 0.0, 0.0, [], [], {})
    with pytest.raises(ValueError, match="without a single token"):
        EpisodeViewer({"a": [record(empty)]}, "x")


def test_no_text_ends_the_script_and_the_output_is_the_same_twice():
    bad = "</script><!--<script><b>"
    turns = [Turn("user", bad, [1]), Turn("assistant", bad, [2], [-0.1])]
    episode = Episode(turns, StopReason.SUBMITTED, 0.0, 0.0, 0.0, [], [], {}, [1, 2], [0.0, 1.0])
    page, again = (EpisodeViewer({bad: [record(episode)]}, bad)._repr_html_() for _ in range(2))
    assert page == again and "<b>" not in page and "<!--" not in page
    assert page.count("</script>") == 2 and " id=" not in page
    stored = re.search(r'<script type="application/json">(.*?)</script>', page)[1]
    assert json.loads(stored)["pairs"][0][0]["turns"][0][1] == [bad]
    tasks = make_tasks("test", 2, random.Random(0))
    page, again = (PlayWorld(tasks, bad)._repr_html_() for _ in range(2))
    assert page == again and "<b>" not in page and page.count("</script>") == 2 and " id=" not in page


def test_the_scripts_are_small_and_load_nothing():
    scripts = [(ROOT / "rlcourse" / "agents" / name).read_text() for name in ("viewer.js", "play.js")]
    assert sum(len(text.encode()) for text in scripts) <= 12_000
    for text in scripts:
        assert not re.search(r"https?:|fetch\(|XMLHttp|import\b|innerHTML|eval\(|localStorage", text)


# ---- the lab's console


def test_the_console_plays_the_world():
    task = make_tasks("test", 1, random.Random(5), mix("locked"))[0]
    kind, table = task.kinds[0], company(task.company).table[task.kinds[0]]
    console = Console(task)
    assert task.text in repr(console) and "cost 0 of 16" in repr(console)
    found = console(f"find {kind}")
    assert found == table and repr(found) == str(found) == f"{found}" == table
    assert console(f"query {kind} {found} {task.customer} {task.month}") == "locked"
    wrong = console(f"query {kind}")
    assert wrong == "bad" and "Expected query KIND TABLE CUSTOMER MONTH" in repr(wrong)
    nothing = console("drop it")
    assert nothing == "bad" and "no such tool" in repr(nothing)
    assert all(name in repr(console("help")) for name in SHAPES)
    assert repr(console.help()) == repr(console("help()")) == repr(console("help"))
    number = console(f"replica {kind} {found} {task.customer} {task.month}")
    end = console(f"answer {number}")
    assert end == "" and repr(end) == "The end, submitted: success 1, cost 8, risk 0"
    assert console.env.success == 1.0 and len(console.calls) == 6
    assert "make a new one with Console(task)" in repr(console("find orders")) and len(console.calls) == 6


def test_every_tool_is_explained():
    for name, shape in SHAPES.items():
        assert usage(name).startswith(name) and usage(name).count(" ") > len(shape)
    assert {word for words in MENUS.values() for word in words} <= set(WORDS)


def test_what_the_world_refuses():
    with pytest.raises(ValueError, match="at least one task"):
        PlayWorld([], "x")
    with pytest.raises(ValueError, match="salaries"):
        PlayWorld([Task(9000, ("salaries",), "ann", "jan")], "x")
    assert repr(PlayWorld(make_tasks("test", 2, random.Random(0)), "x")) == "<PlayWorld 'x', 2 tasks>"


# ---- in a browser


needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome: set BROWSER_PATH")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """A page that fails the test when it asks for anything or complains."""
    page, complaints = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda m: complaints.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: complaints.append(f"script error: {e}"))
    page.on("request", lambda r: complaints.append(f"request: {r.url}"))
    yield page
    page.close()
    assert complaints == []


def put(tab, *items, theme=None):
    """On an empty page, or in the book's theme."""
    style = ""
    if theme:
        style = (ROOT / "book" / "_static" / "course.css").read_text(encoding="utf-8")
        style += "body{background:var(--c-paper);color:var(--c-ink);margin:0 16px;line-height:1.6}"
    tab.set_content(
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8"><style>{style}</style>'
        f'<body><article class="bd-article">{"".join(item._repr_html_() for item in items)}</article>'
    )


def some_viewer(title="Before and after"):
    a, b = an_episode(0.0), an_episode(1.0)
    up, down = [0.5] * 3 + [2.0, 0.1, 0.0] + [0.5] * 3, -1.5
    return EpisodeViewer(
        {
            "before training": [record(a, advantages=down), record(a)],
            "after training": [record(b, advantages=up, reward=1), record(b)],
        },
        title,
    )


@needs_browser
@pytest.mark.browser
def test_the_viewer_by_button_key_pointer_and_touch(tab):
    put(tab, some_viewer(), some_viewer(), some_viewer("another"))
    assert tab.locator(".rl-episodes[data-ready]").count() == 3
    viewer = tab.locator(".rl-episodes").nth(1)
    line, count = viewer.locator(".rl-line"), viewer.locator("output")
    tokens = viewer.locator(".rl-columns .rl-token")
    assert count.text_content() == "1 / 2" and viewer.get_by_label("previous task").is_disabled()
    tokens.nth(3).hover()
    assert line.text_content() == "“find”, chosen by the policy, probability 0.90, advantage −1.5"
    assert line.bounding_box()["y"] >= tokens.nth(3).bounding_box()["y"] + 15
    tokens.nth(0).click()
    assert line.text_content() == "“?”, put in by the user, mask 0"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    assert line.text_content().startswith("“find”, chosen")
    assert tab.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    tab.keyboard.press("End")
    assert line.text_content().startswith("“answer”, chosen by the policy, probability 0.95")
    tab.keyboard.press("ArrowRight")  # there is no next one
    tab.keyboard.press("ArrowUp")
    assert line.text_content() == "“T2”, put in by the tool, mask 0"
    tab.keyboard.press("Escape")
    assert line.text_content() == ""
    assert viewer.locator(".rl-columns [tabindex='0']").count() == 2  # one stop per column
    good = viewer.locator(".rl-column").nth(1).locator(".policy .rl-token")
    assert "up" in good.nth(0).get_attribute("class") and good.nth(0).get_attribute("data-sign") == "+"
    assert good.nth(2).get_attribute("class") == "rl-token" and good.nth(2).get_attribute("data-sign") == ""
    assert "reward" in viewer.locator(".rl-outcome").nth(1).text_content()
    viewer.get_by_label("next task").click()
    assert count.text_content() == "2 / 2" and viewer.get_by_label("next task").is_disabled()
    tokens.nth(3).hover()
    assert line.text_content() == "“find”, chosen by the policy, probability 0.90"
    assert tab.locator(".rl-episodes output").nth(0).text_content() == "1 / 2"  # the others stand still


CONTRAST = """() => {
  const rgba = (text) => {
    const n = text.match(/[\\d.]+/g).map(Number), k = text.startsWith("color(") ? 255 : 1;
    return [n[0] * k, n[1] * k, n[2] * k, n[3] ?? 1];
  };
  const linear = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
  const back = (node) => node ? over(rgba(getComputedStyle(node).backgroundColor), back(node.parentElement))
    : [255, 255, 255];
  const worst = [];
  for (const node of document.querySelectorAll("article *")) {
    if (![...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim())) continue;
    if (node.matches("script, style, option, :disabled") || !node.checkVisibility()) continue;
    const below = back(node);
    let alpha = 1;
    for (let up = node; up; up = up.parentElement) alpha *= getComputedStyle(up).opacity;
    const ink = over([...rgba(getComputedStyle(node).color).slice(0, 3), alpha], below);
    const [a, b] = [light(ink), light(below)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) worst.push(`${node.textContent.slice(0, 20)} ${node.className} ${ratio.toFixed(2)}`);
  }
  return worst;
}"""


@needs_browser
@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_fit_a_phone_and_are_readable_in_both_themes(tab, theme):
    tasks = make_tasks("test", 2, random.Random(0), posting=True)
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 844})
        put(tab, some_viewer(), PlayWorld(tasks, "You are the policy"), theme=theme)
        columns = [box.bounding_box() for box in tab.locator(".rl-column").all()]
        assert (columns[0]["y"] == columns[1]["y"]) == (width == 1280)
        field = tab.locator(".rl-call")
        for call in ("query", "unlock", "find orders", "insert L1 ann 1 2"):
            field.fill(call)
            field.press("Enter")
        tab.locator(".rl-tools button", has_text="calc").click()
        tab.locator(".rl-columns .rl-token").nth(5).click()
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert tab.evaluate(wide) <= 0 and tab.evaluate(CONTRAST) == []
        field.fill("done")
        field.press("Enter")
        tab.locator(".rl-more summary").click()
        assert tab.evaluate(wide) <= 0 and tab.evaluate(CONTRAST) == []
        for control in tab.locator("button, input, select").all():
            assert control.get_attribute("aria-label") or control.text_content()


@needs_browser
@pytest.mark.browser
def test_the_world_is_played_by_buttons_menus_and_keys(tab):
    task = make_tasks("test", 1, random.Random(5), mix("locked"))[0]
    posting = make_tasks("test", 1, random.Random(6), mix("garbled"), posting=True)[0]
    kind, table = task.kinds[0], company(task.company).table[task.kinds[0]]
    put(tab, PlayWorld([task, posting], "play"), PlayWorld([posting], "another"))
    world = tab.locator(".rl-world").first
    log, field, state = world.locator(".rl-log li"), world.locator(".rl-call"), world.locator(".rl-state")
    assert world.locator(".rl-text").text_content() == task.text
    assert task.customer in world.locator(".rl-ask").text_content()

    def use(tool, **menus):
        world.locator(".rl-tools").get_by_role("button", name=tool, exact=True).click()
        for label, word in menus.items():
            world.get_by_label(label).select_option(word)
        world.get_by_role("button", name="Call").click()

    use("find")
    assert log.nth(0).locator("code").text_content() == f"find {kind}"
    assert log.nth(0).locator(".rl-answer").text_content() == table
    use("query")  # the menus show the task's words and the table that was found
    assert log.nth(1).locator("code").text_content() == f"query {kind} {table} {task.customer} {task.month}"
    assert log.nth(1).locator(".rl-answer").text_content() == "locked"
    use("unlock")
    assert "risk 1" in log.nth(2).text_content() and state.text_content().endswith("risk 1")
    world.get_by_role("button", name="Undo").click()
    assert log.count() == 2 and "cost 2 of 16 · risk 0" in state.text_content()
    field.focus()
    tab.keyboard.type("replica orders")
    tab.keyboard.press("Enter")
    assert "replica KIND TABLE CUSTOMER MONTH" in log.nth(2).text_content()
    tab.keyboard.press("Enter")  # nothing was typed
    assert log.count() == 3
    use("replica")
    number = log.nth(3).locator(".rl-answer").text_content()
    assert number == " ".join(str(task.truth))
    world.locator(".rl-tools").get_by_role("button", name="answer", exact=True).focus()
    tab.keyboard.press("Enter")
    assert field.input_value() == f"answer {number}"  # the latest number
    field.press("Enter")
    verdict = world.locator(".rl-verdict")
    assert verdict.text_content().startswith("Solved: success 1, cost 7, risk 0, ended: submitted.")
    assert "locks the database" in verdict.text_content() and field.is_hidden()
    assert tab.evaluate("document.activeElement.className") == "rl-end"
    oracle = world.locator(".rl-oracle li code")
    assert not oracle.first.is_visible()
    world.locator(".rl-more summary").click()
    steps = policies.run(policies.oracle(task), DataEnv(task))
    assert oracle.all_text_contents() == [call for call, _ in steps]
    world.get_by_role("button", name="Undo").click()
    assert field.is_visible() and log.count() == 4
    world.get_by_role("button", name="New game").click()
    assert log.count() == 0 and world.locator(".rl-undo").is_disabled()
    world.get_by_label("next task").click()
    assert world.locator(".rl-text").text_content() == posting.text
    for call, _ in policies.run(policies.oracle(posting), DataEnv(posting)):
        field.fill(call)
        field.press("Enter")
    assert verdict.text_content().startswith("Solved")
    world.get_by_label("next task").click()
    assert world.locator(".rl-text").text_content() == task.text
    use("insert", **{"ledger, word 1": "L2", "digit, word 4": "7"})
    assert log.nth(0).locator("code").text_content() == f"insert L2 {task.customer} 0 7"


# ---- the same world: every answer of play.js is DataEnv's

STRANGE = (
    "| |find|find  orders |\tfind\torders|find ORDERS|find orders orders|find T1|query|busy|drop|\x00"
    "|constructor|__proto__|toString|hasOwnProperty x|find constructor|find __proto__|unlock now|begin now"
    "|commit 1|calc 1 2 3|calc 0 0 0 0|calc 9 9 0 0|calc 1 2 3 x|insert L4 ann 1 1|insert L1 guest 1 1"
    "|check L3 guest 0 1|insert L1 ann 11"
).split("|")
ENDS = (
    "done|done now|answer|answer 1|answer {n}|answer {n} checked|answer {n} sure thanks|answer {n} T1"
    "|answer {n} constructor|done {n}|answer  {n}|ANSWER {n}"
).split("|")


def one_call(rng, task, answers):
    """A call that mostly fits the task: its words, true tables, the latest answers."""
    luck = rng.random()
    number = " ".join(f"{task.truth if rng.random() < 0.6 else rng.randrange(100):02d}")
    if luck < 0.05:
        return rng.choice(STRANGE)
    if luck < 0.08:
        return rng.choice(ENDS).format(n=number)
    posting = 3 if task.ledgers else 1
    weights = [3, 4, 1, 1, 1, 2 * posting, 3 * posting, 2 * posting, posting, posting]
    name = rng.choices(list(SHAPES), weights)[0]
    home = company(task.company)
    kind = rng.choice([*task.kinds, *task.kinds, *MENUS["KIND"]])
    table = rng.choice([home.table[kind], home.table[kind], home.spare, *answers, *MENUS["TABLE"]])
    customer, month = rng.choice([task.customer, "eve"]), rng.choice([task.month, "jan"])
    ledger = rng.choice([*task.ledgers, *MENUS["LEDGER"]])
    words = {"find": [kind], "calc": [*number.split(), *number.split()]}
    words |= dict.fromkeys(("query", "replica"), [kind, table, customer, month])
    words |= dict.fromkeys(("insert", "check"), [ledger, customer, *number.split()])
    return " ".join([name, *words.get(name, [])])


def script(number, task):
    """What chance seldom plays: a copy made before the renaming, an entry that stays in a full ledger."""
    home, kind, truth = company(task.company), task.kinds[0], task.truth
    where = f"{task.customer} {task.month}"
    old, new = f"{kind} {home.table[kind]} {where}", f"{kind} {home.spare} {where}"
    ledger = f"{(task.ledgers or ['L1'])[0]} {task.customer}"
    right, slipped = (" ".join(f"{n:02d}") for n in (truth, truth - truth % 10 + (truth + 3) % 10))
    post, look = f"begin|insert {ledger} {right}", f"check {ledger} {right}|check {ledger} {slipped}"
    return [
        f"replica {old}|query {old}|find {kind}|replica {old}|replica {new}|query {new}|answer {right}",
        f"query {new}|replica {old}|replica {new}|unlock|unlock|query {old}|answer {right} checked",
        f"{post}|{look}|commit|{look}|answer {right} checked",
        f"{post}|rollback|{look}|{post}|{look}|commit|done",
        f"query {old}|begin|query {old}|find visits|query {new}|{post}|commit|query {old}|answer {right}",
        f"{post}|query {old}|replica {old}|commit|query {old}|replica {old}|replica {new}|answer {right}",
    ][number].split("|")


def player(style, task, rng):
    """One of six ways to play, as a generator."""
    if style in range(6):
        for call in script(style, task):
            yield call
    elif style == "random":
        answers = []
        while True:
            answer = yield one_call(rng, task, answers)
            answers = [answer] if answer in MENUS["TABLE"] else []
    elif style == "noisy oracle":
        oracle, answer, answers = policies.oracle(task), None, []
        while True:
            if rng.random() < 0.3:
                yield one_call(rng, task, answers)
            try:
                answer = yield oracle.send(answer)
            except StopIteration:
                return
    elif style == "clerk":
        yield from policies.clerk(task, rng, policies.CLEAN if rng.random() < 0.3 else None)
    elif style == "oracle":
        yield from policies.oracle(task)
    else:
        for call in policies.random_calls(rng, 100):
            if not call.startswith("sql"):
                yield call


def play_out(policy, env):
    """[call, text, cost, risk, reason] of every step, with the success at the end."""
    env.reset()
    steps, text = [], None
    while True:
        try:
            call = policy.send(text)
        except StopIteration:
            return steps
        step = env.step(call)
        steps.append([call, step.text, step.cost, step.risk, step.reason and str(step.reason)])
        text = step.text
        if step.done:
            return [*steps, [env.success, env.cost, env.risk]]


REPLAY = """([task, limits, calls]) => {
  const data = JSON.parse(document.querySelector(".rl-world script").textContent);
  const world = rlDataWorld(data, { ...data.tasks[task], ...limits }), steps = [];
  for (const call of calls) {
    const { text, cost, risk } = world.step(call);
    steps.push([call, text, cost, risk, world.reason]);
  }
  return world.reason ? [...steps, [world.success, world.cost, world.risk]] : steps;
}"""


@needs_browser
@pytest.mark.browser
def test_the_page_plays_exactly_as_the_world_does(tab):
    tasks = tasks_of_all_faults()
    assert len(tasks) >= 40
    put(tab, PlayWorld(tasks, "all"))
    rng, seen = random.Random(11), set()
    loose, tight = {"max_turns": 40, "budget": 500, "max_invalid": 30}, {"budget": 6}
    styles = ("random", "random", "random", "noisy oracle", "clerk", "oracle", "adversary")
    games = [(which, styles[(which + k) % 7], None) for k in range(8) for which in range(len(tasks))]
    games += [(which, k, loose) for k in range(6) for which in range(len(tasks))]
    for which, style, limits in games:
        task, limits = tasks[which], limits or rng.choice([{}, loose, loose, tight])
        expected = play_out(player(style, task, rng), DataEnv(task, **limits))
        calls = [step[0] for step in expected if len(step) == 5]
        given = tab.evaluate(REPLAY, [which, limits, calls])
        assert given == expected, (task, style, limits)
        seen |= {(task.fault, step[1]) for step in expected if len(step) == 5}
        if len(expected[-1]) == 3:
            seen |= {expected[-2][4], ("success", bool(task.ledgers), expected[-1][0])}
    # the sequences reach what the world can say
    assert {"submitted", "turn_limit", "budget", "invalid_call"} <= seen
    assert {("success", posting, won) for posting in (False, True) for won in (0.0, 1.0)} <= seen
    said = {("busy", "busy"), ("locked", "locked"), ("timeout", "timeout"), ("changed", "missing")}
    assert said | {("full", "full"), ("garbled", "differs"), (None, "same"), (None, "full")} <= seen
