"""Numerical tests of the labelled equations of chapter 11; every episode of small worlds is enumerated."""

import itertools
import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
import torch


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def gradient(scalar, x):
    return torch.autograd.grad(scalar, x, retain_graph=True)[0]


def near(a, b, tolerance=1e-9):
    a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).detach().double()
    return a.shape == b.shape and bool((a - b).abs().max() < tolerance)


def ascend(objective, start):
    """The logits where objective is largest, by LBFGS."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -objective(logits)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits.detach()


# A chain of steps


def chain_success(right, tries):
    """The probability to be absorbed at the end of a chain whose step i is right with right[i]."""
    reached = {(0, 0): Fraction(1)}  # (steps done, failed tries of this step)
    done = Fraction(0)
    while reached:
        (step, failed), mass = reached.popitem()
        if step == len(right):
            done += mass
            continue
        moves = [((step + 1, 0), right[step]), ((step, failed + 1), 1 - right[step])]
        for state, p in moves:
            if state[1] < tries:  # no try left: the chain ends without success
                reached[state] = reached.get(state, Fraction(0)) + mass * p
    return done


@pytest.mark.equation("eq-chain-success")
def test_success_of_a_chain_is_the_product_of_its_steps():
    p = Fraction(19, 20)
    for n, k in itertools.product((1, 2, 10), (1, 2, 3)):
        assert chain_success([p] * n, k) == (1 - (1 - p) ** k) ** n
    assert float(chain_success([p] * 10, 1)) == pytest.approx(0.599, abs=1e-3)
    assert float(chain_success([p] * 10, 2)) == pytest.approx(0.975, abs=1e-3)
    uneven = [Fraction(9, 10), Fraction(1, 2), Fraction(4, 5)]
    assert chain_success(uneven, 1) == math.prod(uneven)


# A rater who reads only the reply: three tool paths, two replies; the outcome depends on the path

REF = tensor([[0.20, 0.10], [0.05, 0.25], [0.30, 0.10]])  # pi_ref(path, reply)
SUCCESS = tensor([[1.0, 1.0], [0.0, 0.0], [0.2, 0.2]])
SCORE = tensor([0.3, 1.5])  # of the reply
BETA = 0.5


@pytest.mark.equation("eq-reply-preference")
def test_a_rater_of_replies_cannot_move_tool_paths_of_one_reply():
    """The optimum reweights replies; given the reply the tool path stays as it was, whatever it leads to."""

    def objective(logits):
        logp = logits.flatten().log_softmax(0).view_as(REF)
        return (logp.exp() * (SCORE - BETA * (logp - REF.log()))).sum()

    best = ascend(objective, REF.log()).flatten().softmax(0).view_as(REF)
    closed = REF * (SCORE / BETA).exp()
    assert near(best, closed / closed.sum(), 1e-6)
    assert near(best / best.sum(0), REF / REF.sum(0), 1e-6)  # the path, given the reply
    marginal = best.sum(0)
    assert near((best * SUCCESS).sum(), (marginal * (REF * SUCCESS).sum(0) / REF.sum(0)).sum(), 1e-6)
    assert (best * SUCCESS).sum() < (REF * SUCCESS).sum() - 0.05  # here success even falls


@pytest.mark.equation("eq-reply-preference")
def test_pairs_with_the_same_reply_teach_nothing():
    """Bradley-Terry gives 1/2; at the reference the expected gradient of such pairs is zero."""
    assert torch.sigmoid(SCORE[0] - SCORE[0]) == 0.5
    logits = REF.log().clone().requires_grad_()

    def loss(logits, win):
        z = BETA * (logits.flatten().log_softmax(0).view_as(REF) - REF.log())
        total = 0.0
        for y, a, b in itertools.product(range(2), range(3), range(3)):
            margin = z[a, y] - z[b, y]
            total = total - win(a, b) * torch.nn.functional.logsigmoid(margin)
        return total

    assert near(gradient(loss(logits, lambda a, b: 0.5), logits), torch.zeros_like(REF))
    by_outcome = loss(logits, lambda a, b: torch.sigmoid(SUCCESS[a, 0] - SUCCESS[b, 0]))
    assert gradient(by_outcome, logits).abs().max() > 0.05  # a rater who sees the outcome does teach


# Two-turn episodes: action a in {0, 1}, a tool answers o in {0, 1}, action b in {0, 1}

FIRST = tensor([0.3, -0.4])
SECOND = tensor([[[0.2, -0.1], [1.0, 0.3]], [[-0.5, 0.4], [0.1, 0.9]]])  # [a, o, b]
TOOL = tensor([[0.7, 0.3], [0.4, 0.6]])  # P(o | a)
REWARD = tensor([[[1.0, 0.0], [0.2, 0.9]], [[0.0, 0.6], [1.0, 0.1]]])  # of the whole episode
MU_FIRST, MU_SECOND = tensor([-0.3, 0.5]), tensor([[[0.9, 0.0], [0.1, 0.4]], [[0.3, -0.6], [0.8, 0.0]]])
EPISODES = list(itertools.product(range(2), repeat=3))


def turn_logprobs(first, second, episode):
    """log pi of the two actions of an episode."""
    a, o, b = episode
    return first.log_softmax(0)[a], second.log_softmax(-1)[a, o, b]


def probability(first, second, episode):
    """Of the whole episode: two actions, and the tool's answer between them."""
    p, q = turn_logprobs(first, second, episode)
    return (p + q).exp() * TOOL[episode[0], episode[1]]


