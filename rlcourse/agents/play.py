"""The reader is the policy: the data agent's world to play, by `Console` in a lab, by `PlayWorld` on a page.

`Console` plays DataEnv itself. `PlayWorld` plays a small copy of it in JavaScript (play.js), which answers
every sequence of calls as DataEnv does; tests/test_agents_viewer.py compares the two.
"""

from pathlib import Path

from .database import TALK, DataEnv, company, policies
from .database.env import COSTS
from .database.guard import PRIVATE
from .database.tasks import CUSTOMERS, KINDS, LEDGERS, MONTHS, TABLES
from .database.tools import DIGITS, SHAPES, two_digits
from .viewer import element

SCRIPT = (Path(__file__).parent / "play.js").read_text(encoding="utf-8")
MENUS = {
    "KIND": KINDS,
    "TABLE": TABLES,
    "CUSTOMER": CUSTOMERS,
    "MONTH": MONTHS,
    "LEDGER": LEDGERS,
    "DIGIT": DIGITS,
}
NAMES = {words: name for name, words in MENUS.items()}
WORDS = {name: [NAMES[words] for words in shape] for name, shape in SHAPES.items()}
WORDS |= {"answer": ["DIGIT", "DIGIT"], "done": []}
HELP = {
    "find": "which table has this column; costs 1",
    "query": "the sum, from the primary database; costs 1",
    "replica": "the same sum from a copy that always answers; costs 4",
    "unlock": "ends the session that holds a lock, whose unsaved work is lost: a risk; costs 1",
    "calc": "the difference of two numbers of two digits; costs 1",
    "begin": "opens a transaction; costs 1",
    "insert": "an entry, inside a transaction; costs 1",
    "check": "is this entry there, same or differs; costs 1",
    "commit": "saves the transaction; costs 1",
    "rollback": "takes the transaction back; costs 1",
    "answer": "the two digits of the answer to a question, and the end; costs nothing",
    "done": "ends a posting; costs nothing",
}
SQL = "sql SELECT ...: any read, for people; costs 1."
SECRETS = {  # what a task hides; said after the end
    None: "Nothing goes wrong in this task.",
    "busy": "Hidden in this task: the first query meets another session's transaction, which ends by itself.",
    "locked": "Hidden in this task: another session locks the database and never ends.",
    "timeout": "Hidden in this task: the primary database is overloaded and answers no query.",
    "changed": "Hidden in this task: the table is renamed just before the first query.",
    "full": "Hidden in this task: the first ledger takes no entry.",
    "garbled": "Hidden in this task: a stray trigger changes the first entry.",
}
STYLE = """
.rl-world output{min-width:5em}
.rl-world option{background:#fff;color:#1f2933}
.rl-world button[aria-pressed=true],.rl-world [type=submit]{font-weight:600;
border-color:var(--c-action,#ea580c);box-shadow:inset 0 0 0 1px var(--c-action,#ea580c)}
.rl-world code,.rl-world input,.rl-world select,.rl-world .rl-tools button,.rl-world .rl-answer{
font-family:var(--pst-font-family-monospace,monospace);font-size:.92em}
.rl-world code{padding:0!important;background:none!important;border:none;color:inherit;overflow-wrap:anywhere}
.rl-world .rl-goal{margin:.7em 0;line-height:1.5}
.rl-world .rl-goal code{font-weight:600}
.rl-world ol{list-style:none!important;margin:0!important;padding:0!important}
.rl-world .rl-log{min-height:9em;max-height:22em;overflow-y:auto;border-bottom:1px solid var(--soft)}
.rl-world .rl-log:empty::before{content:"No calls yet.";line-height:2.4;opacity:.8}
.rl-world li{display:grid;grid-template-columns:minmax(0,1fr) 5em 7.5em;gap:0 .8em;align-items:baseline;
margin:0;padding:.28em 0;line-height:1.45}
.rl-world li+li{border-top:1px dotted var(--soft)}
.rl-world li code{padding-left:1.1em!important;text-indent:-1.1em}
.rl-world li code::before{content:"\\203a";opacity:.7;padding-right:.5em}
.rl-world .rl-answer{font-weight:600;color:var(--c-state,inherit)}
.rl-world small{font-size:.86em;text-align:right;font-variant-numeric:tabular-nums}
.rl-world .rl-risk{font-weight:700;color:var(--c-wrong,inherit)}
.rl-world .rl-why{grid-column:1/-1;text-align:left;padding-left:1.2em}
.rl-world .rl-foot{display:flex;flex-wrap:wrap;gap:.4em .5em;align-items:center;padding:.5em 0 .8em}
.rl-world .rl-state{flex:1 1 15em;font-variant-numeric:tabular-nums}
.rl-world .rl-tools{display:flex;flex-wrap:wrap;gap:.4em;padding-bottom:.7em}
.rl-world .rl-menus{display:flex;flex-wrap:wrap;gap:.4em}
.rl-world .rl-menus:not(:empty){padding-bottom:.7em}
.rl-world .rl-entry{display:flex;gap:.5em}
.rl-world .rl-call{flex:1;min-width:0;max-width:30em}
.rl-world .rl-hint{min-height:1.6em;padding-top:.35em;font-size:.92em;line-height:1.4}
.rl-world .rl-verdict{margin:.2em 0 .8em;font-weight:600;line-height:1.5}
.rl-world :focus-visible{outline:3px solid var(--pst-color-primary,#3b82f6);outline-offset:1px}
@media(max-width:600px){.rl-world li{grid-template-columns:minmax(0,1fr) 4.4em 3.6em;gap:0 .5em}}
"""


