"""Graders of chapter 9."""

import math

import torch

from rlcourse.grading.expect import expect_close, expect_raises, expect_shape, expect_unchanged

EXERCISES = {
    "group_advantages": {
        "title": "The advantage of a reply in its group",
        "difficulty": 2,
        "minutes": 15,
        "points": 15,
        "equation": "eq-grpo-outcome",
    },
    "rloo_advantages": {
        "title": "Leave one out",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-rloo",
    },
    "kl_estimates": {
        "title": "Three estimates of one KL",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-kl-estimators",
    },
    "clipped_losses": {
        "title": "The clipped loss of every token",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-grpo-clip",
    },
    "aggregate": {
        "title": "Token mean, sequence mean, constant",
        "difficulty": 2,
        "minutes": 15,
        "points": 15,
        "equation": "eq-aggregate",
    },
    "process_advantages": {
        "title": "A reward for every step",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": "eq-process-advantage",
    },
    "sequence_ratios": {
        "title": "GSPO: one ratio per reply",
        "difficulty": 3,
        "minutes": 15,
        "points": 10,
        "equation": "eq-gspo",
    },
    "cispo_losses": {
        "title": "CISPO: clip the weight, keep the gradient",
        "difficulty": 3,
        "minutes": 15,
        "points": 10,
        "equation": "eq-cispo",
    },
}


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


# group_advantages


def test_group_advantages_by_hand(group_advantages):
    """Rewards 1 and 3 have mean 2 and sample std sqrt(2); the groups do not mix."""
    got = group_advantages(tensor([1.0, 3.0, 10.0, 30.0]), 2, eps=0.0)
    half = 1 / math.sqrt(2)
    expect_close(got, [-half, half, -half, half], "the advantages of the groups (1, 3) and (10, 30)")


def test_group_advantages_eps(group_advantages):
    """eps is added to the standard deviation, not to the variance."""
    got = group_advantages(tensor([0.0, 2.0]), 2, eps=1.0)
    want = 1 / (math.sqrt(2) + 1)
    expect_close(got, [-want, want], "the advantages of (0, 2) with eps 1")


def test_group_advantages_without_scale(group_advantages):
    """scale=False leaves the rewards minus the group's mean."""
    got = group_advantages(tensor([1.0, 3.0, 0.0, 0.0, 0.0, 4.0]), 3, scale=False)
    want = [-1 / 3, 5 / 3, -4 / 3, -4 / 3, -4 / 3, 8 / 3]
    expect_close(got, want, "the advantages without scale")


def test_group_advantages_equal_rewards(group_advantages):
    """A group whose rewards are all equal gives zeros, not NaN; the rewards are not changed."""
    rewards = tensor([1.0, 1.0, 0.0, 0.0])
    expect_close(group_advantages(rewards, 2), [0.0] * 4, "the advantages of two silent groups")
    expect_unchanged(tensor([1.0, 1.0, 0.0, 0.0]), rewards, "rewards")


# rloo_advantages


def test_rloo_advantages_by_hand(rloo_advantages):
    """Rewards 1, 3, 8: each minus the mean of the other two."""
    got = rloo_advantages(tensor([1.0, 3.0, 8.0]), 3)
    expect_close(got, [-4.5, -1.5, 6.0], "the advantages of 1, 3, 8")


def test_rloo_advantages_keep_groups_apart(rloo_advantages):
    """Two groups of two: the difference to the other reply."""
    got = rloo_advantages(tensor([1.0, 3.0, 10.0, 30.0]), 2)
    expect_close(got, [-2.0, 2.0, -20.0, 20.0], "the advantages of (1, 3) and (10, 30)")


def test_rloo_advantages_baseline_ignores_own_reward(rloo_advantages):
    """Raising one reward by 1 raises its own advantage by exactly 1."""
    a = torch.as_tensor(rloo_advantages(tensor([1.0, 3.0, 8.0]), 3))
    b = torch.as_tensor(rloo_advantages(tensor([2.0, 3.0, 8.0]), 3))
    expect_close((b - a)[0], 1.0, "the change of the first advantage")


def test_rloo_advantages_keep_their_input(rloo_advantages):
    """The rewards are not changed."""
    rewards = tensor([1.0, 3.0, 8.0])
    rloo_advantages(rewards, 3)
    expect_unchanged(tensor([1.0, 3.0, 8.0]), rewards, "rewards")


# kl_estimates


def test_kl_estimates_by_hand(kl_estimates):
    """pi 1/2 and pi_ref 1/4: k1 = log 2, k2 = (log 2)^2 / 2, k3 = 1/2 - 1 + log 2."""
    log2 = math.log(2)
    k1, k2, k3 = kl_estimates(tensor([[-log2]]), tensor([[-2 * log2]]))
    expect_close(k1, [[log2]], "k1")
    expect_close(k2, [[log2**2 / 2]], "k2")
    expect_close(k3, [[0.5 - 1 + log2]], "k3")


