"""The data agent's world for a tokenizer with merges, as real models have one: SQL as text, real re-encoding.

With one token per word a text has one encoding, with byte-pair encoding many; the encoder writes one of them.
"""

import random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlcourse.lm.tokenizer import EOS, PAD

from .chat import ROLES, ChatFormat
from .database import DataEnv, DataWorld, Mix
from .database.policies import run

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
CALM = Mix(busy=0.0, locked=0.0, timeout=0.0, changed=0.0)


def sql_clerk(task, rng):
    """Looks the table up, asks it with SQL, answers. Two numbers in the SQL are free, for they change
    nothing: amounts stay below 100, and a sum has one row."""
    kind, limits = task.kinds[0], (rng.randint(100, 999), rng.randint(100, 999))
    table = yield f"find {kind}"
    where = f"cust = '{task.customer}' AND mon = '{task.month}' AND {kind} < {limits[0]} LIMIT {limits[1]}"
    total = yield f"sql SELECT SUM({kind}) FROM {table} WHERE {where}"
    yield f"answer {' '.join(total)}"


def sql_demonstrations(n, rng):
    """n finished conversations, as lists of messages; rng is a random.Random."""
    talks = []
    for task in DataWorld(mix=CALM).tasks("train", n, rng):
        talk = [{"role": "user", "content": task.text}]
        for call, observation in run(sql_clerk(task, rng), DataEnv(task)):
            talk.append({"role": "assistant", "content": call})
            if observation:
                talk.append({"role": "tool", "content": observation})
        talks.append(talk)
    return talks


def bpe_tokenizer(texts, merges):
    """A byte-level BPE tokenizer with this many merges, learnt from the texts; deterministic.

    Its alphabet are the bytes that occur there: no token is half a letter."""
    specials = [PAD, EOS, *ROLES]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    alphabet = {letter for text in texts for piece, _ in split(text) for letter in piece}
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + len(alphabet) + merges,
        special_tokens=[AddedToken(word, special=True) for word in specials],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )


def sql_rows(n=500, merges=400, seed=0):
    """(tokenizer, rows to imitate): every row is (ids, mask), as `make_models.fit` wants them."""
    talks = sql_demonstrations(n, random.Random(seed))
    tokenizer = bpe_tokenizer([m["content"] for talk in talks for m in talk], merges)
    chat = ChatFormat(tokenizer)
    return tokenizer, [chat.encode(talk) for talk in talks]
