"""The tokenizer with merges: deterministic, without loss, and its clerk solves every task."""

import random

from rlcourse.agents import ChatFormat
from rlcourse.agents.bpe import CALM, sql_clerk, sql_demonstrations, sql_rows
from rlcourse.agents.database import DataEnv, DataWorld
from rlcourse.agents.database.policies import run


def test_the_clerk_succeeds():
    rng = random.Random(0)
    for task in DataWorld(mix=CALM).tasks("test", 20, rng):
        env = DataEnv(task)
        run(sql_clerk(task, rng), env)
        assert (env.success, env.cost, env.risk) == (1.0, 2.0, 0.0)


def test_the_tokenizer_is_deterministic_and_loses_nothing():
    (first, rows), (second, again) = sql_rows(100, 200), sql_rows(100, 200)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert rows == again
    for talk in sql_demonstrations(20, random.Random(1)):
        assert ChatFormat(first).render(talk) == tuple(ChatFormat(first).encode(talk)[0])
        for message in talk:
            ids = first.encode(message["content"], add_special_tokens=False)
            assert first.decode(ids) == message["content"]


def test_a_text_has_several_encodings():
    tokenizer, _ = sql_rows(100, 200)
    whole, letters = tokenizer.encode("orders"), sum((tokenizer.encode(c) for c in "orders"), [])
    assert len(whole) == 1 and len(letters) == 6
    assert tokenizer.decode(letters) == tokenizer.decode(whole) == "orders"
