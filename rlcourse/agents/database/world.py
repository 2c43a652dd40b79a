"""Tasks and environments of one kind, and controls that take something away from the agent."""

from rlcourse.agents.chat import make_chat_tokenizer

from .env import WORDS, DataEnv
from .tasks import make_tasks


class DataWorld:
    """Questions (or, with `posting`, entries to be computed and posted).

    Args:
        posting: which kind. mix: a Mix, how often what is asked and goes wrong.
        tools: False allows one reply and no tool.
        blind: tools whose every answer is replaced by `dummy`: the control that tells whether an agent
            reads them.
    """

    def __init__(self, posting=False, mix=None, tools=True, blind=(), dummy="ok"):
        self.posting, self.mix, self.tools = posting, mix, tools
        self.blind, self.dummy = tuple(blind), dummy
        self.max_tokens = 128 if posting else 80

    def tasks(self, split, n, rng):
        """n tasks of "train", "validation" or "test"; rng is a random.Random."""
        return make_tasks(split, n, rng, self.mix, self.posting)

    def env(self, task):
        """A fresh environment for one episode."""
        env = DataEnv(task) if self.tools else DataEnv(task, max_turns=1)
        return Blind(env, self.blind, self.dummy) if self.blind else env


class Blind:
    """An environment in which the answers of some tools say nothing. All else goes through."""

    def __init__(self, env, tools, dummy):
        self._env, self._tools, self._dummy = env, tools, dummy

    def __getattr__(self, name):
        return getattr(self._env, name)

    def step(self, text):
        step = self._env.step(text)
        hide = text.split()[:1] and text.split()[0] in self._tools and not step.done
        return step._replace(text=self._dummy) if hide else step


def tokenizer():
    """One token per word of this world."""
    return make_chat_tokenizer(WORDS)