def test_kl_estimates_on_average(kl_estimates):
    """Averaged over pi, k1 and k3 are KL(pi || pi_ref)."""
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.2, 0.6])
    k1, _, k3 = kl_estimates(p.log(), q.log())
    want = (p * (p / q).log()).sum()
    expect_close((p * torch.as_tensor(k1)).sum(), want, "the mean of k1")
    expect_close((p * torch.as_tensor(k3)).sum(), want, "the mean of k3")


def test_kl_estimates_gradient(kl_estimates):
    """By log pi: 1, the log-ratio, 1 - pi_ref / pi. The reference gets none."""
    for i, want in enumerate((1.0, math.log(2), 0.5)):
        logprobs = tensor([math.log(0.5)]).requires_grad_()
        ref = tensor([math.log(0.25)]).requires_grad_()
        kl_estimates(logprobs, ref)[i].sum().backward()
        expect_close(logprobs.grad, [want], f"the gradient of k{i + 1}")
        got = [0.0] if ref.grad is None else ref.grad
        expect_close(got, [0.0], f"the gradient of k{i + 1} by the reference")


# clipped_losses


def ratios(*rows):
    """log-probabilities whose ratio to zeros is the given number."""
    return tensor(rows).log()


def test_clipped_losses_in_all_regions(clipped_losses):
    """Ratios 0.5, 1, 1.5 with advantage 1 and -1: the worse of clipped and unclipped, with a minus."""
    logprobs = ratios([0.5, 1.0, 1.5], [0.5, 1.0, 1.5])
    got = clipped_losses(logprobs, torch.zeros_like(logprobs), tensor([[1.0], [-1.0]]))
    want = [[-0.5, -1.0, -1.2], [0.8, 1.0, 1.5]]
    expect_close(got, want, "the losses for ratios 0.5, 1, 1.5 and advantages 1, -1")


def test_clipped_losses_two_edges(clipped_losses):
    """The upper edge is 1 + clip_high, the lower one 1 - clip_low."""
    logprobs = ratios([2.0], [0.1])
    got = clipped_losses(logprobs, torch.zeros_like(logprobs), tensor([[1.0], [-1.0]]), 0.1, 0.3)
    expect_close(got, [[-1.3], [0.9]], "the losses with edges 0.9 and 1.3")


def test_clipped_losses_one_advantage_per_token(clipped_losses):
    """Advantages of shape (B, T) work too: each token has its own."""
    logprobs = ratios([1.0, 2.0, 1.0])
    got = clipped_losses(logprobs, torch.zeros_like(logprobs), tensor([[1.0, -2.0, 3.0]]))
    expect_close(got, [[-1.0, 4.0, -3.0]], "the losses for advantages 1, -2, 3")


def test_clipped_losses_gradient(clipped_losses):
    """At ratio 1 the gradient is minus the advantage; beyond the edge it is 0; old log-probs get none."""
    logprobs = ratios([1.0, 1.5]).requires_grad_()
    old = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    advantages = tensor([[2.0]]).requires_grad_()
    clipped_losses(logprobs, old, advantages).sum().backward()
    expect_close(logprobs.grad, [[-2.0, 0.0]], "the gradient of the log-probabilities")
    expect_close([[0.0, 0.0]] if old.grad is None else old.grad, [[0.0, 0.0]], "that of the old ones")
    got = [[0.0]] if advantages.grad is None else advantages.grad
    expect_close(got, [[0.0]], "that of the advantages")


# aggregate

LOSSES = [[1.0, 2.0, 3.0, 6.0], [8.0, 99.0, 99.0, 99.0]]
MASK = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]


def test_aggregate_sequence(aggregate):
    """ "sequence": means 3 and 8 of the replies, then their mean."""
    expect_close(aggregate(tensor(LOSSES), tensor(MASK), "sequence"), 5.5, "the sequence mean")


def test_aggregate_sequence_with_an_empty_reply(aggregate):
    """ "sequence": a reply without tokens costs 0 and does not make NaN."""
    got = aggregate(tensor(LOSSES), tensor([[1.0, 1.0, 0.0, 0.0], [0.0] * 4]), "sequence")
    expect_close(got, 0.75, "the mean of 1.5 and 0")


def test_aggregate_token(aggregate):
    """ "token": 20 over 5 tokens, however they are spread over replies."""
    expect_close(aggregate(tensor(LOSSES), tensor(MASK), "token"), 4.0, "the token mean")


def test_aggregate_constant(aggregate):
    """ "constant": 20 over 2 replies of at most 5 tokens, whatever their lengths."""
    expect_close(aggregate(tensor(LOSSES), tensor(MASK), "constant", 5), 2.0, "the constant mean")


def test_aggregate_rejects_other_names(aggregate):
    """Any other name is an error."""
    expect_raises(ValueError, lambda: aggregate(tensor(LOSSES), tensor(MASK), "mean"), "how='mean'")


# process_advantages

# One group of two replies. Steps end at tokens 0, 2 and at token 1; rewards 1, 0 and 1.
STEP_REWARDS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
IS_STEP = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_process_advantages_by_hand(process_advantages):
    """Step rewards 1, 0, 1: mean 2/3, std sqrt(2)/3; a token sums the steps that end at or after it."""
    up, down = 1 / math.sqrt(2), -2 / math.sqrt(2)
    got = process_advantages(tensor(STEP_REWARDS), tensor(IS_STEP), 2, eps=0.0)
    want = [[up + down, down, down], [up, up, 0.0]]
    expect_close(got, want, "the advantages of the group")