def policies():
    return FIRST.clone().requires_grad_(), SECOND.clone().requires_grad_()


def exact_gradient(advantage):
    first, second = policies()
    value = sum(probability(first, second, e) * advantage[e] for e in EPISODES)
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, (first, second))])


def estimated_gradient(advantage, weight):
    """E over the logged policy of sum over policy tokens of weight * advantage * grad log pi."""
    first, second = policies()
    total = 0.0
    for e in EPISODES:
        now, then = turn_logprobs(first, second, e), turn_logprobs(MU_FIRST, MU_SECOND, e)
        ratios = [(p - q).exp().detach() for p, q in zip(now, then, strict=True)]
        score = sum(w * logprob for w, logprob in zip(weight(ratios), now, strict=True))
        total = total + probability(MU_FIRST, MU_SECOND, e) * advantage[e] * score
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, (first, second))])


def sequence(ratios, cap=math.inf):
    """The whole episode's weight at each of its policy tokens."""
    return [min(math.prod(r.item() for r in ratios), cap)] * len(ratios)


@pytest.mark.equation("eq-off-policy")
def test_the_sequence_weight_gives_the_gradient_on_average():
    """Whole-episode weights: exact, with any baseline. Token weights, no weights, or a cap: not."""
    exact = exact_gradient(REWARD)
    for baseline in (0.0, 0.4):
        assert near(estimated_gradient(REWARD - baseline, sequence), exact)

    def error(weight):
        return ((estimated_gradient(REWARD - 0.4, weight) - exact).norm() / exact.norm()).item()

    assert error(lambda ratios: ratios) == pytest.approx(0.607, abs=1e-3)  # a token's own ratio
    assert error(lambda ratios: [1.0, 1.0]) == pytest.approx(0.994, abs=1e-3)  # as if on-policy
    capped = [error(lambda ratios, cap=cap: sequence(ratios, cap)) for cap in (1.0, 2.0, 3.0)]
    assert capped == sorted(capped, reverse=True)
    assert capped == pytest.approx([0.476, 0.170, 0.028], abs=1e-3)


