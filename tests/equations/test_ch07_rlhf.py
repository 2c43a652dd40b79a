"""Numerical tests of the labelled equations of chapter 7, on an exact world: every reply is enumerated."""

import math

import pytest
import torch

from rlcourse.lm import token_logprobs
from rlcourse.lm.exact import ExactWorld, TablePolicy, exact_gradient, exact_kl, expectation
from solutions.ch06_ppo import clipped_surrogate
from solutions.ch07_rlhf import (
    last_token_scores,
    masked_mean,
    masked_whiten,
    reward_model_loss,
    sft_loss,
    token_gae,
    token_rewards,
)

BETA = 0.5
WORLD = ExactWorld(letters="ab", max_length=3)
PROMPTS, TOKENS, MASK = WORLD.everything()  # (30, 1), (30, 3), (30, 3)
MASK = MASK.double()
SCORES = WORLD.random_rewards(seed=0).double()  # (2, 15)
POLICY, REFERENCE = TablePolicy(WORLD, seed=2).double(), TablePolicy(WORLD, seed=1, scale=0.5).double()
LOGPROBS = token_logprobs(POLICY, PROMPTS, TOKENS).detach()  # (30, 3)
REF_LOGPROBS = token_logprobs(REFERENCE, PROMPTS, TOKENS).detach()
GENERATOR = torch.Generator().manual_seed(0)


def whole(policy):
    """log-probabilities of whole replies, (2, 15)."""
    return WORLD.logprobs(policy).double()


def objective(logprobs):
    """E[score] - beta KL(pi || ref), the mean over the prompts."""
    return (expectation(logprobs, SCORES) - BETA * exact_kl(logprobs, whole(REFERENCE))).mean()


def some_replies(n=20):
    """Values and masks of n replies of 1 to 5 tokens."""
    values = torch.randn(n, 5, generator=GENERATOR, dtype=torch.float64)
    lengths = torch.randint(1, 6, (n, 1), generator=GENERATOR)
    return values, (torch.arange(5) < lengths).double()


@pytest.mark.equation("eq-rlhf-objective")
def test_the_objective_is_smaller_than_the_score_and_equal_at_the_reference():
    at_reference = objective(whole(REFERENCE))
    assert at_reference.item() == pytest.approx(expectation(whole(REFERENCE), SCORES).mean().item())
    assert objective(whole(POLICY)) < expectation(whole(POLICY), SCORES).mean()
    # its maximum is beta log Z (chapter 8); 500 random policies stay below it
    log_z = torch.log((whole(REFERENCE).exp() * torch.exp(SCORES / BETA)).sum(1)).mean()
    values = [objective(whole(TablePolicy(WORLD, seed=s).double())) for s in range(500)]
    assert max(values) < BETA * log_z


@pytest.mark.equation("eq-rlhf-reward")
def test_token_rewards_add_up_to_the_objective():
    """E over all replies of the sum of token rewards is E[score] - beta KL, exactly."""
    rewards = token_rewards(SCORES.flatten(), LOGPROBS, REF_LOGPROBS, MASK, BETA)
    per_reply = rewards.sum(1).view(2, 15)
    expected = (whole(POLICY).exp() * per_reply).sum(1).mean()
    assert expected.item() == pytest.approx(objective(whole(POLICY)).item(), rel=1e-5)


@pytest.mark.equation("eq-masked-mean")
def test_masked_mean_is_the_mean_of_what_is_left_in():
    values, mask = some_replies()
    pairs = zip(values.flatten().tolist(), mask.flatten().tolist(), strict=True)
    kept = [v for v, counts in pairs if counts]
    assert masked_mean(values, mask).item() == pytest.approx(sum(kept) / len(kept))


@pytest.mark.equation("eq-sft")
def test_sft_minimises_the_forward_kl_to_the_demonstrator():
    """Weighted with the demonstrator's probabilities, the loss per token is (KL + entropy) / length."""
    demonstrator = whole(REFERENCE).exp()  # (2, 15)
    ids = torch.cat([PROMPTS, TOKENS], 1)  # (30, 4)
    reply = torch.cat([torch.zeros_like(PROMPTS), MASK], 1)
    logits = POLICY(ids[:, :-1]).logits
    logits = torch.cat([logits, torch.zeros_like(logits[:, :1])], 1)  # the last column predicts nothing
    losses = torch.stack([sft_loss(logits[i : i + 1], ids[i : i + 1], reply[i : i + 1]) for i in range(30)])
    nll = (losses * MASK.sum(1)).view(2, 15)  # minus the log-likelihood of whole replies
    cross_entropy = (demonstrator * nll).sum(1)
    entropy = -(demonstrator * demonstrator.log()).sum(1)
    forward_kl = exact_kl(whole(REFERENCE), whole(POLICY))
    assert cross_entropy.tolist() == pytest.approx((forward_kl + entropy).tolist(), rel=1e-5)


