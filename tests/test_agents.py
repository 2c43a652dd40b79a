"""The agents' plumbing: episodes, rollout, chat format (rules 1 to 4 of the design, and 10)."""

import copy
import json
import random
from dataclasses import asdict

import pytest
import torch

from rlcourse.agents import ChatFormat, StopReason, episode_logprobs, evaluate_agent, rollout
from rlcourse.agents.database import DataEnv, DataWorld, company, make_tasks, tokenizer
from rlcourse.agents.database.policies import clerk, oracle, run
from rlcourse.agents.logbook import Logbook, as_batch, observe
from rlcourse.agents.make_models import RECIPES, SHIPPED
from rlcourse.agents.rater import ReplyScore, preferences
from rlcourse.grading.exercises import ROOT
from rlcourse.lm import load, make_tokenizer
from rlcourse.lm.models import MODELS, tiny_llama
from solutions.ch10_agentic_rl import run_agent
from solutions.ch11_why_agentic import episode_from_log


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def model(words):
    return tiny_llama(words, hidden=32, seed=3, max_positions=128).eval()


class Scripted(torch.nn.Module):
    """A "model" that says what a clerk does: row i of a batch always has the same tasks."""

    def __init__(self, rows, size):
        super().__init__()
        self.rows, self.size = rows, size
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, past_key_values=None, **ignored):
        at = (past_key_values or 0) + input_ids.shape[1]
        logits = torch.full((len(input_ids), input_ids.shape[1], self.size), -30.0)
        for i, row in enumerate(self.rows):
            logits[i, -1, row[min(at, len(row) - 1)]] = 30.0
        return type("Output", (), {"logits": logits, "past_key_values": at})


def clerks(words, n, posting, seed=0):
    """n rows of what clerks did: tasks, (ids, mask) and the environments' outcomes."""
    chat, rng = ChatFormat(words), random.Random(seed)
    tasks = make_tasks("train", n, rng, posting=posting)
    rows, envs = [], []
    for i, task in enumerate(tasks):
        env = DataEnv(task)
        steps = run(oracle(task) if i % 4 == 0 else clerk(task, rng), env)
        messages = [{"role": "user", "content": task.text}]
        for call, answer in steps:
            messages.append({"role": "assistant", "content": call})
            if answer:
                messages.append({"role": "tool", "content": answer})
        rows.append(chat.encode(messages))
        envs.append(env)
    return tasks, rows, envs


@pytest.mark.parametrize("posting", [False, True])
def test_a_rollout_writes_what_the_policy_wrote_and_marks_it(words, posting):
    """The mask equals that of the same episode built message by message, and so does the outcome."""
    tasks, rows, envs = clerks(words, 40, posting)
    scripted = Scripted([ids for ids, _ in rows], len(words))
    played = rollout(scripted, words, [DataEnv(t) for t in tasks], max_tokens=140, greedy=True)
    for episode, (ids, mask), env in zip(played.episodes, rows, envs, strict=True):
        assert episode.ids == ids and episode.mask == mask
        assert (episode.success, episode.cost, episode.risk) == (env.success, env.cost, env.risk)
        assert episode.reason == env.reason and episode.calls == env.calls
    assert {e.success for e in played.episodes} == {0.0, 1.0}


def test_logprobs_are_those_of_the_sampler(model, words):
    """Generation and training agree on every chosen token; elsewhere there is 0 and turn -1."""
    envs = [DataEnv(t) for t in make_tasks("train", 24, random.Random(1))]
    played = rollout(model, words, envs, max_tokens=60, generator=torch.Generator().manual_seed(0))
    again = episode_logprobs(model, played.ids)
    assert torch.allclose(again * played.mask, played.logprobs, atol=1e-5)
    assert ((played.turn >= 0) == (played.mask == 1)).all()
    assert again[:, 0].abs().sum() == 0
    assert again.requires_grad


