"""Small language models: worlds, models, sampling and log-probabilities. No algorithm is taught here.

from rlcourse.lm import ClockSum, load, sample, token_logprobs, evaluate
"""

from .evaluate import Evaluation, evaluate
from .exact import (
    ExactWorld,
    TablePolicy,
    exact_gradient,
    exact_kl,
    expectation,
    preference_probabilities,
)
from .logprobs import token_entropies, token_logprobs, token_logprobs_and_entropies
from .models import ScalarModel, load, tiny_llama
from .sampling import Samples, sample
from .tokenizer import make_tokenizer
from .worlds import WORLDS, ClockSum, Demonstrations, Sort

__all__ = [
    "WORLDS",
    "ClockSum",
    "Demonstrations",
    "Evaluation",
    "ExactWorld",
    "Samples",
    "ScalarModel",
    "Sort",
    "TablePolicy",
    "evaluate",
    "exact_gradient",
    "exact_kl",
    "expectation",
    "load",
    "make_tokenizer",
    "preference_probabilities",
    "sample",
    "tiny_llama",
    "token_entropies",
    "token_logprobs",
    "token_logprobs_and_entropies",
]
