"""One episode, three ways to write it down: our rollout, the chat template, TRL's tool loop. No training.

TRL's trainer is built for real. Where it would sample it is handed the lines of our rollout; parsing, calls,
the ids of the tools' answers, masks, advantages and loss are its own.
"""

import random
from itertools import chain

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from rlcourse.agents import ChatFormat, episode_logprobs
from rlcourse.agents.database import DataEnv, make_tasks, tokenizer
from rlcourse.agents.database.policies import demonstrations
from rlcourse.agents.for_trl import Player, finish, trl_tokenizer
from rlcourse.agents.rollout import Row
from rlcourse.lm.models import tiny_llama
from solutions.ch10_agentic_rl import masked_policy_loss, trajectory_advantages

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

QUESTIONS, GROUP, PROMPT, ROOM, TURN_ROOM = 6, 4, 6, 96, 8
WORDS = tokenizer()
TASKS = make_tasks("train", QUESTIONS, random.Random(0))
ODD = [
    "",
    "find",
    "T1 T1",
    "query orders T9 ann jan",
    "answers 1 2",
    "4 2",
    "find orders orders",
    "<tool> ok",
]
ENDLESS = "find orders T1 <tool> <user> ann ann jan"  # as many tokens as a turn may have, and no end


def encode(text):
    return WORDS.encode(text, add_special_tokens=False)


def write(task, lines):
    """An episode in which the policy writes the given lines, lists of ids, as our rollout records it."""
    row, tokens = Row(DataEnv(task), ChatFormat(WORDS), ROOM, TURN_ROOM), chain.from_iterable(lines)
    while not row.over:
        row.add(0 if row.queue else next(tokens), 0.0)
    return row.episode()


@pytest.fixture(scope="module")
def episodes():
    """Careless clerks; one in four begins with odd lines, one in four with a line that has no end."""
    rng, episodes = random.Random(1), []
    for task in TASKS:
        for k in range(GROUP):
            ((messages, _),) = demonstrations([task], rng)
            said = [message["content"] for message in messages if message["role"] == "assistant"]
            said = [*(rng.sample(ODD, 2) if k == 1 else []), *said, "answer 0 0"]
            lines = [[*encode(text), WORDS.eos_token_id] for text in said]
            episodes.append(write(task, [encode(ENDLESS), *lines] if k == 2 else lines))
    return episodes


def lines_of(episode):
    return [turn.ids for turn in episode.turns if turn.role == "assistant"]


def has_end(episode):
    return all(ids[-1] == WORDS.eos_token_id for ids in lines_of(episode))


def test_the_episodes_are_of_all_kinds(episodes):
    assert {len(lines_of(e)) for e in episodes} >= {1, 2, 3, 5, 8}  # 8: the limit
    assert {e.success for e in episodes} == {0.0, 1.0}
    assert {"bad", "query", "find", "answer"} <= set(chain.from_iterable(e.calls for e in episodes))
    assert sum(not has_end(e) for e in episodes) == QUESTIONS


def test_the_template_renders_the_ids_of_the_rollout(episodes):
    chat, theirs = ChatFormat(WORDS), trl_tokenizer(WORDS)
    for episode in filter(has_end, episodes):
        messages = episode.messages()
        assert chat.render(messages) == tuple(episode.ids)
        for words in (WORDS, theirs):
            assert words.apply_chat_template(messages, return_dict=False) == episode.ids
        assert chat.encode(messages) == (episode.ids, episode.mask)


def test_a_line_without_an_end_is_rendered_with_one(episodes):
    """Here a rendered history is not what the policy saw: one end token more for the unfinished line."""
    for episode in episodes:
        if not has_end(episode):
            rendered = list(ChatFormat(WORDS).render(episode.messages()))
            assert rendered != episode.ids
            del rendered[PROMPT + TURN_ROOM]
            assert rendered == episode.ids


