"""Loading and building models. A local directory and a hub model go through the same two calls."""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

MODELS = Path(__file__).resolve().parents[2] / "models"


def load(name_or_path, device="cpu", dtype=torch.float32):
    """(model, tokenizer) from `models/<name>`, from a directory, or from the Hugging Face hub.

    "clock_sum"               one of the course's own models, in the folder `models/`
    "some/folder"             a directory that `save_pretrained` wrote
    "Qwen/Qwen3-0.6B"         a model of the hub: needs a network once, then the local cache
    """
    source = _find(str(name_or_path))
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except OSError as error:
        raise OSError(
            f"The model {source!r} could not be loaded. A hub model needs a network the first time: "
            f"run `hf download {source}` where there is one, or give the path of a directory that "
            f"`save_pretrained` wrote. The course's own models are: {', '.join(_own_models())}."
        ) from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device), tokenizer


def _own_models():
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def _find(name):
    if name in _own_models():
        return str(MODELS / name)
    if Path(name).is_dir():
        return name
    if "/" not in name or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"There is no model {name!r}: it is neither a directory nor one of {_own_models()}. "
            "A model of the hub is named owner/model. `make models` builds the course's own ones."
        )
    return name


def tiny_llama(tokenizer, hidden=96, layers=2, heads=4, max_positions=64, seed=0):
    """A new Llama for the tokenizer's vocabulary: 240 k parameters with the default sizes."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 16 * 16 + 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        initializer_range=0.05,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


class ScalarModel(nn.Module):
    """A language model's body with one number per position: a reward model or a value head.

    The body is a copy, so the language model it came from is not trained with it. The new head
    starts at zero: every output is 0 before training. Works with any model that transformers
    builds, because each of them has `base_model` and returns `last_hidden_state`.
    """

    def __init__(self, language_model):
        super().__init__()
        self.body = copy.deepcopy(language_model.base_model).requires_grad_(True)
        self.head = nn.Linear(language_model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(device=language_model.device, dtype=language_model.dtype)

    def forward(self, input_ids, attention_mask=None):
        """(B, L) token ids -> (B, L) numbers; the one at position i has seen tokens 0..i.

        attention_mask (B, L): 0 at padding on the left, 1 elsewhere; None if there is none.
        """
        extra = {}
        if attention_mask is not None:
            positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
            extra = {"attention_mask": attention_mask.long(), "position_ids": positions}
        hidden = self.body(input_ids=input_ids, use_cache=False, **extra).last_hidden_state
        return self.head(hidden).squeeze(-1)  # (B, L, 1) -> (B, L)
