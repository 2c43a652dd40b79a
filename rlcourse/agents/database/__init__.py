"""The data agent's world: questions to a real SQLite database, and entries to be posted into it."""

from .env import TALK, WORDS, DataEnv
from .tasks import POSTINGS, QUESTIONS, Mix, Task, company, make_tasks
from .world import Blind, DataWorld, tokenizer

__all__ = [
    "POSTINGS",
    "QUESTIONS",
    "TALK",
    "WORDS",
    "Blind",
    "DataEnv",
    "DataWorld",
    "Mix",
    "Task",
    "company",
    "make_tasks",
    "tokenizer",
]
