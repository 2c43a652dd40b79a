"""Numerical tests of the labelled equations of chapter 9; groups of replies are enumerated."""

import itertools
import math

import pytest
import torch

P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # a policy over three replies
REF = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
G = 3


def leaf():
    return P.log().clone().requires_grad_()


def gradient(scalar, logits):
    return torch.autograd.grad(scalar, logits, retain_graph=True)[0]


def exact_gradient():
    logits = leaf()
    return gradient((logits.softmax(0) * REWARDS).sum(), logits)


def mean_estimate(advantage):
    """E over all groups of the mean of advantage times score."""
    logits, total = leaf(), torch.zeros(3, dtype=torch.float64)
    scores = [gradient(logits.log_softmax(0)[a], logits) for a in range(3)]
    for group in itertools.product(range(3), repeat=G):
        probability = math.prod(P[a].item() for a in group)
        rewards = [REWARDS[a].item() for a in group]
        for i, a in enumerate(group):
            total += probability * advantage(rewards, i) * scores[a] / G
    return total


def close(a, b, tolerance=1e-8):
    return torch.as_tensor(a).double().flatten().tolist() == pytest.approx(
        torch.as_tensor(b).double().flatten().tolist(), abs=tolerance
    )


@pytest.mark.equation("eq-grpo-objective")
def test_on_policy_the_objective_has_the_gradient_of_reinforce():
    """At pi = pi_old all ratios are 1: the clipped objective and ratio-free REINFORCE have one gradient."""
    logits, advantages = leaf(), torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    ratio = (logprobs - logprobs.detach()).exp()
    objective = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    reinforce = (logprobs * advantages).mean()
    assert close(gradient(objective, logits), gradient(reinforce, logits))


@pytest.mark.equation("eq-grpo-outcome")
def test_outcome_advantages_have_mean_zero_and_unit_std():
    rewards = [0.0, 1.0, 1.0, 4.0]
    mean = sum(rewards) / 4
    std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 3)
    advantages = [(r - mean) / std for r in rewards]
    assert sum(advantages) == pytest.approx(0.0)
    assert sum(a * a for a in advantages) / 3 == pytest.approx(1.0)
    shifted = [((2 * r + 5) - (2 * mean + 5)) / (2 * std) for r in rewards]
    assert shifted == pytest.approx(advantages)  # scale and offset of the reward do not matter


@pytest.mark.equation("eq-std-weight")
@pytest.mark.parametrize("p, want", [(0.02, 7.0), (0.1, 3.0), (0.5, 1.0), (0.9, 1 / 3), (0.98, 1 / 7)])
def test_the_std_gives_hard_and_easy_prompts_other_weights(p, want):
    """A large group with success rate p: the advantage of a right reply is sqrt((1 - p) / p)."""
    n = 10_000
    rewards = torch.zeros(n, dtype=torch.float64)
    rewards[: int(p * n)] = 1.0
    advantage = (1.0 - rewards.mean()) / rewards.std(correction=0)
    assert advantage.item() == pytest.approx(want, rel=1e-3)
    assert advantage.item() == pytest.approx(math.sqrt((1 - p) / p), rel=1e-3)


@pytest.mark.equation("eq-rloo")
def test_leave_one_out_is_unbiased():
    def rloo(rewards, i):
        others = rewards[:i] + rewards[i + 1 :]
        return rewards[i] - sum(others) / len(others)

    assert close(mean_estimate(rloo), exact_gradient())


@pytest.mark.equation("eq-group-mean-factor")
def test_the_group_mean_shrinks_the_gradient_and_the_std_turns_it():
    centred = mean_estimate(lambda rewards, i: rewards[i] - sum(rewards) / G)
    assert close(centred, exact_gradient() * (G - 1) / G)


@pytest.mark.equation("eq-kl-estimators")
def test_values_of_the_estimators():
    kl = (P * (P / REF).log()).sum()
    d = (REF / P).log()
    assert close((P * -d).sum(), kl)
    assert close((P * (d.exp() - 1 - d)).sum(), kl)
    assert abs((P * d.square() / 2).sum() - kl) > 0.001  # k2 is biased
    assert (d.exp() - 1 - d >= 0).all()


