"""Finished episodes, turn by turn and token by token, in the book and in JupyterLab.

The output is deterministic text (numbers are rounded), so nbval compares it like any other output.
"""

import hashlib
import html
import json
import math
from pathlib import Path

SCRIPT = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
BASE = """
.rl-agent{margin:1em 0;--soft:color-mix(in srgb,currentColor 25%,transparent);
--half:color-mix(in srgb,currentColor 50%,transparent)}
.rl-agent *{box-sizing:border-box}
.rl-agent [hidden]{display:none!important}
.rl-agent .rl-head{display:flex;flex-wrap:wrap;gap:.3em .5em;align-items:center;padding-bottom:.5em;
border-bottom:1px solid var(--soft)}
.rl-agent .rl-head strong{flex:1 1 8em;line-height:1.3}
.rl-agent .rl-nav{display:flex;gap:.4em;align-items:center}
.rl-agent output{min-width:3.4em;text-align:center;font-variant-numeric:tabular-nums}
.rl-agent button,.rl-agent input,.rl-agent select{min-height:2.4em;padding:.15em .7em;color:inherit;
font:inherit;background:transparent;border:1px solid var(--c-line,var(--half));border-radius:5px}
.rl-agent button{min-width:2.5em;cursor:pointer}
.rl-agent button:disabled{opacity:.4;cursor:default}
@media(pointer:coarse){.rl-agent button,.rl-agent input,.rl-agent select{min-height:2.75em;min-width:2.75em}}
"""
STYLE = """
.rl-episodes{position:relative;--up:var(--c-value,#16a34a);--down:var(--c-wrong,#dc2626);
--flat:var(--c-policy,#8b5cf6)}
.rl-episodes .rl-columns{display:grid;gap:1.4em 2em;padding:.8em 0 .6em;
grid-template-columns:repeat(auto-fit,minmax(min(100%,19em),1fr))}
.rl-episodes .rl-column{display:flex;flex-direction:column;min-width:0}
.rl-episodes .rl-name{font-weight:600;padding-bottom:.3em}
.rl-episodes .rl-turns{flex:1}
.rl-episodes .rl-turn{display:flex;gap:.6em;padding:.1em 0}
.rl-episodes .rl-role{flex:0 0 4.2em;font-size:.82em;line-height:2.4;opacity:.8}
.rl-episodes .rl-tokens{flex:1;min-width:0;line-height:1.95}
.rl-episodes .rl-token{display:inline-block;max-width:100%;overflow-wrap:anywhere;white-space:pre-wrap;
margin:0 .12em;padding:.05em .35em .2em;border-radius:4px;line-height:1.35;cursor:pointer;
font-family:var(--pst-font-family-monospace,monospace);font-size:.88em}
.rl-episodes .user .rl-token,.rl-episodes .tool .rl-token{font-style:italic;padding:.05em .2em;
color:var(--c-reference,inherit);text-decoration:underline dotted 1px;text-underline-offset:.25em}
.rl-episodes .policy .rl-token{--c:var(--flat);
background:linear-gradient(var(--c),var(--c)) 0 100%/calc(var(--p)*100%) 3px no-repeat,
color-mix(in srgb,var(--c) calc(8% + var(--s)*32%),transparent)}
.rl-episodes .rl-token.up{--c:var(--up)!important}
.rl-episodes .rl-token.down{--c:var(--down)!important}
.rl-episodes .rl-token[data-sign]::after{content:attr(data-sign);font-weight:700;font-size:.8em;
vertical-align:.3em;margin-left:.15em}
.rl-episodes .rl-token:hover{outline:1px solid currentColor}
.rl-episodes .rl-token:focus{outline:2px solid currentColor}
.rl-episodes .rl-outcome{margin-top:.5em;padding-top:.4em;border-top:1px solid var(--soft);font-size:.94em}
.rl-episodes .rl-line{position:absolute;z-index:2;left:0;pointer-events:none;width:max-content;
padding:.3em .7em;border-radius:5px;background:var(--c-ink,#1f2933);color:var(--c-paper,#fff);
border:1px solid var(--c-paper,#9aa5b1);font-size:.86em;line-height:1.4}
.rl-episodes .rl-line:empty{visibility:hidden}
.rl-episodes .rl-legend{font-size:.86em;line-height:1.9}
.rl-episodes .rl-legend .rl-token{cursor:default;outline:none}
@media print{.rl-episodes .rl-token{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def element(name, title, data, body, style, script, wire):
    """A head with a title and a way from task to task, the body, the data and the script that wires them.

    Nothing in it has an id: it may stand on a page twice. No text of the data can end the script.
    """
    data = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", r"\u003c")
    key = "a" + hashlib.sha256(data.encode()).hexdigest()[:10]
    title = html.escape(title, quote=True)
    return (
        f'<div class="rl-player rl-agent {name}" data-key="{key}" role="group" aria-label="{title}" '
        f'data-lm-suppress-shortcuts="true"><style>{BASE}{style}</style>'
        f'<div class="rl-head"><strong>{title}</strong><span class="rl-nav">'
        f'<button type="button" class="rl-back" aria-label="previous task">&#8249;</button>'
        f'<output class="rl-task" aria-label="task"></output>'
        f'<button type="button" class="rl-next" aria-label="next task">&#8250;</button></span></div>'
        f'{body}<script type="application/json">{data}</script></div>'
        f"<script>{script}\ndocument.querySelectorAll('[data-key={key}]').forEach({wire});</script>"
    )


def _rounded(number):
    number = round(float(number), 2) + 0.0  # no -0.0
    if not math.isfinite(number):
        raise ValueError("a viewer shows finite numbers only, and one of them is inf or NaN")
    return int(number) if number == int(number) else number


def record(episode, row=None, advantages=None, tokenizer=None, reward=None):
    """What the viewer shows of one episode, as plain data.

    Args:
        episode: an Episode. row: (L,) log-probabilities of its tokens, for instance of the trained
            model; if None, those with which the policy chose them.
        advantages: (L,), one number per column of the row; or one number for the whole episode.
            Read only where the policy chose the token.
        tokenizer: turns ids into words; without one the words of the turns' texts are taken.
        reward: a number, shown with the outcome.

    Raises:
        ValueError: if `row` or `advantages` is shorter than the episode, or a number is not finite.
    """
    length = len(episode.ids)
    row, advantages = _column(row, length, "row"), _column(advantages, length, "advantages")
    turns, at, number = [], 0, 0
    for turn in episode.turns:
        label = turn.role
        ids = turn.ids[: length - at] if episode.ids else turn.ids
        words = _words(turn, ids, tokenizer)
        if turn.role == "assistant":
            number += 1
            label = f"policy {number}"
            chosen = [p if row is None else row[at + k] for k, p in enumerate(turn.logprobs[: len(ids)])]
            words = [
                [
                    word,
                    _rounded(math.exp(chosen[k])) if k < len(chosen) else None,
                    _rounded(advantages[at + k]) if advantages is not None else None,
                ]
                for k, word in enumerate(words)
            ]
        turns.append([label, words])
        at += len(ids)
    parts = [
        "solved" if episode.success else "not solved",
        f"ended: {str(episode.reason).replace('_', ' ')}",
        f"cost {_rounded(episode.cost)}",
        f"risk {_rounded(episode.risk)}",
    ]
    if reward is not None:
        parts.append(f"reward {_rounded(reward)}".replace("-", "\u2212"))
    return {"turns": turns, "outcome": " · ".join(part.replace(" ", "\u00a0") for part in parts)}


def _column(values, length, name):
    """A list of floats, long enough; None stays None."""
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else values
    values = list(values) if hasattr(values, "__len__") else [values] * max(length, 1)
    if len(values) < length:
        raise ValueError(f"{name} has {len(values)} entries, but the episode has {length} tokens")
    return values


def _words(turn, ids, tokenizer):
    """One text per id; without a tokenizer the words of the text, as far as they agree with the ids."""
    if tokenizer is not None and ids:
        words = [tokenizer.decode([i]) for i in ids]
    else:
        words = turn.text.split()
        if turn.role == "assistant" and ids:
            words = [*words, *["<eos>"] * (len(ids) - len(words))][: len(ids)]
    return [word if word.strip() else "␣" * max(1, len(word)) for word in words]


class EpisodeViewer:
    """Finished episodes that a reader can walk through, one column per policy, in pairs.

    Args:
        columns: a dict from a name to a list of `record(...)`; entry k of every list is the same task.
        title: what the reader sees and hears first.

    Raises:
        ValueError: if there is nothing to show, or the lists differ in length.
    """

    def __init__(self, columns, title="Episodes"):
        if not columns or not any(columns.values()):
            raise ValueError(
                'nothing to show: pass at least one column with one record, {"before": [record(episode)]}'
            )
        lengths = {name: len(records) for name, records in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"the columns differ in length, {lengths}: entry k of every column must be the same task"
            )
        pairs = [list(pair) for pair in zip(*columns.values(), strict=True)]
        if not all(any(tokens for _, tokens in episode["turns"]) for pair in pairs for episode in pair):
            raise ValueError("a record without a single token: is its episode empty?")
        advantages = [
            abs(token[2])
            for pair in pairs
            for episode in pair
            for _, tokens in episode["turns"]
            for token in tokens
            if isinstance(token, list) and token[2] is not None
        ]
        self.title = title
        self.data = {"columns": list(columns), "pairs": pairs, "scale": max(advantages, default=0)}

    @classmethod
    def from_rollouts(
        cls, rollouts, tokenizer, indices=None, advantages=None, rewards=None, title="Episodes"
    ):
        """From a dict of Rollouts in which row k is the same task.

        Args:
            rollouts: name -> Rollout. tokenizer: theirs. indices: the rows to show; all if None.
            advantages: name -> (B, L), or (B,) with one number per episode; names may be missing.
            rewards: name -> (B,); names may be missing.
        """
        columns = {}
        for name, batch in rollouts.items():
            told, paid = (advantages or {}).get(name), (rewards or {}).get(name)
            columns[name] = [
                record(
                    batch.episodes[k],
                    advantages=None if told is None else told[k],
                    tokenizer=tokenizer,
                    reward=None if paid is None else paid[k],
                )
                for k in (range(len(batch.episodes)) if indices is None else indices)
            ]
        return cls(columns, title)

    def __repr__(self):
        shown = len(self.data["pairs"])
        return f"<EpisodeViewer {self.title!r}, {' | '.join(self.data['columns'])}, {shown} tasks>"

    def _repr_html_(self):
        signs = (
            '<span class="rl-token up" data-sign="+" style="--p:.9;--s:.7">up</span> '
            '<span class="rl-token down" data-sign="\u2212" style="--p:.4;--s:.7">down</span>'
        )
        plain = '<span class="rl-token" style="--p:.7;--s:.35">word</span>'
        advantage = ", with a positive or negative advantage" if self.data["scale"] else ""
        body = (
            f'<div class="rl-columns"></div><div class="rl-legend">'
            f'<span class="policy">{signs if advantage else plain}</span> chosen by the policy{advantage}; '
            f'the bar is its probability. <span class="tool"><span class="rl-token">word</span></span> '
            f'put in by the user or a tool.</div><div class="rl-line" aria-live="polite"></div>'
        )
        return element("rl-episodes", self.title, self.data, body, STYLE, SCRIPT, "rlEpisodes")