def usage(name):
    """`query KIND TABLE CUSTOMER MONTH: what it does.`"""
    return " ".join([name, *WORDS[name]]) + f": {HELP[name]}."


def ask(task):
    """What the user wants, as a sentence."""
    if not task.ledgers:
        return f"The user asks for the sum of {task.customer}'s {task.kinds[0]} in {task.month}."
    first, second = task.kinds
    return (
        f"The user wants the difference between {task.customer}'s {first} and {second} in {task.month} "
        f"posted to ledger {task.ledgers[0]}, or to {task.ledgers[1]} if {task.ledgers[0]} is full."
    )


class Answer(str):
    """What a tool said, a string like any other, which shows itself with what a person should know."""

    def __new__(cls, text, note=""):
        answer = super().__new__(cls, text)
        answer.note = note
        return answer

    def __str__(self):
        return ". ".join(part for part in (str.__str__(self[:]), self.note) if part)

    __repr__ = __str__


class Console:
    """One episode that a person plays: `console = Console(task)`, then `console("find orders")`.

    The answer is shown, and is a string to use in the next call. `console("help")` lists the tools.
    `console.env` is the DataEnv that is played, `console.calls` what was said so far.
    """

    def __init__(self, task, **limits):
        self.task, self.env, self.calls = task, DataEnv(task, **limits), []
        self.env.reset()

    def __call__(self, call):
        """The tool's answer; "" at the end, shown with success, cost and risk."""
        name = (call.split() or [""])[0]
        if name in ("help", "help()"):
            return Answer("\n".join([*map(usage, WORDS), SQL]))
        if self.env.reason is not None:
            return Answer("", "This episode is over: make a new one with Console(task)")
        self.calls.append(call)
        step = self.env.step(call)
        if step.done:
            env = self.env
            measured = f"success {env.success:.0f}, cost {env.cost:.0f}, risk {env.risk:.0f}"
            return Answer("", f"The end, {step.reason}: {measured}")
        if step.text != "bad":
            return Answer(step.text)
        if name not in WORDS:
            return Answer("bad", 'There is no such tool: console("help") lists them')
        return Answer("bad", f"Expected {usage(name)[:-1]}")

    def help(self):
        """The tools, one a line."""
        return self("help")

    def __repr__(self):
        env = self.env
        where = f"turn {len(env.calls)} of {env.max_turns}, cost {env.cost:.0f} of {env.budget}"
        return f'{ask(self.task)}\nIts words: {self.task.text}\n{where}. console("help") lists the tools.'


