"""Agents: episodes, worlds with tools, rollouts. Plumbing of chapters 10 to 13; no algorithm is taught here.

from rlcourse.agents import rollout, episode_logprobs
from rlcourse.agents.database import DataWorld
"""

from .chat import ChatFormat, make_chat_tokenizer
from .episode import Episode, Step, StopReason, Turn
from .evaluate import Report, evaluate_agent
from .rollout import Rollout, episode_logprobs, rollout

__all__ = [
    "ChatFormat",
    "Episode",
    "Report",
    "Rollout",
    "Step",
    "StopReason",
    "Turn",
    "episode_logprobs",
    "evaluate_agent",
    "make_chat_tokenizer",
    "rollout",
]