@pytest.mark.equation("eq-token-weight")
def test_the_token_weight_corrects_the_choice_but_not_the_history():
    """E_mu[w f] has the action from pi, the history from mu; with a cap pi becomes min(pi, cap mu)."""
    f = REWARD
    for a, o in itertools.product(range(2), repeat=2):
        pi, mu = SECOND[a, o].softmax(0), MU_SECOND[a, o].softmax(0)
        assert near((mu * (pi / mu) * f[a, o]).sum(), (pi * f[a, o]).sum())
        for cap in (0.8, 1.1, 3.0):
            weight = (pi / mu).clamp(max=cap)
            assert near((mu * weight * f[a, o]).sum(), (torch.minimum(pi, cap * mu) * f[a, o]).sum())
    truth = sum(probability(FIRST, SECOND, e) * f[e] for e in EPISODES)
    for turn, mixture in ((0, (FIRST, MU_SECOND)), (1, (MU_FIRST, SECOND))):  # history and sequel from mu
        weighted = mixed = 0.0
        for e in EPISODES:
            now, then = turn_logprobs(FIRST, SECOND, e), turn_logprobs(MU_FIRST, MU_SECOND, e)
            weighted += probability(MU_FIRST, MU_SECOND, e) * (now[turn] - then[turn]).exp() * f[e]
            mixed += probability(*mixture, e) * f[e]
        assert near(weighted, mixed)
        assert abs(weighted - truth) > 0.005


@pytest.mark.equation("eq-sequence-weight")
def test_the_sequence_weight_turns_one_expectation_into_the_other():
    """The tool's probabilities cancel; the mean weight is 1, and with a cap the sum of min(pi, cap mu)."""
    pi = [probability(FIRST, SECOND, e).item() for e in EPISODES]
    mu = [probability(MU_FIRST, MU_SECOND, e).item() for e in EPISODES]
    weights = []
    for e in EPISODES:
        now, then = turn_logprobs(FIRST, SECOND, e), turn_logprobs(MU_FIRST, MU_SECOND, e)
        weights.append(math.prod((p - q).exp().item() for p, q in zip(now, then, strict=True)))
    assert weights == pytest.approx([p / q for p, q in zip(pi, mu, strict=True)])
    reward = [REWARD[e].item() for e in EPISODES]
    assert np.dot(mu, weights) == pytest.approx(1.0)
    assert np.dot(mu, np.multiply(weights, reward)) == pytest.approx(np.dot(pi, reward))
    for cap in (0.5, 1.0, 1.5):
        capped = np.dot(mu, np.minimum(weights, cap))
        assert capped == pytest.approx(np.minimum(pi, cap * np.array(mu)).sum())
        assert capped < 1


@pytest.mark.equation("eq-sequence-weight")
def test_the_variance_of_the_product_grows_with_the_length():
    """E[w^2] of n equal turns is that of one turn to the n-th power; the cap bounds it by cap times E[w]."""
    pi, mu = np.array([0.6, 0.4]), np.array([0.5, 0.5])
    one = (pi**2 / mu).sum()  # 1.04
    for n in (1, 4, 10):
        second = capped = 0.0
        for actions in itertools.product(range(2), repeat=n):
            p, q = math.prod(pi[list(actions)]), math.prod(mu[list(actions)])
            second += q * (p / q) ** 2
            capped += q * min(p / q, 2.0) ** 2
        assert second == pytest.approx(one**n)
        assert capped <= 2.0
    assert one**100 == pytest.approx(50.5, abs=0.1)


# DPO on episodes


def masked_and_full(first, second):
    """log pi / pi_ref of each episode: over the policy's tokens, and of the whole episode's probability."""
    own = {
        e: sum(turn_logprobs(first, second, e)) - sum(turn_logprobs(MU_FIRST, MU_SECOND, e)) for e in EPISODES
    }
    full = {e: (probability(first, second, e) / probability(MU_FIRST, MU_SECOND, e)).log() for e in EPISODES}
    return own, full