@pytest.fixture(scope="module")
def theirs(episodes, tmp_path_factory):
    """(trainer, its batch, what `_generate` returned, the environments) for the same lines."""
    prompts = [[{"role": "user", "content": task.text}] for task in TASKS]
    data = datasets.Dataset.from_dict({"prompt": prompts, "task": list(range(QUESTIONS))})
    seen = {}

    def reward(completions, environments, **_):
        pairs = zip(environments, completions, strict=True)
        seen["envs"] = [finish(player, completion) for player, completion in pairs]
        return [env.success - 0.05 * env.cost for env in seen["envs"]]

    trainer = trl.GRPOTrainer(
        model=tiny_llama(WORDS, hidden=32, max_positions=128, seed=3),
        reward_funcs=reward,
        args=trl.GRPOConfig(
            str(tmp_path_factory.mktemp("trl")),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=QUESTIONS * GROUP,
            num_generations=GROUP,
            num_iterations=2,  # so that it keeps the old log-probabilities
            max_completion_length=ROOM - PROMPT,
            max_tool_calling_iterations=7,
            beta=0.0,
            loss_type="bnpo",
            report_to=[],
        ),
        train_dataset=data,
        processing_class=trl_tokenizer(WORDS),
        environment_factory=lambda: Player(lambda task: DataEnv(TASKS[task])),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    left = [lines_of(episode) for episode in episodes]

    def next_lines(read, *_, **__):
        asked = [turns for turns in left if turns]  # those that have ended are not asked again
        assert len(read) == len(asked)
        return [list(turns.pop(0)) for turns in asked], None

    def generate(prompts):
        seen["generated"] = type(trainer)._generate(trainer, prompts)
        return seen["generated"]

    trainer._generate_single_turn, trainer._generate = next_lines, generate
    inputs = [{"prompt": prompts[q], "task": q} for q in range(QUESTIONS) for _ in range(GROUP)]
    batch = trainer._generate_and_score_completions(inputs)
    return trainer, batch, seen["generated"], seen["envs"]


def test_trl_writes_the_same_ids_and_masks(episodes, theirs):
    prompts, completions, masks, messages = theirs[2][:4]
    words = trl_tokenizer(WORDS)
    for episode, prompt, completion, mask, said in zip(
        episodes, prompts, completions, masks, messages, strict=True
    ):
        assert prompt + completion == episode.ids
        assert [0] * len(prompt) + mask == episode.mask
        if has_end(episode):  # what it parsed, rendered again
            conversation = [episode.messages()[0], *said]
            assert words.apply_chat_template(conversation, return_dict=False) == episode.ids


def test_the_world_is_the_same_under_trl(episodes, theirs):
    for episode, env in zip(episodes, theirs[3], strict=True):
        for name in ("success", "cost", "risk", "calls", "milestones", "reason", "facts"):
            assert getattr(env, name) == getattr(episode, name), name


def test_advantages_loss_and_gradient_are_the_same(episodes, theirs):
    trainer, batch, *_ = theirs
    ids = pad_sequence([torch.tensor(e.ids) for e in episodes], batch_first=True)
    mask = pad_sequence([torch.tensor(e.mask) for e in episodes], batch_first=True)
    rewards = torch.tensor([e.success - 0.05 * e.cost for e in episodes])
    questions = torch.arange(QUESTIONS).repeat_interleave(GROUP)
    advantages = trajectory_advantages(rewards, questions, torch.arange(len(rewards)))
    assert torch.allclose(batch["advantages"], advantages, atol=1e-5)

    model = trainer.model
    logprobs = episode_logprobs(model, ids)
    assert torch.allclose(
        (batch["old_per_token_logps"] * batch["tool_mask"] * batch["completion_mask"]),
        (logprobs * mask)[:, PROMPT:],
        atol=1e-5,
    )
    noise = 0.3 * torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
    old = logprobs.detach() + noise  # so that some ratios are clipped
    ours = masked_policy_loss(logprobs, old, advantages[:, None], mask)
    its = trainer._compute_loss(model, batch | {"old_per_token_logps": old[:, PROMPT:]})
    assert its.item() == pytest.approx(ours.item(), abs=1e-5)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(its, parameters), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
