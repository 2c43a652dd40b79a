"""What an agent did: turns, tokens, the reason of the end. Plain records, no logic of any world."""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple


class StopReason(enum.StrEnum):
    """Why an episode ended. Exactly one of these, always."""

    SUBMITTED = "submitted"  # the policy said that it is done
    TURN_LIMIT = "turn_limit"  # it took as many turns as allowed
    TOKEN_LIMIT = "token_limit"  # the row of tokens is full
    INVALID_CALL = "invalid_call"  # too many calls that no tool understands
    TOOL_ERROR = "tool_error"  # a tool broke: a fault of the world, not of the policy
    TIMEOUT = "timeout"  # a tool took longer than allowed
    BUDGET = "budget"  # it spent more than allowed


class Step(NamedTuple):
    """What the world answers to one turn of the policy."""

    text: str  # what the policy reads next; "" if nothing
    reward: float = 0.0
    done: bool = False
    reason: StopReason | None = None  # set if and only if done
    cost: float = 0.0  # what this turn cost
    risk: float = 0.0  # how many risky things it did


@dataclass
class Turn:
    """One message. Only the assistant's turns have log-probabilities."""

    role: str  # "user", "assistant" or "tool"
    text: str
    ids: list = field(default_factory=list)
    logprobs: list = field(default_factory=list)


@dataclass
class Episode:
    """One finished episode. `ids` and `mask` are what was read and written, token by token."""

    turns: list
    reason: StopReason
    success: float  # 1.0 or 0.0: the true state of the world, not what the agent says
    cost: float
    risk: float
    calls: list  # the name of the tool that each assistant turn called, "bad" for none
    milestones: list  # what each assistant turn reached, or None
    facts: dict  # anything else that the world measured
    ids: list = field(default_factory=list)
    mask: list = field(default_factory=list)  # 1.0 where the policy chose the token

    def messages(self):
        """As chat messages: a list of {"role", "content"}."""
        return [{"role": turn.role, "content": turn.text} for turn in self.turns]

    @property
    def reply(self):
        """The text of the last assistant turn: all that a rater of final replies sees."""
        return next((t.text for t in reversed(self.turns) if t.role == "assistant"), "")