def test_process_advantages_eps(process_advantages):
    """eps is added to the standard deviation, not to the variance."""
    got = process_advantages(tensor([[4.0], [0.0]]), torch.ones(2, 1, dtype=torch.float64), 2, eps=1.0)
    expect_close(got, [[2 / 3], [-2 / 3]], "the advantages of steps 4 and 0 (std 2) with eps 1")


def test_process_advantages_keep_groups_apart(process_advantages):
    """A second group with other rewards changes nothing in the first."""
    rewards = tensor(STEP_REWARDS + [[5.0, 0.0, 7.0], [0.0, 9.0, 0.0]])
    alone = torch.as_tensor(process_advantages(rewards[2:], tensor(IS_STEP), 2))
    both = torch.as_tensor(process_advantages(rewards, tensor(IS_STEP + IS_STEP), 2))
    expect_close(both[2:], alone, "the second group's advantages")


def test_process_advantages_ignore_what_is_no_step(process_advantages):
    """Numbers in step_rewards where no step ends do not count, and they stay where they are."""
    noise = [[1.0, 50.0, 0.0], [70.0, 1.0, -30.0]]
    rewards, is_step = tensor(noise), tensor(IS_STEP)
    want = process_advantages(tensor(STEP_REWARDS), tensor(IS_STEP), 2)
    expect_close(process_advantages(rewards, is_step, 2), want, "the advantages")
    expect_unchanged(tensor(noise), rewards, "step_rewards")


def test_process_advantages_without_steps(process_advantages):
    """A group without any step gives zeros, not NaN."""
    got = process_advantages(torch.ones(2, 3), torch.zeros(2, 3), 2)
    expect_close(got, [[0.0] * 3] * 2, "the advantages of a group without steps")


# sequence_ratios


def test_sequence_ratios_by_hand(sequence_ratios):
    """Token ratios 4 and 1 have the geometric mean 2; padding does not count."""
    logprobs, mask = ratios([4.0, 1.0, 9.0], [3.0, 9.0, 9.0]), tensor([[1, 1, 0], [1, 0, 0]])
    got = sequence_ratios(logprobs, torch.zeros_like(logprobs), mask)
    expect_close(got, [[2.0], [3.0]], "the ratios of two replies")


def test_sequence_ratios_gradient(sequence_ratios):
    """At ratio 1 every token of a reply of length n gets gradient 1/n; the old ones get none."""
    logprobs = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    old = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    sequence_ratios(logprobs, old, tensor([[1, 1, 0]])).sum().backward()
    expect_close(logprobs.grad, [[0.5, 0.5, 0.0]], "the gradient of the log-probabilities")
    got = [[0.0] * 3] if old.grad is None else old.grad
    expect_close(got, [[0.0] * 3], "the gradient of the old ones")


def test_sequence_ratios_shape(sequence_ratios):
    """One number per reply, with an axis that spreads over tokens: (B, 1)."""
    expect_shape(sequence_ratios(torch.zeros(3, 4), torch.zeros(3, 4), torch.ones(3, 4)), (3, 1), "ratios")


# cispo_losses


def test_cispo_losses_by_hand(cispo_losses):
    """Minus min(ratio, 1 + clip_high) times advantage times log pi."""
    logprobs = tensor([[-1.0, -2.0]])
    old = logprobs - tensor([[math.log(2.0), math.log(10.0)]])
    got = cispo_losses(logprobs, old, tensor([[3.0]]), clip_high=4.0)
    expect_close(got, [[6.0, 30.0]], "the losses for ratios 2 and 10, edge 5")


def test_cispo_losses_gradient(cispo_losses):
    """The weight is a constant: the gradient by log pi is minus weight times advantage, clipped or not."""
    logprobs = tensor([[-1.0, -2.0]]).requires_grad_()
    old = (logprobs - tensor([[math.log(2.0), math.log(10.0)]])).detach().requires_grad_()
    advantages = tensor([[3.0]]).requires_grad_()
    cispo_losses(logprobs, old, advantages, clip_high=4.0).sum().backward()
    expect_close(logprobs.grad, [[-6.0, -15.0]], "the gradient for ratios 2 and 10, edge 5")
    expect_close([[0.0] * 2] if old.grad is None else old.grad, [[0.0] * 2], "that of the old ones")
    got = [[0.0]] if advantages.grad is None else advantages.grad
    expect_close(got, [[0.0]], "that of the advantages")


def test_cispo_losses_small_ratios_are_not_clipped(cispo_losses):
    """There is no lower edge: a ratio of 0.1 stays 0.1."""
    logprobs = tensor([[-1.0]])
    got = cispo_losses(logprobs, logprobs - math.log(0.1), tensor([[1.0]]))
    expect_close(got, [[0.1]], "the loss for ratio 0.1")