@pytest.mark.equation("eq-trajectory-dpo")
def test_what_the_tools_say_cancels_in_the_log_ratio():
    """The sum over policy tokens is log pi(episode) / pi_ref(episode), tools included."""
    own, full = masked_and_full(FIRST, SECOND)
    for e in EPISODES:
        assert near(own[e], full[e])


@pytest.mark.equation("eq-trajectory-dpo")
def test_with_tools_that_always_answer_the_same_the_minimum_is_the_regularised_optimum():
    """Bradley-Terry pairs by the episode's reward; o = a. The model's own log-ratio at o would shift it."""
    reward = torch.stack([REWARD[a, a] for a in range(2)])  # [a, b]
    ref = MU_FIRST.log_softmax(0)[:, None] + torch.stack([MU_SECOND[a, a] for a in range(2)]).log_softmax(1)
    best = (ref + reward / BETA).flatten().log_softmax(0).view(2, 2)

    def loss(logp, tool=None):
        z = BETA * (logp - ref + (0.0 if tool is None else tool[:, None])).flatten()
        prefer = torch.sigmoid(reward.flatten()[:, None] - reward.flatten()[None])
        return -(prefer * torch.nn.functional.logsigmoid(z[:, None] - z[None])).sum()

    logp = best.clone().requires_grad_()
    assert near(gradient(loss(logp.flatten().log_softmax(0).view(2, 2)), logp), torch.zeros(2, 2))
    found = ascend(lambda x: -loss(x.flatten().log_softmax(0).view(2, 2)), ref)
    assert near(found.flatten().log_softmax(0).view(2, 2), best, 1e-5)
    tool = tensor([0.5, -0.3])  # log pi / pi_ref that the model itself gives to the tool's tokens
    shifted = gradient(loss(logp.flatten().log_softmax(0).view(2, 2), tool), logp)
    assert shifted.abs().max() > 0.01


@pytest.mark.equation("eq-trajectory-dpo")
def test_with_tools_that_answer_at_random_the_minimum_is_another_policy():
    """The luck of the tool's answer is in the pairs too: the minimum misses the regularised optimum."""
    start = torch.cat([MU_FIRST, MU_SECOND.flatten()])

    def log_ratios(x):
        first, second = x[:2], x[2:].view(2, 2, 2)
        return torch.stack(list(masked_and_full(first, second)[0].values()))

    def objective(x):
        p = torch.stack([probability(x[:2], x[2:].view(2, 2, 2), e) for e in EPISODES])
        return (p * (REWARD.flatten() - BETA * log_ratios(x))).sum()

    def likelihood(x):
        z, r = BETA * log_ratios(x), REWARD.flatten()
        both = reference[:, None] * reference[None] * torch.sigmoid(r[:, None] - r[None])
        return (both * torch.nn.functional.logsigmoid(z[:, None] - z[None])).sum()

    reference = torch.stack([probability(MU_FIRST, MU_SECOND, e) for e in EPISODES])
    best, by_pairs = objective(ascend(objective, start)), objective(ascend(likelihood, start))
    assert best.item() == pytest.approx(0.683, abs=1e-3)
    assert by_pairs.item() == pytest.approx(0.669, abs=1e-3)
    assert objective(start).item() == pytest.approx(0.557, abs=1e-3)


# One round of rejection sampling