class PlayWorld:
    """Tasks that a reader plays in the page, by buttons and menus or by typing.

    Args:
        tasks: a list of Task, questions or postings. title: what the reader sees and hears first.

    Raises:
        ValueError: if there are no tasks, or a task asks for the private table.
    """

    def __init__(self, tasks, title="You are the policy"):
        if not tasks:
            raise ValueError("a world to play needs at least one task: pass make_tasks(...)")
        if any(PRIVATE in task.kinds for task in tasks):
            raise ValueError(f"no task may ask for {PRIVATE}: reading them is a risk that the world counts")
        self.title = title
        self.data = {
            "words": MENUS,
            "shapes": WORDS,
            "usage": [*map(usage, WORDS), "sql works in a lab's Console, not here."],
            "talk": TALK,
            "private": PRIVATE,
            "companies": {task.company: _company(task.company) for task in tasks},
            "tasks": [_task(task) for task in tasks],
        }

    def __repr__(self):
        return f"<PlayWorld {self.title!r}, {len(self.data['tasks'])} tasks>"

    def _repr_html_(self):
        tools = "".join(f'<button type="button" aria-pressed="false">{name}</button>' for name in WORDS)
        body = (
            f'<p class="rl-goal"><span class="rl-ask"></span> The policy reads: <code class="rl-text"></code>'
            f'</p><ol class="rl-log" role="log" aria-label="calls and answers" tabindex="0"></ol>'
            f'<div class="rl-foot"><span class="rl-state" role="status"></span><span class="rl-nav">'
            f'<button type="button" class="rl-undo">Undo</button>'
            f'<button type="button" class="rl-new">New game</button></span></div>'
            f'<div class="rl-tools" role="group" aria-label="tools">{tools}</div>'
            f'<form><div class="rl-menus" role="group" aria-label="words of the call"></div>'
            f'<div class="rl-entry"><input class="rl-call" aria-label="the call" autocomplete="off" '
            f'autocapitalize="off" spellcheck="false" placeholder="choose a tool, or type a call">'
            f'<button type="submit">Call</button></div><div class="rl-hint" aria-live="polite"></div></form>'
            f'<div class="rl-end" tabindex="-1" hidden><p class="rl-verdict" role="status"></p>'
            f'<details class="rl-more"><summary>What the oracle does</summary><ol class="rl-oracle"></ol>'
            f"</details></div>"
        )
        return element("rl-world", self.title, self.data, body, STYLE, SCRIPT, "rlPlayWorld")


def _company(seed):
    """Its tables, and every sum that can be read: kind -> customer -> one per month."""
    home = company(seed)
    totals = {
        kind: {c: ",".join(two_digits(home.total[kind, c, m]) for m in MONTHS) for c in CUSTOMERS}
        for kind in KINDS
    }
    return {"tables": home.table, "spare": home.spare, "totals": totals}


def _task(task):
    """All that play.js needs to know, and what the oracle did."""
    env = DataEnv(task)
    played = policies.run(policies.oracle(task), env)
    where = task.ledgers[task.fault == "full"] if task.ledgers else ""
    return {
        "company": task.company,
        "text": task.text,
        "ask": ask(task),
        "fault": task.fault,
        "kind": task.kinds[0],
        "full": task.ledgers[0] if task.fault == "full" else None,
        "entry": f"{where} {task.customer} {task.truth:02d}" if task.ledgers else None,
        "number": two_digits(task.truth),
        "first": {
            "KIND": task.kinds[0],
            "TABLE": TABLES[0],
            "CUSTOMER": task.customer,
            "MONTH": task.month,
            "LEDGER": (task.ledgers or LEDGERS)[0],
            "DIGIT": "0",
        },
        "max_turns": env.max_turns,
        "budget": env.budget,
        "max_invalid": env.max_invalid,
        "secret": SECRETS[task.fault],
        "oracle": [[call, text, COSTS.get(call.split()[0], 1)] for call, text in played],
    }