@pytest.mark.equation("eq-bradley-terry")
def test_bradley_terry_is_a_race_of_noisy_utilities():
    """If each reply's utility is its score plus Gumbel noise, the first wins with probability sigma(gap)."""
    noise = -torch.log(-torch.log(torch.rand(2, 400_000, generator=GENERATOR, dtype=torch.float64)))
    for gap in (0.0, 1.0, -2.0):
        wins = (gap + noise[0] > noise[1]).double().mean().item()
        assert wins == pytest.approx(1 / (1 + math.exp(-gap)), abs=0.004)
    # as odds: the strengths e^score of the two against each other
    assert math.exp(1.2) / (math.exp(1.2) + math.exp(0.2)) == pytest.approx(1 / (1 + math.exp(-1.0)))


@pytest.mark.equation("eq-rm-loss")
def test_all_preferences_give_back_the_scores_up_to_a_constant():
    """The loss over all pairs, weighted as a rater would make them, is minimal at the true scores."""
    true = SCORES[0]
    weight = torch.sigmoid(true[:, None] - true[None, :])  # (15, 15): row preferred to column
    i, j = torch.triu_indices(15, 15, offset=1)

    def population(scores):
        pairs = list(zip(scores[i].split(1), scores[j].split(1), strict=True))
        one = torch.stack([reward_model_loss(a, b) for a, b in pairs])
        other = torch.stack([reward_model_loss(b, a) for a, b in pairs])
        return (weight[i, j] * one + weight[j, i] * other).mean()

    x = (true + 7.0).requires_grad_()  # a constant makes no difference
    best = population(x)
    best.backward()
    assert x.grad.abs().max() < 1e-10
    for _ in range(5):
        assert population(true + torch.randn(15, generator=GENERATOR, dtype=torch.float64)) > best


@pytest.mark.equation("eq-reply-score")
def test_the_score_is_read_where_the_mask_ends():
    values, mask = some_replies()
    want = [
        [v for v, k in zip(row, m, strict=True) if k][-1]
        for row, m in zip(values.tolist(), mask.tolist(), strict=True)
    ]
    assert last_token_scores(values, mask).tolist() == pytest.approx(want)


@pytest.mark.equation("eq-token-gae")
@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (1.0, 0.0), (1.0, 0.95), (0.9, 0.5)])
def test_token_gae_is_the_weighted_sum_of_td_errors(gamma, lam):
    rewards, mask = some_replies()
    values = torch.randn(rewards.shape, generator=GENERATOR, dtype=torch.float64)
    advantages, targets = token_gae(rewards * mask, values, mask, gamma, lam)
    for b, length in enumerate(mask.sum(1).long().tolist()):
        r, v = rewards[b, :length].tolist(), values[b, :length].tolist() + [0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            want = sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:]))
            if lam == 1.0:
                want = sum(gamma**k * x for k, x in enumerate(r[t:])) - v[t]  # return minus value
            assert advantages[b, t].item() == pytest.approx(want)
            assert targets[b, t].item() == pytest.approx(want + v[t])
        assert advantages[b, length:].abs().sum() == 0


@pytest.mark.equation("eq-masked-whiten")
def test_whitened_advantages_have_mean_0_and_deviation_1():
    advantages, mask = some_replies()
    got = masked_whiten(10 + 3 * advantages, mask)
    kept = got[mask.bool()]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-9)
    assert kept.square().mean().item() == pytest.approx(1.0)
    assert got[~mask.bool()].abs().sum() == 0


@pytest.mark.equation("eq-rlhf-ppo")
def test_at_the_sampling_policy_the_surrogate_has_the_gradient_of_the_objective():
    """With lambda 1 and any critic, summed over tokens and all replies: exactly the gradient of J."""
    policy = TablePolicy(WORLD, seed=2).double()
    logprobs = token_logprobs(policy, PROMPTS, TOKENS)
    rewards = token_rewards(SCORES.flatten(), LOGPROBS, REF_LOGPROBS, MASK, BETA)
    prefixes = [tuple(row) for row in torch.cat([PROMPTS, TOKENS], 1).tolist()]
    values = torch.tensor([[math.sin(hash(p[: t + 1])) for t in range(3)] for p in prefixes])
    advantages, _ = token_gae(rewards, values.double(), MASK, 1.0, 1.0)
    surrogate = clipped_surrogate(logprobs, LOGPROBS, advantages, 0.2) * MASK  # (30, 3), ratio 1
    weight = whole(policy).detach().exp().flatten() / 2  # probability of each prompt and reply
    got = exact_gradient((weight * surrogate.sum(1)).sum(), policy)
    want = exact_gradient(objective(whole(policy)), policy)
    assert got.tolist() == pytest.approx(want.tolist(), abs=1e-6)
