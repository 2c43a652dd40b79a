"""The language-model plumbing, and the base checkpoints that ship with the course."""

import json
import socket

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlcourse.lm import (
    WORLDS,
    ClockSum,
    ExactWorld,
    ScalarModel,
    Sort,
    TablePolicy,
    evaluate,
    exact_gradient,
    exact_kl,
    expectation,
    load,
    make_tokenizer,
    preference_probabilities,
    sample,
    tiny_llama,
    token_entropies,
    token_logprobs,
    token_logprobs_and_entropies,
)
from rlcourse.lm.make_models import RECIPES
from rlcourse.lm.models import MODELS
from solutions.ch08_dpo import optimal_policy

NAMES = ["clock_sum", "clock_sum_process", "sort6"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def other_architectures(tokenizer):
    shared = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **shared))
    qwen = Qwen3ForCausalLM(
        Qwen3Config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
            **shared,
        )
    )
    return [gpt2, qwen]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test that must not need a network asked for one")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# ---------------------------------------------------------------- the shipped checkpoints


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_is_as_good_as_its_card_says(name, no_network):
    card = json.loads((MODELS / name / "card.json").read_text())["evaluation"]
    model, _ = load(name)
    world = WORLDS[name]()
    n = 1024
    for greedy, key in [(False, "sampled_accuracy"), (True, "greedy_accuracy")]:
        fresh = evaluate(model, world, n, greedy=greedy, seed=77)
        p = card[key]
        error = (p * (1 - p) * (1 / n + 1 / card["prompts"])) ** 0.5
        assert abs(fresh.accuracy - p) <= 4 * error + 0.005, (key, fresh.accuracy, p)
    repeated = evaluate(model, world, card["prompts"], seed=card["seed"])
    assert repeated.accuracy == pytest.approx(card["sampled_accuracy"], abs=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_card_names_the_recipe_that_make_models_follows(name):
    card = json.loads((MODELS / name / "card.json").read_text())
    assert card["recipe"] == json.loads(json.dumps(RECIPES[name]._asdict()))
    assert card["name"] == name
    assert card["parameters"] == sum(p.numel() for p in load(name)[0].parameters())


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_is_small_and_has_the_files_of_a_hub_model(name):
    folder = MODELS / name
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "card.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    for path in folder.iterdir():
        assert path.stat().st_size <= 2_000_000, path


@pytest.mark.parametrize("name", NAMES)
def test_checkpoint_loads_with_the_auto_classes(name, no_network):
    model = AutoModelForCausalLM.from_pretrained(MODELS / name)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
    ours, _ = load(name)
    world = WORLDS[name]()
    prompts = world.prompts(4, generator())
    assert torch.equal(model(prompts).logits, ours(prompts).logits)
    texts = world.text(prompts)
    assert tokenizer(texts, return_tensors="pt").input_ids.tolist() == prompts.tolist()
    assert tokenizer.padding_side == "left"


def test_save_and_load_give_the_same_model(tmp_path, no_network):
    world = Sort(4)
    model = tiny_llama(world.tokenizer, hidden=16, layers=1, seed=3)
    model.save_pretrained(tmp_path)
    world.tokenizer.save_pretrained(tmp_path)
    again, tokenizer = load(tmp_path)
    prompts = world.prompts(5, generator())
    assert torch.equal(model(prompts).logits, again(prompts).logits)
    assert tokenizer.get_vocab() == world.tokenizer.get_vocab()
    assert tokenizer.decode(tokenizer("3 1 = <eos>").input_ids) == "3 1 = <eos>"


def test_unknown_model_says_what_to_do(no_network):
    with pytest.raises(FileNotFoundError, match="make models"):
        load("no_such_model")
    with pytest.raises(FileNotFoundError, match="clock_sum"):
        load("./no/such/folder")


def test_hub_model_without_network_says_what_to_do(monkeypatch, no_network):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="needs a network the first time"):
        load("nobody/never-published-model")