def test_turn_numbers_count_the_assistant_turns(model, words):
    envs = [DataEnv(t) for t in make_tasks("train", 24, random.Random(2))]
    played = rollout(model, words, envs, max_tokens=60, generator=torch.Generator().manual_seed(0))
    for row, episode in enumerate(played.episodes):
        written = [t for t in episode.turns if t.role == "assistant"]
        numbers = played.turn[row][played.turn[row] >= 0].tolist()
        assert numbers == [k for k, turn in enumerate(written) for _ in turn.ids]
        assert len(episode.calls) in (len(written), len(written) - 1)  # the last may be cut


def test_ids_only_grow(model, words):
    """The turns' own ids, one after the other, are the row; a prefix of it is what came before."""
    envs = [DataEnv(t) for t in make_tasks("train", 24, random.Random(3))]
    played = rollout(model, words, envs, max_tokens=70, generator=torch.Generator().manual_seed(1))
    for row, episode in enumerate(played.episodes):
        joined = [i for turn in episode.turns for i in turn.ids]
        assert joined[: len(episode.ids)] == episode.ids
        assert played.ids[row, : len(episode.ids)].tolist() == episode.ids


def test_a_row_does_not_depend_on_its_neighbours(model, words):
    tasks = make_tasks("train", 12, random.Random(4))
    whole = rollout(model, words, [DataEnv(t) for t in tasks], generator=torch.Generator().manual_seed(5))
    uniform = torch.Generator().manual_seed(5)
    part = rollout(model, words, [DataEnv(t) for t in tasks[:5]], generator=uniform)
    for a, b in zip(whole.episodes[:5], part.episodes, strict=True):
        assert a.ids == b.ids and a.reason == b.reason


def test_every_episode_ends_with_one_reason(model, words):
    """Also those that the rollout cuts; nobody's outcome is missing."""
    seen = set()
    for room in (20, 34, 80):
        envs = [DataEnv(t) for t in make_tasks("train", 64, random.Random(room))]
        generator = torch.Generator().manual_seed(room)
        for e in rollout(model, words, envs, max_tokens=room, generator=generator).episodes:
            assert isinstance(e.reason, StopReason)
            assert e.success == 0.0 or e.reason == StopReason.SUBMITTED
            assert len(e.ids) <= room and len(e.ids) == len(e.mask)
            seen.add(e.reason)
    assert StopReason.TOKEN_LIMIT in seen and StopReason.INVALID_CALL in seen


def test_the_template_renders_the_same_ids(words):
    """The chat template on all messages at once gives the row of the rollout: nothing is lost."""
    _, rows, _ = clerks(words, 20, posting=True, seed=9)
    tasks, _, _ = clerks(words, 20, posting=True, seed=9)
    chat = ChatFormat(words)
    rng = random.Random(9)
    for task, (ids, _) in zip(make_tasks("train", 20, rng, posting=True), rows, strict=True):
        text = words.decode(ids)
        assert chat._encode(text) == tuple(ids)
        assert text.startswith(f"<user> {task.text} <assistant>")
    assert len(tasks) == 20


def test_another_template_works_too():
    """ChatML, as many hub models have it: what stands between two turns comes from the template."""
    other = make_tokenizer(["<|im_start|>", "user", "assistant", "tool", "a", "b", "c"])
    other.chat_template = (
        "{% for m in messages %}{{ ' <|im_start|> ' + m['role'] + ' ' + m['content'] + ' <eos> ' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
    )
    chat = ChatFormat(other)
    assert other.decode(chat.prompt("a")) == "<|im_start|> user a <eos> <|im_start|> assistant"
    assert other.decode(chat.result("b")) == "<|im_start|> tool b <eos> <|im_start|> assistant"
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "c"},
        {"role": "tool", "content": "b"},
    ]
    whole = chat.render(messages, opening=True)
    assert whole == (*chat.prompt("a"), *chat._encode("c <eos>"), *chat.result("b"))


