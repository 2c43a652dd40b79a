"""The course's worlds under TRL's `GRPOTrainer(environment_factory=...)`: the same tokens, the same rules.

To TRL every line that the policy writes is a call of one tool named `call`, unless it ends the episode
(`answer 4 2`, `done`): then it is the final reply. So a line that no tool understands reaches the
world, as it does in our own rollout.
"""

import copy

from .chat import ROLES
from .episode import StopReason

ENDS = ("answer", "done")
TEMPLATE = """
{%- for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}
{%- for call in m['tool_calls'] or [] %}{% set f = call['function'] %}
{%- if f['name'] != 'call' %}{{ f['name'] + ' ' }}{% endif %}
{%- for key, value in f['arguments'].items() %}
{%- if key != 'words' %}{{ key + ' ' }}{% endif %}{{ value + ' ' }}
{%- endfor %}
{%- endfor %}
{%- if m['role'] == 'assistant' %}{{ eos_token + ' ' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"""
PARSER = {
    "defaults": {"role": "assistant"},
    "start_anchor": ROLES[1],
    "fields": {
        "tool_calls": {
            "open_pattern": rf"\A(?!\s*(?:{'|'.join(ENDS)})\b)",
            "close_pattern": r"\s*<eos>",
            "content": "text",
            "repeats": True,
            "transform": {
                "type": "function",
                "function": {"name": "call", "arguments": {"words": "{content}"}},
            },
        },
        "content": {"content": "text"},  # TRL takes the end token off
    },
}


def trl_tokenizer(tokenizer):
    """A copy of the course's tokenizer with which TRL can render tool calls and read them back."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template, tokenizer.response_template = TEMPLATE, PARSER
    return tokenizer


class Player:
    """What TRL keeps for a row: it is reset for every episode and offers one tool.

    make_env: called with the row's column `task`, gives a fresh environment. `late`: how often TRL
    has called in this episode after the world had ended it, for TRL has no way to be told.
    """

    def __init__(self, make_env):
        self._make_env, self.env, self.late = make_env, None, 0

    def reset(self, task, **_):
        self.env, self.late = self._make_env(task), 0

    def call(self, words: str) -> str:
        """Send one line to the world.

        Args:
            words: the line
        """
        if self.env.reason is not None:
            self.late += 1
            return "bad"
        return self.env.step(words).text or "bad"


def finish(player, completion, cut=False):
    """Give the world the last line of a row, which TRL itself does not execute, and end the episode.

    Args:
        completion: TRL's messages of the row. cut: the row was full before its last line ended.

    Returns:
        the environment, with success, cost and risk.
    """
    env = player.env
    said = [message for message in completion if message["role"] == "assistant"]
    if env.reason is None and not cut and len(env.calls) < len(said):
        calls = said[-1].get("tool_calls")
        env.step(calls[0]["function"]["arguments"]["words"] if calls else said[-1]["content"].strip())
    env.stop(StopReason.TOKEN_LIMIT if cut else StopReason.TURN_LIMIT)
    return env