@pytest.mark.equation("eq-kl-gradients")
def test_gradients_of_the_estimators():
    """As losses: k1 gives nothing, k2 the gradient of KL(pi || ref), k3 that of KL(ref || pi)."""
    logits = leaf()
    p = logits.softmax(0)
    d = REF.log() - logits.log_softmax(0)

    def mean_gradient(estimate):
        return sum(P[a] * gradient(estimate[a], logits) for a in range(3))

    reverse = gradient((p * (p.log() - REF.log())).sum(), logits)
    forward = gradient((REF * (REF.log() - p.log())).sum(), logits)
    assert close(mean_gradient(-d), torch.zeros(3))
    assert close(mean_gradient(d.square() / 2), reverse)
    assert close(mean_gradient(d.exp() - 1 - d), forward)
    assert not close(reverse, forward, 1e-3)


@pytest.mark.equation("eq-grpo-clip")
@pytest.mark.parametrize("ratio, advantage, slope", [
    (0.7, 1.0, 0.7), (1.0, 1.0, 1.0), (1.5, 1.0, 0.0), (0.7, -1.0, 0.0), (1.0, -1.0, -1.0), (1.5, -1.0, -1.5),
])  # fmt: skip
def test_the_clip_stops_the_gradient_in_two_of_six_regions(ratio, advantage, slope):
    x = torch.tensor(math.log(ratio), dtype=torch.float64, requires_grad=True)
    objective = torch.minimum(x.exp() * advantage, x.exp().clamp(0.8, 1.28) * advantage)
    assert gradient(objective, x).item() == pytest.approx(slope)


@pytest.mark.equation("eq-process-reward")
def test_step_rewards_of_a_group_are_standardised_together():
    replies = [[1.0, 0.0], [1.0], [0.0, 0.0, 1.0]]
    flat = [r for reply in replies for r in reply]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((r - mean) ** 2 for r in flat) / len(flat))
    scaled = [(r - mean) / std for r in flat]
    assert sum(scaled) == pytest.approx(0.0)
    assert sum(x * x for x in scaled) / len(scaled) == pytest.approx(1.0)


@pytest.mark.equation("eq-process-advantage")
def test_a_token_answers_for_the_steps_that_end_at_or_after_it():
    ends, scaled = [1, 3], [2.0, -5.0]  # two steps, tokens 0-1 and 2-3
    advantages = [sum(r for e, r in zip(ends, scaled, strict=True) if e >= t) for t in range(4)]
    assert advantages == [-3.0, -3.0, -5.0, -5.0]


@pytest.mark.equation("eq-aggregate")
def test_the_weight_of_one_token():
    """Two replies of 2 and 8 tokens, all losses 1 in the long one: what each rule gives."""
    long, short, limit = 8, 2, 10
    sequence = (8 / long + 0 / short) / 2
    token = 8 / (long + short)
    constant = 8 / (2 * limit)
    assert (sequence, token, constant) == (0.5, 0.8, 0.4)
    # the gradient weight of one token of the long reply against one of the short reply
    assert (1 / (2 * long)) / (1 / (2 * short)) == pytest.approx(short / long)


@pytest.mark.equation("eq-overlong")
@pytest.mark.parametrize("length, want", [(10, 0.0), (16, 0.0), (18, -0.5), (20, -1.0), (30, -1.0)])
def test_overlong_penalty(length, want):
    limit, buffer = 20, 4
    if length <= limit - buffer:
        penalty = 0.0
    elif length <= limit:
        penalty = (limit - buffer - length) / buffer
    else:
        penalty = -1.0
    assert penalty == want
    assert penalty == max(-1.0, min(0.0, (limit - buffer - length) / buffer))


@pytest.mark.equation("eq-gspo")
def test_the_sequence_ratio_is_a_geometric_mean():
    new, old = [0.5, 0.2, 0.9], [0.25, 0.4, 0.9]
    ratios = [a / b for a, b in zip(new, old, strict=True)]
    by_definition = (math.prod(new) / math.prod(old)) ** (1 / 3)
    assert by_definition == pytest.approx(math.prod(ratios) ** (1 / 3))
    assert by_definition == pytest.approx(1.0)


@pytest.mark.equation("eq-cispo")
def test_cispo_keeps_the_gradient_beyond_the_edge():
    x = torch.tensor(-0.1, dtype=torch.float64, requires_grad=True)
    ratio = (x + 2.0).exp()  # far above the edge
    weight = ratio.clamp(max=5.0).detach()
    assert gradient(weight * 3.0 * x, x).item() == pytest.approx(5.0 * 3.0)
    assert gradient(ratio.clamp(max=5.0) * 3.0, x).item() == 0.0