@pytest.mark.equation("eq-rejection-sft")
def test_the_likeliest_policy_of_logged_successes():
    """mu times success over its mean; the new success rate is E[s^2] / E[s], per question."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    mu = mu / mu.sum(1, keepdim=True)  # mu(episode | question)
    s = torch.rand(3, 5, generator=generator, dtype=torch.float64)  # the chance that it succeeds
    s[2] = tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    logits = ascend(lambda x: (mu * s * x.log_softmax(1)).sum(), torch.zeros(3, 5, dtype=torch.float64))
    found, rate = logits.softmax(1), (mu * s).sum(1)
    assert near(found, mu * s / rate[:, None], 1e-4)
    new = (mu * s / rate[:, None] * s).sum(1)
    assert near(new, (mu * s**2).sum(1) / rate)
    variance = (mu * s**2).sum(1) - rate**2
    assert near(new - rate, variance / rate)  # the gain is Var(s) / E(s)
    assert new[2].item() == pytest.approx(1.0)  # what succeeds for sure, or never
    same = tensor([[0.4] * 5])
    assert near((mu[:1] * same**2).sum(1) / (mu[:1] * same).sum(1), same[0, :1])  # luck only: no gain


# Outcomes that nobody saw


def moments(n, rate, seen_success, seen_failure, estimate):
    """The mean of an estimate over all numbers of observed successes and failures, where it is a number."""
    p, q = rate * seen_success, (1 - rate) * seen_failure
    total = mass = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            weight = math.comb(n, a) * math.comb(n - a, b) * p**a * q**b * (1 - p - q) ** (n - a - b)
            if (value := estimate(a, b)) is not None:
                total, mass = total + weight * value, mass + weight
    return total / mass


@pytest.mark.equation("eq-missing-outcomes")
def test_weights_undo_a_missingness_that_depends_on_the_outcome():
    """Half succeed, successes are seen with 0.2, failures with 0.8: the mean says 0.2, the weights 0.5."""
    rate, high, low = 0.5, 0.2, 0.8
    naive = moments(60, rate, high, low, lambda a, b: a / (a + b) if a + b else None)
    assert naive == pytest.approx(0.2, abs=1e-3)

    def normalised(a, b):
        return (a / high) / (a / high + b / low) if a + b else None

    bias = [moments(n, rate, high, low, normalised) - rate for n in (40, 80, 160)]
    assert abs(bias[2]) < 0.01
    assert bias[0] / bias[1] == pytest.approx(2.0, abs=0.2)  # it falls like 1 / n
    assert bias[1] / bias[2] == pytest.approx(2.0, abs=0.2)
    for n in (1, 5, 20):  # divided by n instead of the sum of weights: exact for every n
        assert moments(n, rate, high, low, lambda a, b, n=n: a / high / n) == pytest.approx(rate)
    missing_as_zero = moments(60, rate, high, low, lambda a, b: a / 60)
    assert missing_as_zero == pytest.approx(0.1)


# The gate


def admission(n, gain, loss, margin, confidence=0.95):
    """The exact probability of admission; a question is newly solved with `gain`, lost with `loss`."""
    z, total = NormalDist().inv_cdf(confidence), 0.0
    for g in range(n + 1):
        for l in range(n + 1 - g):
            mean = (g - l) / n
            s = math.sqrt(max((g + l - n * mean**2) / (n - 1), 0.0))
            if mean - z * s / math.sqrt(n) >= -margin - 1e-12:
                log_weight = math.lgamma(n + 1) - math.lgamma(g + 1) - math.lgamma(l + 1)
                log_weight += -math.lgamma(n - g - l + 1) + g * math.log(gain) + l * math.log(loss)
                total += math.exp(log_weight + (n - g - l) * math.log(1 - gain - loss))
    return total


@pytest.mark.equation("eq-admission")
def test_a_policy_worse_by_the_margin_is_rarely_admitted():
    """At the edge about 5%, less beyond it, most of the time if the new policy is better."""
    for n in (100, 200):
        assert admission(n, 0.10, 0.15, 0.05) == pytest.approx(0.05, abs=0.005)
        assert admission(n, 0.10, 0.20, 0.05) < 0.01
        assert admission(n, 0.15, 0.10, 0.05) > 0.6
    assert admission(200, 0.10, 0.15, 0.05, 0.99) == pytest.approx(0.01, abs=0.006)


@pytest.mark.equation("eq-admission")
def test_with_few_questions_the_promise_does_not_hold():
    """Ten questions: a policy that loses one in ten shows no loss with probability 0.35, and passes."""
    assert admission(10, 1e-12, 0.1, 0.05) == pytest.approx(0.9**10, abs=1e-6)
