"""Text to token ids and back, through the tokenizer's chat template, one piece at a time.

Ids only grow: the policy's own tokens are never decoded and encoded again. What the template puts
between two turns of the policy is taken from the template itself, so a hub model works as well.
"""

import functools

from rlcourse.lm.tokenizer import make_tokenizer

ROLES = ("<user>", "<assistant>", "<tool>")
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def make_chat_tokenizer(words):
    """One token per word, roles user, assistant and tool, and the chat template above."""
    tokenizer = make_tokenizer([*ROLES, *words])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class ChatFormat:
    """The pieces of a conversation as ids.

    prompt(text)  the user's message, and the words that open the policy's first turn
    result(text)  what follows the end of a policy's turn: a tool's answer, and the next opening
    text(ids)     what the policy wrote, without the end token
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token_id
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end
        self.prompt = functools.lru_cache(4096)(self._prompt)
        self.result = functools.lru_cache(4096)(self._result)
        self._text = functools.lru_cache(65536)(self._decode)

    def _render(self, messages, opening):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)

    def _encode(self, text):
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _prompt(self, text):
        return self._encode(self._render([{"role": "user", "content": text}], True))

    def _result(self, text):
        before = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}]
        end = self._render(before, False).rindex(self.tokenizer.eos_token)
        whole = self._render([*before, {"role": "tool", "content": text}], True)
        return self._encode(whole[end + len(self.tokenizer.eos_token) :])

    def _decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False).strip()

    def text(self, ids):
        ids = tuple(ids)
        return self._text(ids[:-1] if ids and ids[-1] == self.end else ids)

    def encode(self, messages):
        """(ids, mask) of a finished conversation, as a rollout would have written it."""
        ids = list(self.prompt(messages[0]["content"]))
        mask = [0.0] * len(ids)
        for message in messages[1:]:
            if message["role"] == "assistant":
                piece = [*self._encode(message["content"]), self.end]
            else:
                piece = self.result(message["content"])
            ids += piece
            mask += [float(message["role"] == "assistant")] * len(piece)
        return ids, mask

    def render(self, messages, opening=False):
        """The ids of a whole conversation, rendered at once: what another framework would do."""
        return self._encode(self._render(messages, opening))