def test_people_and_programs_play_the_same_world():
    task = make_tasks("train", 1, random.Random(7))[0]
    script = oracle(task)

    def policy(messages):
        last = messages[-1]
        return next(script) if last["role"] == "user" else script.send(last["content"])

    env = DataEnv(task)
    record = run_agent(env, policy, max_turns=8)
    assert env.success == 1.0 and record.reason == "submitted"
    assert [m["role"] for m in record.messages][:3] == ["user", "assistant", "tool"]


def test_evaluation_is_repeatable_and_leaves_the_model_alone(model, words):
    before = copy.deepcopy(model.state_dict())
    a, b = (evaluate_agent(model, words, DataWorld(), n=32) for _ in range(2))
    assert a[:4] == b[:4]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_blinded_control_hides_one_tool_and_changes_nothing_else():
    task = make_tasks("train", 1, random.Random(8))[0]
    world = DataWorld(blind=("query",))
    blind, open_ = world.env(task), DataWorld().env(task)
    for call in ("find orders", f"query orders T1 {task.customer} {task.month}", "answer 0 0"):
        hidden, seen = blind.step(call), open_.step(call)
        assert hidden[1:] == seen[1:]
        assert hidden.text == ("ok" if call.startswith("query") else seen.text)
    assert blind.success == open_.success and blind.cost == open_.cost


def test_files_are_short():
    for path in (ROOT / "rlcourse" / "agents").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 250, path.name


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_agents_are_what_their_cards_say(name):
    """Recipe, size and success (within 3 standard errors of both measurements) of models/<name>."""
    facts = json.loads((MODELS / name / "card.json").read_text())
    recipe = RECIPES[name]
    stored = {**recipe._asdict(), "habits": asdict(recipe.habits), "seed": 0}
    assert facts["recipe"] == json.loads(json.dumps(stored))
    model, words = load(name)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert words.chat_template and ChatFormat(words).prompt("? orders ann jan")
    report = evaluate_agent(model, words, DataWorld(posting=recipe.posting), 192, "validation", seed=9)
    said = facts["evaluation"]["sampled"]
    room = 3 * (said["standard_error"] ** 2 + report.standard_error**2) ** 0.5 + 0.02
    assert abs(report.success - said["success"]) < room


def test_a_log_keeps_what_training_needs_and_nothing_private():
    """What was played comes back token by token; private reads and expired records do not."""
    words = tokenizer()
    tasks, rows, _ = clerks(words, 6, posting=False, seed=4)
    private = company(tasks[0].company).table["salaries"]
    spying = DataEnv(tasks[0])
    spying.step(f"query salaries {private} ann jan")
    spying.step("answer 1 1")
    scripted = Scripted([ids for ids, _ in rows], len(words))
    played = rollout(scripted, words, [DataEnv(t) for t in tasks], max_tokens=90, greedy=True).episodes
    outcomes = observe(played, flip=0.0, missing=0.5, rng=random.Random(1))
    assert None in outcomes and all(o in (None, e.success) for o, e in zip(outcomes, played, strict=True))
    book = Logbook(keep=2)
    book.write(0, range(6), played, outcomes)
    spy = copy.copy(played[0])
    spy.facts = spying.facts
    book.write(0, [9], [spy], [1.0])
    records = book.read(0)
    assert [q for q, _ in records] == list(range(6))
    logged = [episode_from_log(rows) for _, rows in records]
    for record, episode, outcome in zip(logged, played, outcomes, strict=True):
        assert record.ids == episode.ids and record.reward == outcome
        assert [float(m) for m in record.mask] == episode.mask
    batch = as_batch([q for q, _ in records], logged)
    assert batch.outcomes.isnan().tolist() == [o is None for o in outcomes]
    assert len(book.read(0, now=1)) == 6 and book.read(0, now=2) == []


def test_raters_see_the_reply_and_nothing_else():
    liked = ["answer 4 2 checked thanks", "answer 4 2 guessed sorry"] * 200
    first = preferences(liked, torch.Generator().manual_seed(0))
    assert first.float().mean() > 0.9
    score = ReplyScore(liked, first)
    assert score("answer 1 7 checked") > score("answer 4 2 guessed")
    assert score.agreement(liked, first) > 0.9