def test_tiny_llama_depends_on_its_seed_only():
    tokenizer = make_tokenizer(list("ab"))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = tiny_llama(tokenizer, hidden=16, layers=1, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    second = tiny_llama(tokenizer, hidden=16, layers=1, seed=1)
    third = tiny_llama(tokenizer, hidden=16, layers=1, seed=2)
    pairs = list(zip(first.parameters(), second.parameters(), third.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


# ---------------------------------------------------------------- sampling and log-probs


def test_sampling_logprobs_equal_training_logprobs():
    for name in NAMES:
        model, _ = load(name)
        world = WORLDS[name]()
        prompts = world.prompts(64, generator())
        for temperature in (1.0, 0.7):
            replies = sample(
                model,
                prompts,
                world.max_new_tokens,
                temperature=temperature,
                generator=generator(1),
            )
            again = token_logprobs(model, prompts, replies.tokens, temperature=temperature)
            difference = (again - replies.logprobs) * replies.mask
            assert difference.abs().max() < 1e-5
            assert (replies.logprobs * (1 - replies.mask) == 0).all()


def test_mask_is_one_up_to_and_including_the_first_eos():
    world = ClockSum()
    model, _ = load("clock_sum")
    replies = sample(model, world.prompts(128, generator()), 10, generator=generator(1))
    lengths = set()
    for tokens, mask in zip(replies.tokens.tolist(), replies.mask.tolist(), strict=True):
        length = tokens.index(world.eos) + 1 if world.eos in tokens else len(tokens)
        lengths.add(length)
        assert mask == [1.0] * length + [0.0] * (len(tokens) - length)
        assert all(t == world.pad for t in tokens[length:])
    assert len(lengths) > 1
    assert max(lengths) == replies.tokens.shape[1]


@pytest.mark.parametrize("check_every", [1, 3, 100])
def test_sampling_with_a_cache_equals_sampling_without(check_every):
    world = ClockSum()
    model, _ = load("clock_sum")
    prompts = world.prompts(32, generator())
    replies = sample(model, prompts, 10, generator=generator(4), check_every=check_every)
    uniform = torch.rand(32, 10, generator=generator(4))
    for row in range(32):
        ids = prompts[row].tolist()
        for t in range(int(replies.mask[row].sum())):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            below = torch.softmax(logits, -1).cumsum(-1) <= uniform[row, t]
            token = int(below.sum())  # the first token at which the sum passes the number
            assert token == replies.tokens[row, t]
            ids.append(token)


def test_greedy_takes_the_most_likely_token():
    world = Sort(6)
    model, _ = load("sort6")
    prompts = world.prompts(32, generator())
    replies = sample(model, prompts, 8, greedy=True)
    ids = torch.cat([prompts, replies.tokens], dim=1)
    with torch.no_grad():
        best = model(ids).logits.argmax(-1)[:, prompts.shape[1] - 1 : -1]
    assert ((best == replies.tokens) | (replies.mask == 0)).all()
    again = token_logprobs(model, prompts, replies.tokens)
    assert ((again - replies.logprobs) * replies.mask).abs().max() < 1e-5


def test_same_generator_same_replies_and_rows_do_not_depend_on_each_other():
    world = ClockSum()
    model, _ = load("clock_sum")
    prompts = world.prompts(16, generator())
    first = sample(model, prompts, 10, generator=generator(2))
    second = sample(model, prompts, 10, generator=generator(2))
    third = sample(model, prompts, 10, generator=generator(3))
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, third.tokens[:, : first.tokens.shape[1]])
    state = torch.get_rng_state()
    sample(model, prompts, 10, generator=generator(2))
    assert torch.equal(state, torch.get_rng_state())  # the global generator is not touched
    few = sample(model, prompts[:4], 10, generator=generator(2))
    width = few.tokens.shape[1]
    assert torch.equal(few.tokens, first.tokens[:4, :width])


def test_temperature_sharpens():
    world = Sort(6)
    model, _ = load("sort6")
    warm = evaluate(model, world, 256, temperature=1.0)
    cool = evaluate(model, world, 256, temperature=0.3)
    assert cool.accuracy > warm.accuracy + 0.15


def test_sampling_restores_the_training_mode():
    model = tiny_llama(ClockSum().tokenizer, hidden=16, layers=1)
    prompts = ClockSum().prompts(2, generator())
    for mode in (True, False):
        model.train(mode)
        sample(model, prompts, 4)
        assert model.training is mode


def test_left_padding_changes_nothing():
    world = ClockSum()
    models = [load("clock_sum")[0], *other_architectures(world.tokenizer)]
    for model in models:
        model.eval()
        prompts = world.prompts(16, generator())
        padded = torch.nn.functional.pad(prompts, (3, 0), value=world.pad)
        mask = (padded != world.pad).long()
        mask[0, :3], padded[0, :3] = 1, world.id("7")  # one row is really longer
        plain = sample(model, prompts, 10, generator=generator(1))
        left = sample(model, padded, 10, prompt_mask=mask, generator=generator(1))
        width = min(plain.tokens.shape[1], left.tokens.shape[1])
        assert torch.equal(plain.tokens[1:, :width], left.tokens[1:, :width])
        assert torch.allclose(plain.logprobs[1:, :width], left.logprobs[1:, :width], atol=1e-5)
        again = token_logprobs(model, padded, left.tokens, prompt_mask=mask)
        assert ((again - left.logprobs) * left.mask).abs().max() < 1e-5
        scalar = ScalarModel(model)
        torch.nn.init.normal_(scalar.head.weight)
        assert torch.allclose(scalar(padded, mask)[1:, 3:], scalar(prompts)[1:], atol=1e-5)


def test_entropy_is_that_of_the_sampling_distribution():
    world = Sort(4)
    model = tiny_llama(world.tokenizer, hidden=16, layers=1)
    prompts, tokens = world.prompts(3, generator()), world.prompts(3, generator(1))
    entropies = token_entropies(model, prompts, tokens, temperature=2.0)
    for t in range(tokens.shape[1]):
        inputs = torch.cat([prompts, tokens[:, :t]], dim=1)
        distribution = torch.distributions.Categorical(logits=model(inputs).logits[:, -1] / 2.0)
        assert torch.allclose(entropies[:, t], distribution.entropy(), atol=1e-5)
    both = token_logprobs_and_entropies(model, prompts, tokens, temperature=2.0)
    assert torch.equal(both[1], entropies)
    assert torch.equal(both[0], token_logprobs(model, prompts, tokens, temperature=2.0))


def test_other_architectures_train_sample_and_carry_a_scalar_head(tmp_path, no_network):
    world = Sort(4)
    for i, fresh in enumerate(other_architectures(world.tokenizer)):
        folder = tmp_path / str(i)
        fresh.save_pretrained(folder)
        world.tokenizer.save_pretrained(folder)
        model, _ = load(folder)
        assert type(model) is type(fresh)
        prompts = world.prompts(8, generator())
        replies = sample(model, prompts, world.max_new_tokens, generator=generator(1))
        logprobs = token_logprobs(model, prompts, replies.tokens)
        assert ((logprobs - replies.logprobs) * replies.mask).abs().max() < 1e-5
        logprobs.sum().backward()
        scalar = ScalarModel(model)
        full = torch.cat([prompts, replies.tokens], dim=1)
        values = scalar(full)
        assert values.shape == full.shape
        assert (values == 0).all()
        values.sum().backward()
        assert scalar.head.weight.grad.abs().sum() > 0


def test_scalar_model_is_a_copy_and_sees_only_the_past():
    world = Sort(4)
    model = tiny_llama(world.tokenizer, hidden=16, layers=1).requires_grad_(False)
    scalar = ScalarModel(model)
    assert all(p.requires_grad for p in scalar.parameters())
    torch.nn.init.normal_(scalar.head.weight)
    ids = world.prompts(2, generator())
    changed = ids.clone()
    changed[:, -1] = world.zero
    before, after = scalar(ids), scalar(changed)
    assert torch.allclose(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])
    with torch.no_grad():
        next(scalar.body.parameters()).add_(1.0)
    assert not torch.equal(next(scalar.body.parameters()), next(model.base_model.parameters()))


# ---------------------------------------------------------------- the worlds


def reply_ids(world, words, width):
    ids = [world.id(word) for word in words.split()]
    return ids + [world.pad] * (width - len(ids))


def test_clock_sum_by_hand():
    world = ClockSum(4)
    prompts = world.encode(torch.tensor([[3, 9, 8, 5]] * 7))  # running sums 2 0 5
    replies = [
        ("< 2 0 5 > 5 <eos>", 1.0, [0, 1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]),
        ("< 2 1 6 > 6 <eos>", 0.0, [0, 1, 0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]),
        ("< 2 1 > 5 <eos>", 1.0, [0, 1, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]),
        ("> 5 <eos>", 1.0, [0] * 8, [0] * 8),
        ("> 4 <eos>", 0.0, [0] * 8, [0] * 8),
        ("5 <eos>", 0.0, [0] * 8, [0] * 8),
        ("< 2 0 5 > 5 5 5", 0.0, [0, 1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]),
    ]
    tokens = torch.tensor([reply_ids(world, words, 8) for words, *_ in replies])
    rewards, is_step = world.step_rewards(prompts, tokens)
    assert world.reward(prompts, tokens).tolist() == [r for _, r, *_ in replies]
    assert rewards.tolist() == [r for *_, r, _ in replies]
    assert is_step.tolist() == [s for *_, s in replies]
    assert world.thinks(tokens).tolist() == [True] * 3 + [False] * 3 + [True]
    assert world.text(tokens)[:2] == ["< 2 0 5 > 5", "< 2 1 6 > 6"]
    assert world.text(prompts[:1]) == ["3 9 8 5 ="]
    narrow = torch.tensor([[world.open, world.id("2")]])
    assert world.step_rewards(prompts[:1], narrow)[0].tolist() == [[0.0, 1.0]]


def test_sort_by_hand():
    world = Sort(3)
    prompts = world.encode(torch.tensor([[3, 1, 2]] * 4))
    tokens = torch.tensor(
        [reply_ids(world, words, 5) for words in ("1 2 3 <eos>", "1 3 2 <eos>", "1 2 3 3 <eos>", "1 <eos>")]
    )
    assert world.reward(prompts, tokens).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert world.score(prompts, tokens).tolist() == pytest.approx([1.0, 0.5, 0.75, 0.25])


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_without_noise_are_right(name):
    world = WORLDS[name]()
    prompts = world.prompts(200, generator())
    clean = world.demonstrations(prompts, generator(1), noise=0.0)
    noisy = world.demonstrations(prompts, generator(1), noise=0.5)
    assert world.reward(prompts, clean.tokens).mean() == 1.0
    assert world.reward(prompts, noisy.tokens).mean() < 0.8
    for tokens, mask in (clean, noisy):
        assert ((tokens == world.eos).sum(1) == 1).all()
        assert torch.equal(mask, (tokens != world.pad).float())
        assert tokens.shape[1] <= world.max_new_tokens
    assert torch.equal(world.encode(world.numbers(prompts)), prompts)


def test_clock_sum_demonstrations_have_the_asked_share_of_thinking():
    world = ClockSum()
    prompts = world.prompts(2000, generator())
    tokens, _ = world.demonstrations(prompts, generator(1), think=0.4, noise=0.0)
    thinks = world.thinks(tokens)
    assert 0.35 < thinks.float().mean() < 0.45
    rewards, is_step = world.step_rewards(prompts, tokens)
    assert torch.equal(is_step.sum(1), thinks * 5.0)
    assert torch.equal(rewards, is_step)


# ---------------------------------------------------------------- the exact world


def test_exact_world_lists_every_reply_once():
    world = ExactWorld("ab", 3)
    assert len(world.texts) == len(set(world.texts)) == 15
    assert {"<eos>", "a <eos>", "b a <eos>", "a b a"} <= set(world.texts)
    assert torch.equal(world.index(world.tokens), torch.arange(15))
    three = ExactWorld("abc", 2)
    assert len(three.texts) == 1 + 3 + 9
    for policy in (TablePolicy(world, seed=1), world.transformer(seed=1)):
        assert torch.allclose(world.logprobs(policy).exp().sum(1), torch.ones(2), atol=1e-5)


def test_exact_probabilities_are_those_of_the_sampler():
    world = ExactWorld("ab", 3)
    n = 20_000
    for policy in (TablePolicy(world, seed=2), world.transformer(seed=2)):
        exact = world.logprobs(policy).detach()
        prompts = world.prompts.repeat_interleave(n, dim=0)
        replies = sample(policy, prompts, 3, generator=generator(0))
        number = world.index(replies.tokens)
        drawn = exact.repeat_interleave(n, dim=0).gather(1, number[:, None]).squeeze(1)
        assert torch.allclose(replies.logprobs.sum(1), drawn, atol=1e-5)
        for m in range(2):
            share = torch.bincount(number[m * n : (m + 1) * n], minlength=15) / n
            p = exact[m].exp()
            assert ((share - p).abs() < 4.5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


def test_table_policy_can_hold_any_distribution():
    world = ExactWorld("ab", 3)
    wanted = torch.log_softmax(world.random_rewards(seed=3, scale=2.0), dim=-1)
    policy = TablePolicy.from_logprobs(world, wanted)
    assert torch.allclose(world.logprobs(policy), wanted, atol=1e-5)


def test_optimal_policy_beats_every_other_one():
    world = ExactWorld("ab", 3)
    reference = world.logprobs(TablePolicy(world, seed=4)).detach()
    rewards, beta = world.random_rewards(seed=5), 0.5

    def objective(logprobs):
        return expectation(logprobs, rewards) - beta * exact_kl(logprobs, reference)

    best, log_z = optimal_policy(reference, rewards, beta)
    assert torch.allclose(best.exp().sum(1), torch.ones(2), atol=1e-5)
    assert torch.allclose(objective(best), beta * log_z, atol=1e-5)  # its value is beta log Z
    for seed in range(20):
        other = torch.log_softmax(best + 0.3 * world.random_rewards(seed), dim=-1)
        assert (objective(other) < objective(best)).all()
    policy = TablePolicy.from_logprobs(world, best)
    gradient = exact_gradient(objective(world.logprobs(policy)).sum(), policy)
    assert gradient.abs().max() < 1e-5


def test_exact_gradient_agrees_with_finite_differences():
    world = ExactWorld("ab", 2)
    policy = TablePolicy(world, seed=1).double()
    rewards = world.random_rewards(seed=2).double()

    def objective():
        return expectation(world.logprobs(policy), rewards).sum()

    gradient = exact_gradient(objective(), policy)
    assert gradient.abs().max() > 0.01
    flat, h = policy.logits.data.view(-1), 1e-5
    for i in range(len(flat)):
        old = flat[i].item()
        flat[i] = old + h
        high = objective().item()
        flat[i] = old - h
        low = objective().item()
        flat[i] = old
        assert (high - low) / (2 * h) == pytest.approx(gradient[i].item(), abs=1e-8)


def test_kl_and_preferences_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert exact_kl(p, q).item() == pytest.approx(0.5 * 0.6931472 + 0.5 * -0.4054651, abs=1e-6)
    assert exact_kl(q, p).item() == pytest.approx(0.25 * -0.6931472 + 0.75 * 0.4054651, abs=1e-6)
    assert exact_kl(p, p).item() == 0.0
    wins = preference_probabilities(torch.tensor([[0.0, 1.0986123]]))
    assert wins[0].tolist() == [pytest.approx([0.5, 0.25]), pytest.approx([0.75, 0.5])]


def hub_like_tokenizer():
    """A tokenizer as a hub model brings it: other ids, many other words."""
    words = [f"word{i}" for i in range(40)]
    return make_tokenizer([*words[:25], *"0123456789", *words[25:], ">", "=", "<"])


@pytest.mark.parametrize("make_world", [ClockSum, Sort], ids=["clock sum", "sort"])
def test_a_world_speaks_the_tokens_of_the_model_in_use(make_world):
    tokenizer = hub_like_tokenizer()
    world = make_world(digits=4, tokenizer=tokenizer)
    assert world.zero != make_world(digits=4).zero
    prompts = world.encode(torch.tensor([[3, 1, 4, 1]]))
    assert world.text(prompts) == ["3 1 4 1 ="]
    assert prompts.tolist()[0] == tokenizer("3 1 4 1 =")["input_ids"]
    right, _ = world.demonstrations(prompts, generator(), noise=0.0)
    assert world.reward(prompts, right).tolist() == [1.0]
    model = other_architectures(tokenizer)[1]  # a second architecture on the same tokens
    assert 0.0 <= evaluate(model, world, 16).accuracy <= 1.0


def test_a_world_says_what_a_tokenizer_lacks():
    with pytest.raises(ValueError, match="'<' is one token"):
        ClockSum(tokenizer=make_tokenizer([*"0123456789", "="]))
    with pytest.raises(ValueError, match="consecutive"):
        Sort(tokenizer=make_tokenizer([*"1234567890", "="]))
