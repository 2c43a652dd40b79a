"""Graders of chapter 7."""

import math

import torch

from rlcourse.grading.expect import expect_close, expect_shape, expect_true, expect_unchanged

EXERCISES = {
    "masked_mean": {
        "title": "The mean over what counts",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-masked-mean",
    },
    "sft_loss": {
        "title": "Imitate the reply, not the prompt",
        "difficulty": 3,
        "minutes": 25,
        "points": 15,
        "equation": "eq-sft",
    },
    "reward_model_loss": {
        "title": "A reward model from preferences",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-rm-loss",
    },
    "last_token_scores": {
        "title": "One score for a whole reply",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-reply-score",
    },
    "token_rewards": {
        "title": "The reward of a token",
        "difficulty": 3,
        "minutes": 25,
        "points": 20,
        "equation": "eq-rlhf-reward",
    },
    "token_gae": {
        "title": "Advantages over tokens",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": "eq-token-gae",
    },
    "masked_whiten": {
        "title": "Whiten without the padding",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-masked-whiten",
    },
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def leaf(values):
    return tensor(values).requires_grad_()


def gradient(x):
    """The gradient that arrived at a leaf, zeros if none did."""
    return torch.zeros_like(x) if x.grad is None else x.grad


# masked_mean


def test_masked_mean_leaves_padding_out(masked_mean):
    """Only what the mask marks is summed, and only that is counted."""
    values = tensor([[1.0, 2.0, 6.0], [5.0, 100.0, -7.0]])
    mask = tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    expect_close(masked_mean(values, mask), 3.5, "the mean of 1, 2, 6 and 5")  # 14 / 4
    expect_unchanged(tensor([[1.0, 2.0, 6.0], [5.0, 100.0, -7.0]]), values, "values")


def test_masked_mean_weighs_tokens_alike(masked_mean):
    """A token of a long reply weighs as much as that of a short one: this is no mean of means."""
    values = tensor([[0.0, 0.0, 0.0, 0.0], [8.0, 9.0, 9.0, 9.0]])
    mask = tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    expect_close(masked_mean(values, mask), 1.6, "four zeros and one 8")  # 8 / 5


def test_masked_mean_gradient(masked_mean):
    """Each counted token receives gradient 1 / count, padding none; any shape will do."""
    values = leaf([3.0, 1.0, 4.0])
    result = masked_mean(values, tensor([1.0, 0.0, 1.0]))
    expect_shape(result, (), "the mean")
    result.backward()
    expect_close(gradient(values), [0.5, 0.0, 0.5], "the gradient")


# sft_loss: vocabulary of 2; the log-odds of token 1 at each position give its probability

IDS = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 1, 0, 0]])
REPLY = tensor([[0.0, 0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
ODDS = tensor([[1.0, 3.0, 1 / 4, 9.0, 7.0], [1 / 9, 1.0, 5.0, 2.0, 8.0]])  # of token 1 : token 0
# Reply tokens and the position before each: row 0: token 1 after odds 3: p 3/4; token 0 after odds
# 1/4: p 4/5. Row 1: token 1 after odds 1: p 1/2.
SFT_WANT = -(math.log(3 / 4) + math.log(4 / 5) + math.log(1 / 2)) / 3


def logits_from(odds):
    return torch.stack([torch.zeros_like(odds), odds.log()], -1)  # (B, L, 2)


def test_sft_loss_by_hand(sft_loss):
    """Position i predicts token i + 1; reply tokens count, prompt and padding do not."""
    expect_close(sft_loss(logits_from(ODDS), IDS, REPLY), SFT_WANT, "the loss of two demonstrations")


def test_sft_loss_gradient(sft_loss):
    """Gradient flows to the positions just before reply tokens, and nowhere else."""
    logits = logits_from(ODDS).requires_grad_()
    sft_loss(logits, IDS, REPLY).backward()
    reached = gradient(logits).abs().sum(-1) > 1e-12
    expect_close(reached.double(), [[0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]], "where it flows")


def test_sft_loss_shift_of_logits(sft_loss):
    """Adding a constant to all logits of a position changes nothing; huge logits do no harm."""
    shifted = logits_from(ODDS) + tensor([0.0, 500.0, -3.0, 1000.0, 2.0])[None, :, None]
    expect_close(sft_loss(shifted, IDS, REPLY), SFT_WANT, "the loss with shifted logits")


def test_sft_loss_of_a_perfect_model(sft_loss):
    """A model that is certain of each next token has loss 0, in a batch of one."""
    ids = torch.tensor([[2, 0, 1, 2]])
    logits = torch.full((1, 4, 3), -60.0, dtype=torch.float64)
    for i, following in enumerate([0, 1, 2]):
        logits[0, i, following] = 60.0
    mask = tensor([[0.0, 0.0, 1.0, 1.0]])
    expect_close(sft_loss(logits, ids, mask), 0.0, "the loss", atol=1e-9)


# reward_model_loss


def test_reward_model_loss_by_hand(reward_model_loss):
    """Margins log 3 and -log 3: the mean of -log 3/4 and -log 1/4."""
    got = reward_model_loss(tensor([math.log(3), 2.0]), tensor([0.0, 2.0 + math.log(3)]))
    expect_close(got, -(math.log(3 / 4) + math.log(1 / 4)) / 2, "the loss of two pairs")


def test_reward_model_loss_ignores_a_common_shift(reward_model_loss):
    """Only differences count: adding 7 to all scores leaves the loss at log 2."""
    got = reward_model_loss(tensor([7.0, 8.0]), tensor([7.0, 8.0]))
    expect_close(got, math.log(2), "the loss of pairs with equal scores")


def test_reward_model_loss_pushes_apart(reward_model_loss):
    """Gradient raises the chosen score and lowers the rejected one, by the chance of being wrong."""
    chosen, rejected = leaf([0.0, math.log(3)]), leaf([math.log(3), 0.0])
    reward_model_loss(chosen, rejected).backward()
    expect_close(gradient(chosen), [-0.375, -0.125], "the gradient of the chosen scores")
    expect_close(gradient(rejected), [0.375, 0.125], "the gradient of the rejected scores")


def test_reward_model_loss_survives_large_margins(reward_model_loss):
    """A margin of -2000 costs 2000, not infinity."""
    expect_close(reward_model_loss(tensor([-2000.0]), tensor([0.0])), 2000.0, "the loss of a hopeless pair")


# last_token_scores

VALUES = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0]]
LENGTHS = [[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]


def test_last_token_scores_by_hand(last_token_scores):
    """Replies of 2, 4 and 1 tokens: each score stands at the reply's own last token."""
    expect_close(last_token_scores(tensor(VALUES), tensor(LENGTHS)), [2.0, 8.0, 9.0], "the scores")


def test_last_token_scores_gradient(last_token_scores):
    """Gradient reaches the last token of each reply and no other."""
    values = leaf(VALUES)
    (last_token_scores(values, tensor(LENGTHS)) * tensor([1.0, 2.0, 3.0])).sum().backward()
    want = [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0], [3.0, 0.0, 0.0, 0.0]]
    expect_close(gradient(values), want, "the gradient")


def test_last_token_scores_batch_of_one(last_token_scores):
    """One reply in the batch gives one score, of shape (1,); inputs stay as they are."""
    values = tensor([[4.0, -1.0, 2.0]])
    expect_close(last_token_scores(values, tensor([[1.0, 1.0, 0.0]])), [-1.0], "the score")
    expect_unchanged(tensor([[4.0, -1.0, 2.0]]), values, "values")


# token_rewards


def reward_inputs():
    """Replies of 3 and 1 tokens. Log-ratios 1, -2, 0.5 and 3; numbers at padding are large."""
    logprobs = tensor([[-1.0, -3.0, -0.5], [-1.0, -40.0, -50.0]])
    ref_logprobs = tensor([[-2.0, -1.0, -1.0], [-4.0, -10.0, -20.0]])
    mask = tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    return tensor([10.0, 20.0]), logprobs, ref_logprobs, mask


def test_token_rewards_by_hand(token_rewards):
    """-kl_coef times the log-ratio at every token, the score on top at the last own one, 0 after it."""
    got = token_rewards(*reward_inputs(), 0.1)
    expect_close(got, [[-0.1, 0.2, 9.95], [19.7, 0.0, 0.0]], "the rewards")


def test_token_rewards_without_kl(token_rewards):
    """With kl_coef 0 only the last own token is paid."""
    expect_close(token_rewards(*reward_inputs(), 0.0), [[0.0, 0.0, 10.0], [20.0, 0.0, 0.0]], "the rewards")


def test_token_rewards_sum_is_score_minus_kl(token_rewards):
    """Summed over a reply: the score minus kl_coef times the log-ratio of the whole reply."""
    total = torch.as_tensor(token_rewards(*reward_inputs(), 2.0)).sum(1)
    expect_close(total, [11.0, 14.0], "the sums")  # 10 - 2 (-0.5), 20 - 2 * 3


def test_token_rewards_are_numbers(token_rewards):
    """Rewards carry no gradient: neither policy, reference nor reward model learns through them."""
    scores, logprobs, ref_logprobs, mask = reward_inputs()
    for x in (scores, logprobs, ref_logprobs):
        x.requires_grad_()
    got = token_rewards(scores, logprobs, ref_logprobs, mask, 0.1)
    expect_true(not got.requires_grad, "the rewards still carry a graph: detach them")
    for before, after in zip(reward_inputs(), (scores, logprobs, ref_logprobs, mask), strict=True):
        expect_unchanged(before, after, "an input")


# token_gae


def gae_inputs():
    """Replies of 3 and 1 tokens; a value of 50 stands after the end of the short one."""
    rewards = tensor([[1.0, 0.0, 4.0], [2.0, 0.0, 0.0]])
    values = tensor([[0.5, 2.0, 1.0], [3.0, 50.0, -50.0]])
    return rewards, values, tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


def test_token_gae_by_hand(token_gae):
    """gamma 1/2, lambda 1/2: deltas 1.5, -1.5, 3 and -1, summed backwards with weight 1/4."""
    advantages, _ = token_gae(*gae_inputs(), 0.5, 0.5)
    # -1.5 + 3 / 4 = -0.75; 1.5 - 0.75 / 4 = 1.3125
    expect_close(advantages, [[1.3125, -0.75, 3.0], [-1.0, 0.0, 0.0]], "the advantages")


def test_token_gae_targets(token_gae):
    """The target is advantage plus value on the reply, 0 after it."""
    _, targets = token_gae(*gae_inputs(), 0.5, 0.5)
    expect_close(targets, [[1.8125, 1.25, 4.0], [2.0, 0.0, 0.0]], "the targets")


def test_token_gae_with_lambda_one(token_gae):
    """gamma 1, lambda 1: the rewards still to come minus the value before the token."""
    advantages, targets = token_gae(*gae_inputs(), 1.0, 1.0)
    expect_close(advantages, [[4.5, 2.0, 3.0], [-1.0, 0.0, 0.0]], "the advantages")
    expect_close(targets, [[5.0, 4.0, 4.0], [2.0, 0.0, 0.0]], "the targets")


def test_token_gae_with_lambda_zero(token_gae):
    """gamma 1, lambda 0: reward plus next value minus value; the end has no next value."""
    advantages, _ = token_gae(*gae_inputs(), 1.0, 0.0)
    expect_close(advantages, [[2.5, -1.0, 3.0], [-1.0, 0.0, 0.0]], "the advantages")


def test_token_gae_does_not_see_other_rows(token_gae):
    """A reply alone in its batch gets the same advantages as among others."""
    rewards, values, mask = gae_inputs()
    advantages, _ = token_gae(rewards[1:], values[1:], mask[1:], 0.9, 0.95)
    expect_close(advantages, [[-1.0, 0.0, 0.0]], "the advantages of a reply of one token")


def test_token_gae_is_constant(token_gae):
    """Neither result carries a graph to the critic, and the inputs stay as they are."""
    rewards, values, mask = gae_inputs()
    values.requires_grad_()
    advantages, targets = token_gae(rewards, values, mask, 1.0, 0.95)
    expect_true(not advantages.requires_grad, "the advantages carry a graph: detach the values")
    expect_true(not targets.requires_grad, "the targets carry a graph: detach the values")
    for before, after in zip(gae_inputs(), (rewards, values, mask), strict=True):
        expect_unchanged(before, after, "an input")


# masked_whiten


def test_masked_whiten_by_hand(masked_whiten):
    """Own tokens 1, 3, 5, 3: mean 3, population deviation sqrt 2; padding becomes 0."""
    advantages, mask = (
        tensor([[1.0, 3.0, 5.0], [3.0, 40.0, -40.0]]),
        tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    )
    r = math.sqrt(2)
    expect_close(masked_whiten(advantages, mask), [[-r, 0.0, r], [0.0, 0.0, 0.0]], "the result")
    want = tensor([[1.0, 3.0, 5.0], [3.0, 40.0, -40.0]])
    expect_unchanged(want, advantages, "advantages")


def test_masked_whiten_goes_over_the_batch(masked_whiten):
    """One mean and one deviation for all replies together: a bad reply stays bad."""
    advantages, mask = tensor([[4.0, 4.0], [2.0, 2.0]]), tensor([[1.0, 1.0], [1.0, 1.0]])
    expect_close(masked_whiten(advantages, mask), [[1.0, 1.0], [-1.0, -1.0]], "the result")


def test_masked_whiten_of_equal_advantages(masked_whiten):
    """Where all advantages are equal the result is 0, not nan; a batch of one token too."""
    for mask in (tensor([[1.0, 1.0, 0.0]]), tensor([[1.0, 0.0, 0.0]])):
        got = masked_whiten(tensor([[7.0, 7.0, 1.0]]), mask)
        expect_close(got, [[0.0, 0.0, 0.0]], "the result")
