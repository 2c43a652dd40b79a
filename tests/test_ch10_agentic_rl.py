"""Graders of chapter 10: beliefs, rows of training data, masked losses, credit over turns, two loops."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

import rlcourse.agents  # noqa: F401  a learner's cell may import it: loaded before the guard is up
from rlcourse.grading.expect import (
    expect_close,
    expect_equal,
    expect_raises,
    expect_shape,
    expect_true,
    expect_unchanged,
)

EXERCISES = {
    "belief_update": {
        "title": "What the agent knows",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-belief",
    },
    "merge_calls": {
        "title": "From model calls to rows",
        "difficulty": 3,
        "minutes": 25,
        "points": 15,
        "equation": None,
    },
    "masked_policy_loss": {
        "title": "A loss that sees only the policy's tokens",
        "difficulty": 3,
        "minutes": 25,
        "points": 20,
        "equation": "eq-masked-objective",
    },
    "trajectory_advantages": {
        "title": "Every episode counts once",
        "difficulty": 3,
        "minutes": 25,
        "points": 15,
        "equation": "eq-trajectory-advantage",
    },
    "turn_returns": {
        "title": "Returns over turns",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-turn-return",
    },
    "masked_gae": {
        "title": "GAE that skips the tool's tokens",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": "eq-masked-gae",
    },
    "scalar_reward": {
        "title": "One number from three",
        "difficulty": 1,
        "minutes": 5,
        "points": 5,
        "equation": "eq-multi-objective",
    },
    "pareto_front": {
        "title": "What no other agent beats",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-pareto",
    },
    "run_agent": {
        "title": "The agent's loop",
        "difficulty": 3,
        "minutes": 25,
        "points": 10,
        "equation": None,
    },
    "grpo_update": {
        "title": "One training step",
        "difficulty": 4,
        "minutes": 30,
        "points": 15,
        "equation": None,
    },
}

NAN, INF = float("nan"), float("inf")


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


def gradients(loss, leaves, what):
    """The gradients of a scalar with respect to some leaves; zeros for a leaf that gets none."""
    expect_shape(loss, (), what)
    expect_true(
        isinstance(loss, torch.Tensor) and loss.requires_grad,
        f"{what}: no gradient reaches the log-probabilities of the policy",
    )
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


# belief_update

# Two hidden states, two actions, three observations. Rows sum to 1, nothing is symmetric.
P = np.array([[[0.9, 0.1], [0.3, 0.7]], [[0.2, 0.8], [0.6, 0.4]]])  # P[s, a, s']
O = np.array([[[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]], [[0.25, 0.75, 0.0], [0.0, 0.4, 0.6]]])  # O[a, s', o]


def test_belief_update_by_hand(belief_update):
    """First the state moves, then the observation weighs where it may have moved to."""
    got = belief_update(np.array([0.75, 0.25]), 0, 1, P.copy(), O.copy())
    # predicted 0.75 * 0.9 + 0.25 * 0.2 = 0.725 and 0.275; times 0.3 and 0.9
    total = 0.725 * 0.3 + 0.275 * 0.9
    expect_close(got, [0.2175 / total, 0.2475 / total], "belief (0.75, 0.25), action 0, observation 1")


def test_belief_update_other_action(belief_update):
    """The transitions and the observation probabilities are those of the action that was taken."""
    got = belief_update(np.array([0.75, 0.25]), 1, 1, P.copy(), O.copy())
    # predicted 0.75 * 0.3 + 0.25 * 0.6 = 0.375 and 0.625; times 0.75 and 0.4
    expect_close(got, [0.28125 / 0.53125, 0.25 / 0.53125], "belief (0.75, 0.25), action 1, observation 1")


def test_belief_update_impossible_observation(belief_update):
    """An observation that cannot follow is refused: 0 / 0 is no belief."""
    stay = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    see = np.array([[[1.0, 0.0], [0.5, 0.5]]])
    sure = np.array([1.0, 0.0])  # state 1 would show observation 1, but it cannot be state 1
    expect_raises(ValueError, lambda: belief_update(sure, 0, 1, stay, see), "an observation of probability 0")


def test_belief_update_rules_a_state_out(belief_update):
    """An observation that one state never gives is possible, and leaves that state with belief 0."""
    got = belief_update(np.array([0.75, 0.25]), 1, 0, P.copy(), O.copy())
    expect_close(got, [1.0, 0.0], "belief (0.75, 0.25), action 1, observation 0")
    got = belief_update(np.array([0.75, 0.25]), 0, 2, P.copy(), O.copy())
    expect_close(got, [1.0, 0.0], "belief (0.75, 0.25), action 0, observation 2")


def test_belief_update_unlikely_is_not_impossible(belief_update):
    """A very unlikely observation still gives a belief."""
    stay = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    for tiny in (1e-13, 1e-200):
        see = np.array([[[1.0, 2 * tiny], [1.0, tiny]]])
        got = belief_update(np.array([0.5, 0.5]), 0, 1, stay, see)
        expect_close(got, [2 / 3, 1 / 3], f"probabilities {2 * tiny} and {tiny} of the observation")


def test_belief_update_a_sure_state(belief_update):
    """A belief of 0 stays 0 where nothing leads there, and one state is enough."""
    stay = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    see = np.array([[[0.3, 0.7], [0.6, 0.4]]])
    got = belief_update(np.array([0.0, 1.0]), 0, 0, stay, see)
    expect_close(got, [0.0, 1.0], "the belief of an agent that knew the state")
    one = belief_update(np.array([1.0]), 0, 0, np.ones((1, 1, 1)), np.array([[[0.2, 0.8]]]))
    expect_close(one, [1.0], "a world with one state")


def test_belief_update_against_the_joint(belief_update):
    """In random worlds, many steps on end, it is the state's share in the joint probability."""
    rng = np.random.default_rng(0)
    for S, A, Z in [(2, 3, 2), (4, 2, 5), (5, 1, 3)]:
        transition, see = rng.dirichlet(np.ones(S), (S, A)), rng.dirichlet(np.ones(Z), (A, S))
        start = rng.dirichlet(np.ones(S))
        belief, path = start, []
        for _ in range(3):
            path.append((int(rng.integers(A)), int(rng.integers(Z))))
            belief = belief_update(belief.copy(), *path[-1], transition.copy(), see.copy())
            belief = np.array(expect_shape(belief, (S,), "the belief"), dtype=float)
        share = np.zeros(S)
        for states in itertools.product(range(S), repeat=4):
            p = start[states[0]]
            for (a, o), s, t in zip(path, states[:-1], states[1:], strict=True):
                p *= transition[s, a, t] * see[a, t, o]
            share[states[-1]] += p
        expect_close(belief, share / share.sum(), f"the belief over {S} states after 3 steps")


def test_belief_update_keeps_its_inputs(belief_update):
    """Belief and tables are not changed."""
    belief, transition, see = np.array([0.75, 0.25]), P.copy(), O.copy()
    belief_update(belief, 0, 1, transition, see)
    expect_unchanged([0.75, 0.25], belief, "belief")
    expect_unchanged(P, transition, "P")
    expect_unchanged(O, see, "O")


# merge_calls


def rows_of(rows):
    """The rows as plain lists."""
    expect_true(isinstance(rows, list | tuple), "a list of rows was expected")
    whole = all(hasattr(row, name) for row in rows for name in ("ids", "mask", "logprobs"))
    expect_true(whole, "every row should be a Row(ids, mask, logprobs)")
    return [(list(row.ids), list(row.mask), list(row.logprobs)) for row in rows]


def expect_rows(merge_calls, calls, want, what):
    got = rows_of(merge_calls([(list(p), list(c), list(l)) for p, c, l in calls]))
    expect_equal(len(got), len(want), f"{what}: the number of rows")
    for i, (row, (ids, mask, logprobs)) in enumerate(zip(got, want, strict=True)):
        expect_equal(row[0], ids, f"{what}: ids of row {i}")
        expect_equal(row[1], mask, f"{what}: mask of row {i}")
        expect_close(row[2], logprobs, f"{what}: logprobs of row {i}")


def test_merge_calls_one_call(merge_calls):
    """A single call is one row: the prompt with mask 0 and log-prob 0, the completion with mask 1."""
    want = [([5, 6, 7, 8], [0, 0, 1, 1], [0.0, 0.0, -0.5, -1.5])]
    expect_rows(merge_calls, [([5, 6], [7, 8], [-0.5, -1.5])], want, "prompt 5 6, completion 7 8")
    want = [([5, 6, 7], [0, 0, 1], [0.0, 0.0, 0.0])]
    expect_rows(merge_calls, [([5, 6], [7], [0.0])], want, "a completion of one token with log-prob 0")


def test_merge_calls_growing_prompts(merge_calls):
    """Prompts that only grow make one row: what is new in a prompt gets mask 0 and log-prob 0."""
    calls = [
        ([1, 2], [3, 4], [-0.1, -0.2]),
        ([1, 2, 3, 4, 9, 9], [5], [-0.3]),
        ([1, 2, 3, 4, 9, 9, 5, 8], [6, 7], [-0.4, -0.5]),
    ]
    want = [
        (
            [1, 2, 3, 4, 9, 9, 5, 8, 6, 7],
            [0, 0, 1, 1, 0, 0, 1, 0, 1, 1],
            [0, 0, -0.1, -0.2, 0, 0, -0.3, 0, -0.4, -0.5],
        )
    ]
    expect_rows(merge_calls, calls, want, "three calls, each with the one before in its prompt")


def test_merge_calls_retokenised_history(merge_calls):
    """A history with other ids for the same text starts a new row, however long it is."""
    calls = [([1, 2], [3, 4], [-0.1, -0.2]), ([1, 2, 34, 9, 9], [5], [-0.3])]
    want = [
        ([1, 2, 3, 4], [0, 0, 1, 1], [0, 0, -0.1, -0.2]),
        ([1, 2, 34, 9, 9, 5], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, -0.3]),
    ]
    expect_rows(merge_calls, calls, want, "tokens 3 4 came back as 34")


def test_merge_calls_the_last_token_of_the_history(merge_calls):
    """Every token of the row must be in the new prompt, its last one too."""
    calls = [([1], [3, 4], [-0.1, -0.2]), ([1, 3, 5, 6], [7], [-0.3])]
    want = [([1, 3, 4], [0, 1, 1], [0, -0.1, -0.2]), ([1, 3, 5, 6, 7], [0, 0, 0, 0, 1], [0, 0, 0, 0, -0.3])]
    expect_rows(merge_calls, calls, want, "only the last token of the history differs")
    calls = [([1], [3, 4], [-0.1, -0.2]), ([1, 3, 45, 6], [7], [-0.3])]
    want = [([1, 3, 4], [0, 1, 1], [0, -0.1, -0.2]), ([1, 3, 45, 6, 7], [0, 0, 0, 0, 1], [0, 0, 0, 0, -0.3])]
    expect_rows(merge_calls, calls, want, "the last token 4 of the history came back as 45")


def test_merge_calls_shortened_history(merge_calls):
    """A prompt shorter than the row, even if it is its beginning, starts a new row."""
    calls = [
        ([1, 2], [3, 4], [-0.1, -0.2]),
        ([1, 2, 3], [6], [-0.3]),
        ([1, 2, 3, 6, 7], [8], [-0.4]),
        ([2, 3, 6, 7, 8], [9], [-0.5]),
    ]
    want = [
        ([1, 2, 3, 4], [0, 0, 1, 1], [0, 0, -0.1, -0.2]),
        ([1, 2, 3, 6, 7, 8], [0, 0, 0, 1, 0, 1], [0, 0, 0, -0.3, 0, -0.4]),
        ([2, 3, 6, 7, 8, 9], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, -0.5]),
    ]
    expect_rows(merge_calls, calls, want, "a history cut at its end, then one cut at its beginning")


def test_merge_calls_only_the_last_row_grows(merge_calls):
    """A prompt that continues an earlier row, not the last one, starts a new row."""
    calls = [([1], [2], [-0.1]), ([5], [6], [-0.2]), ([1, 2, 3], [4], [-0.3])]
    want = [
        ([1, 2], [0, 1], [0, -0.1]),
        ([5, 6], [0, 1], [0, -0.2]),
        ([1, 2, 3, 4], [0, 0, 0, 1], [0, 0, 0, -0.3]),
    ]
    expect_rows(merge_calls, calls, want, "the third prompt continues row 0")


def test_merge_calls_nothing_new(merge_calls):
    """A prompt that is exactly the row extends it, and a completion may be empty."""
    calls = [([1], [2], [-0.1]), ([1, 2], [3], [-0.2]), ([1, 2, 3, 4], [], [])]
    want = [([1, 2, 3, 4], [0, 1, 1, 0], [0, -0.1, -0.2, 0])]
    expect_rows(merge_calls, calls, want, "a prompt without new tokens, then an empty completion")


def test_merge_calls_no_calls(merge_calls):
    """No call, no row."""
    expect_equal(len(rows_of(merge_calls([]))), 0, "the number of rows of an empty list")


def test_merge_calls_rejects_unequal_numbers(merge_calls):
    """A completion whose log-probs differ in number is refused, wherever it stands."""
    for bad in ([7], [-0.5, -0.5]), ([7, 8], [-0.5]), ([7], []):
        calls = [([5], [6], [-0.1]), ([5, 6], *bad)]
        what = f"{len(bad[0])} tokens, {len(bad[1])} log-probs"
        expect_raises(ValueError, lambda calls=calls: merge_calls(calls), what)
    calls = [([5], [6], [-0.1, -0.2]), ([5, 6], [7, 8], [-0.3])]
    expect_raises(ValueError, lambda: merge_calls(calls), "one log-prob too many, then one too few")


def test_merge_calls_keeps_its_input(merge_calls):
    """The calls are not changed, and the rows are lists of their own."""
    calls = [([1], [2], [-0.1]), ([1, 2, 3], [4], [-0.2]), ([9], [8], [-0.3])]
    rows = merge_calls(calls)
    rows_of(rows)
    for row in rows:
        row.ids.append(0), row.mask.append(0), row.logprobs.append(0.0)
    want = [([1], [2], [-0.1]), ([1, 2, 3], [4], [-0.2]), ([9], [8], [-0.3])]
    expect_equal(calls, want, "the calls, after the rows were made and written to")


def merge_by_definition(calls):
    rows = []
    for prompt, completion, logprobs in calls:
        row = rows[-1] if rows else None
        n = len(row) if row else 0
        if row is None or n > len(prompt) or any(row[i][0] != prompt[i] for i in range(n)):
            rows.append([])
            n = 0
        rows[-1] += [(token, 0, 0.0) for token in prompt[n:]]
        rows[-1] += [(token, 1, p) for token, p in zip(completion, logprobs, strict=True)]
    return [tuple(list(column) for column in zip(*row, strict=True)) for row in rows]


def test_merge_calls_on_random_episodes(merge_calls):
    """In random episodes with cut, kept and changed histories the rows are those of the definition."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        calls, history = [], rng.integers(1, 4, 2).tolist()
        for _ in range(rng.integers(1, 6)):
            change = rng.integers(6)
            if change == 0:
                history = history[rng.integers(len(history)) :]
            elif change == 1:
                history[rng.integers(len(history))] = 99
            elif change == 2:
                history = history[: 1 + rng.integers(len(history))]
            completion = rng.integers(1, 4, rng.integers(0, 4)).tolist()
            calls.append((list(history), completion, (-rng.random(len(completion))).tolist()))
            history = history + completion + rng.integers(1, 4, rng.integers(0, 3)).tolist()
        expect_rows(merge_calls, calls, merge_by_definition(calls), f"{len(calls)} random calls")


def test_merge_calls_long_episode(merge_calls):
    """An episode of 100 calls that only grows is one row of 400 tokens."""
    calls, history = [], [1]
    for k in range(100):
        calls.append((list(history), [k, k + 1], [-0.5, -0.25]))
        history += [k, k + 1, 7, 8]
    got = rows_of(merge_calls(calls))
    expect_equal(len(got), 1, "the number of rows")
    expect_equal(got[0][0], history[:-2], "the ids")
    expect_equal(sum(got[0][1]), 200, "the number of policy tokens")


# masked_policy_loss


def surrogate_by_loops(logprobs, old, advantages, mask, clip_eps):
    """The loss and its gradient, token by token, from the definition."""
    B, L = mask.shape
    count, loss, gradient = int(mask.sum()), 0.0, np.zeros((B, L))
    for i in range(B):
        for t in range(L):
            if not mask[i, t]:
                continue
            a = float(advantages[i, t if advantages.shape[1] > 1 else 0])
            ratio = math.exp(float(logprobs[i, t]) - float(old[i, t]))
            clipped = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
            loss -= min(ratio * a, clipped * a) / count
            past = (a > 0 and ratio > 1 + clip_eps) or (a < 0 and ratio < 1 - clip_eps)
            gradient[i, t] = 0.0 if past else -ratio * a / count
    return loss, gradient


def with_ratios(rows):
    """log-probabilities around -2 whose ratio to -2 is the given number."""
    return tensor(rows).log() - 2.0


def test_masked_policy_loss_by_hand(masked_policy_loss):
    """Minus the worse of clipped and unclipped, averaged over the tokens with mask 1."""
    logprobs = with_ratios([[9.0, 0.5, 1.0, 9.0, 1.5], [9.0, 0.5, 9.0, 1.0, 1.5]])
    mask = tensor([[0, 1, 1, 0, 1], [0, 1, 0, 1, 1]])
    got = masked_policy_loss(logprobs, torch.full_like(logprobs, -2.0), tensor([[2.0], [-1.0]]), mask)
    # 2 * (0.5 + 1 + 1.2) - (0.8 + 1 + 1.5) over 6 tokens
    expect_close(got, -(5.4 - 3.3) / 6, "ratios 0.5, 1, 1.5 with advantages 2 and -1")


def test_masked_policy_loss_gradient(masked_policy_loss):
    """The gradient is minus ratio times advantage over the number of policy tokens, 0 past the edge."""
    logprobs = with_ratios([[0.1, 1.0, 5.0, 10.0], [0.1, 1.0, 5.0, 10.0]]).requires_grad_()
    mask, old = tensor([[1, 1, 0, 1], [1, 1, 0, 1]]), torch.full((2, 4), -2.0, dtype=torch.float64)
    loss = masked_policy_loss(logprobs, old, tensor([[3.0], [-3.0]]), mask)
    (got,) = gradients(loss, [logprobs], "the loss")
    want = [[-0.05, -0.5, 0.0, 0.0], [0.0, 0.5, 0.0, 5.0]]
    expect_close(got, want, "the gradient for ratios 0.1, 1, (masked), 10 and advantages 3, -3")


def test_masked_policy_loss_every_token_counts_the_same(masked_policy_loss):
    """The mean is over all policy tokens of the batch: a row of one token weighs a third of one of three."""
    logprobs = torch.full((2, 4), -2.0, dtype=torch.float64)
    mask = tensor([[0, 1, 1, 1], [0, 0, 1, 0]])
    got = masked_policy_loss(logprobs, logprobs.clone(), tensor([[-4.0], [8.0]]), mask)
    expect_close(got, 1.0, "three tokens with advantage -4 and one with 8")


def test_masked_policy_loss_edges_follow_clip_eps(masked_policy_loss):
    """clip_eps is the range that was asked for, on both sides."""
    logprobs = with_ratios([[2.0, 2.0, 1.3]] * 2)
    mask, old = tensor([[1, 0, 1]] * 2), torch.full((2, 3), -2.0, dtype=torch.float64)
    got = masked_policy_loss(logprobs, old, tensor([[1.0, 50.0, 1.0], [-1.0, 50.0, -1.0]]), mask, 0.5)
    expect_close(got, -(1.5 + 1.3 - 2.0 - 1.3) / 4, "ratios 2 and 1.3, clip_eps 0.5")
    low = with_ratios([[0.1, 0.7]])
    got = masked_policy_loss(low, torch.full_like(low, -2.0), tensor([[-1.0]]), tensor([[1, 1]]), 0.5)
    expect_close(got, (0.5 + 0.7) / 2, "ratios 0.1 and 0.7, advantage -1, clip_eps 0.5")


def test_masked_policy_loss_tool_tokens_do_not_count(masked_policy_loss):
    """Ordinary numbers at tool tokens change neither the value nor the gradient."""
    mask = tensor([[0, 1, 0, 1], [0, 0, 1, 0]])
    results = []
    for filler in (0.0, -1.5, 1.0):
        noise = torch.where(mask == 0, filler, 0.0)
        logprobs = (with_ratios([[1.0, 1.1, 1.0, 0.9], [1.0, 1.0, 1.0, 1.0]]) + noise).requires_grad_()
        old = torch.full((2, 4), -2.0, dtype=torch.float64) - 0.5 * noise
        advantages = tensor([[1.0] * 4, [-2.0] * 4]) + 7 * noise
        loss = masked_policy_loss(logprobs, old, advantages, mask)
        results.append((loss, *gradients(loss, [logprobs], "the loss")))
    for loss, gradient in results:
        expect_close(loss, 0.0, "the loss of ratios 1.1, 0.9 with advantage 1 and ratio 1 with advantage -2")
        want = [[0.0, -1.1 / 3, 0.0, -0.9 / 3], [0.0, 0.0, 2 / 3, 0.0]]
        expect_close(gradient, want, "its gradient")


def test_masked_policy_loss_anything_at_tool_tokens(masked_policy_loss):
    """NaN and infinity at tool tokens reach neither the value nor the gradient."""
    mask = tensor([[0, 1, 0, 1]])
    for bad in (NAN, INF, -INF, 1e30):
        for place in ("logprobs", "old_logprobs", "advantages", "all three"):
            case = {
                "logprobs": with_ratios([[1.0, 1.1, 1.0, 0.5]]),
                "old_logprobs": torch.full((1, 4), -2.0, dtype=torch.float64),
                "advantages": torch.full((1, 4), 2.0, dtype=torch.float64),
            }
            for name in case if place == "all three" else [place]:
                case[name][mask == 0] = bad
            case["logprobs"].requires_grad_()
            loss = masked_policy_loss(**case, mask=mask)
            what = f"{bad} at the tool tokens of {place}"
            expect_close(loss, -1.6, f"the loss, {what}")
            (got,) = gradients(loss, [case["logprobs"]], "the loss")
            expect_close(got, [[0.0, -1.1, 0.0, -0.5]], f"the gradient, {what}")


def test_masked_policy_loss_a_row_without_policy_tokens(masked_policy_loss):
    """A row without policy tokens costs nothing and changes no other row's share."""
    logprobs = torch.full((2, 3), -2.0, dtype=torch.float64)
    mask, advantages = tensor([[0, 1, 1], [0, 0, 0]]), tensor([[3.0], [-9.0]])
    got = masked_policy_loss(logprobs, logprobs.clone(), advantages, mask)
    expect_close(got, -3.0, "two tokens with advantage 3 and an empty row")
    got = masked_policy_loss(logprobs, logprobs.clone(), advantages.flip(0), mask.flip(0))
    expect_close(got, -3.0, "an empty row, then two tokens with advantage 3")


def test_masked_policy_loss_a_batch_without_policy_tokens(masked_policy_loss):
    """A batch without any policy token costs 0, with gradient 0: training goes on."""
    logprobs = torch.full((2, 3), -2.0, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(2, 3, dtype=torch.float64)
    loss = masked_policy_loss(logprobs, logprobs.detach().clone(), tensor([[3.0], [-9.0]]), mask)
    expect_close(loss, 0.0, "the loss of an empty batch")
    (got,) = gradients(loss, [logprobs], "the loss of an empty batch")
    expect_close(got, torch.zeros(2, 3), "its gradient")
    for bad in (NAN, INF):
        logprobs = torch.full((2, 3), bad, dtype=torch.float64, requires_grad=True)
        loss = masked_policy_loss(logprobs, logprobs.detach().clone(), tensor([[3.0], [-9.0]]), mask)
        expect_close(loss, 0.0, f"the loss of an empty batch, {bad} at its tool tokens")
        (got,) = gradients(loss, [logprobs], "the loss of an empty batch")
        expect_close(got, torch.zeros(2, 3), f"its gradient, {bad} at its tool tokens")


def test_masked_policy_loss_stops_gradients(masked_policy_loss):
    """Neither the sampler's log-probabilities nor the advantages are trained."""
    logprobs = with_ratios([[1.1, 0.9]]).requires_grad_()
    old = torch.full((1, 2), -2.0, dtype=torch.float64, requires_grad=True)
    advantages = tensor([[2.0, -1.0]]).requires_grad_()
    loss = masked_policy_loss(logprobs, old, advantages, tensor([[1, 1]]))
    got, of_old, of_advantages = gradients(loss, [logprobs, old, advantages], "the loss")
    expect_close(got, [[-1.1, 0.45]], "the gradient of the log-probabilities")
    expect_close(of_old, [[0.0, 0.0]], "that of the old ones")
    expect_close(of_advantages, [[0.0, 0.0]], "that of the advantages")


def test_masked_policy_loss_tiny_probabilities(masked_policy_loss):
    """The ratio of two tiny probabilities is exact: subtract first, then exp."""
    logprobs, old = tensor([[-2000.0, -30.0]]), tensor([[-2000.1, -30.1]])
    got = masked_policy_loss(logprobs, old, tensor([[1.0]]), tensor([[1, 1]]))
    expect_close(got, -math.exp(0.1), "log-probabilities -2000 against -2000.1 and -30 against -30.1")


def test_masked_policy_loss_on_random_batches(masked_policy_loss):
    """On random batches of all sizes, value and gradient are those of a loop over tokens."""
    rng = np.random.default_rng(2)
    for B, L, wide in [(1, 1, False), (3, 7, True), (4, 6, False), (2, 400, True), (5, 2, False)]:
        mask = (rng.random((B, L)) < 0.6).astype(float)
        mask[0, -1] = 1.0
        logprobs = -5 * rng.random((B, L))
        old = logprobs - 1.5 * rng.standard_normal((B, L))
        advantages = rng.standard_normal((B, L if wide else 1))
        clip_eps = float(rng.uniform(0.05, 0.6))
        loss, gradient = surrogate_by_loops(logprobs, old, advantages, mask, clip_eps)
        for array in (logprobs, old, advantages) if wide and L > 1 else (logprobs, old):
            array[mask == 0] = NAN
        leaf = torch.tensor(logprobs, requires_grad=True)
        got = masked_policy_loss(leaf, *map(torch.tensor, (old, advantages, mask)), clip_eps)
        expect_close(got, loss, f"the loss of a random batch of {B} rows of {L}")
        (got,) = gradients(got, [leaf], "the loss of a random batch")
        expect_close(got, gradient, f"the gradient of a random batch of {B} rows of {L}")


def test_masked_policy_loss_keeps_its_inputs(masked_policy_loss):
    """No input is changed, also where the mask is 0."""
    case = [tensor([[-1.0, NAN]]), tensor([[-1.1, NAN]]), tensor([[2.0, NAN]]), tensor([[1.0, 0.0]])]
    before = [x.clone() for x in case]
    masked_policy_loss(*case)
    for name, a, b in zip(("logprobs", "old_logprobs", "advantages", "mask"), before, case, strict=True):
        expect_unchanged(a, b, name)


# trajectory_advantages


def test_trajectory_advantages_by_hand(trajectory_advantages):
    """Questions of two and of three episodes, rows mixed: each against its own question."""
    rewards, questions = tensor([1.0, 10.0, 3.0, 20.0, 60.0]), torch.tensor([7, 2, 7, 2, 2])
    got = trajectory_advantages(rewards, questions, torch.arange(5), eps=0.0)
    half, std = 1 / math.sqrt(2), math.sqrt(700.0)  # (10, 20, 60): mean 30, squares 400 + 100 + 900
    want = [-half, -20 / std, half, -10 / std, 30 / std]
    expect_close(got, want, "rewards 1, 3 and 10, 20, 60 of two questions")


def test_trajectory_advantages_eps(trajectory_advantages):
    """eps is added to the standard deviation, not to the variance."""
    got = trajectory_advantages(tensor([0.0, 2.0]), torch.tensor([0, 0]), torch.tensor([0, 1]), eps=1.0)
    want = 1 / (math.sqrt(2) + 1)
    expect_close(got, [-want, want], "rewards 0 and 2 with eps 1")


def test_trajectory_advantages_default_eps(trajectory_advantages):
    """Without an argument eps is 1e-4."""
    got = trajectory_advantages(tensor([0.0, 2e-4]), torch.tensor([0, 0]), torch.tensor([0, 1]))
    want = 1 / (math.sqrt(2) + 1)
    expect_close(got, [-want, want], "rewards 0 and 0.0002")


def test_trajectory_advantages_split_episodes_count_once(trajectory_advantages):
    """An episode in three rows counts once in mean and std, and all its rows get its advantage."""
    rewards = tensor([1.0, 3.0, 1.0, 1.0, 8.0])
    episodes = torch.tensor([4, 9, 4, 4, 2])
    got = trajectory_advantages(rewards, torch.zeros(5, dtype=torch.long), episodes, eps=0.0)
    std = math.sqrt(13.0)  # 1, 3, 8: mean 4, squares 9 + 1 + 16
    expect_close(got, [-3 / std, -1 / std, -3 / std, -3 / std, 4 / std], "episodes of 3, 1 and 1 rows")


def test_trajectory_advantages_equal_rewards_are_two_episodes(trajectory_advantages):
    """Two episodes with the same reward are two, not one."""
    rewards, ids = tensor([0.0, 0.0, 3.0]), torch.arange(3)
    got = trajectory_advantages(rewards, torch.zeros(3, dtype=torch.long), ids, eps=0.0)
    third = 1 / math.sqrt(3)
    expect_close(got, [-third, -third, 2 * third], "rewards 0, 0, 3 of three episodes")


def test_trajectory_advantages_single_episode(trajectory_advantages):
    """A question with one episode, in one row or in several, gives 0 and not NaN."""
    rewards = tensor([5.0, 2.0, 5.0, 3.0, 1.0])
    questions, episodes = torch.tensor([0, 1, 0, 2, 2]), torch.tensor([0, 1, 0, 2, 3])
    half = 1 / math.sqrt(2)
    for eps in (0.0, 1e-4):
        got = trajectory_advantages(rewards, questions, episodes, eps)
        want = half * math.sqrt(2) / (math.sqrt(2) + eps)
        expect_close(got, [0.0, 0.0, 0.0, want, -want], f"two single episodes and a pair, eps {eps}")


def test_trajectory_advantages_episode_ids_belong_to_a_question(trajectory_advantages):
    """Episode 0 of one question and episode 0 of another are two episodes."""
    rewards = tensor([1.0, 3.0, 20.0, 40.0])
    got = trajectory_advantages(rewards, torch.tensor([5, 5, 6, 6]), torch.tensor([0, 1, 0, 1]), eps=0.0)
    half = 1 / math.sqrt(2)
    expect_close(got, [-half, half, -half, half], "episodes 0 and 1 of two questions")
    for big in (10, 100, 1000, 10_000, 100_000, 1_000_000, 1_000_003, 10**9, 2**20, 2**31, 2**32):
        got = trajectory_advantages(
            rewards, torch.tensor([0, 0, 1, 1]), torch.tensor([big, 3, 0, 3]), eps=0.0
        )
        what = f"episodes {big}, 3 of question 0 and 0, 3 of question 1"
        expect_close(got, [-half, half, -half, half], what)


def test_trajectory_advantages_any_ids(trajectory_advantages):
    """Ids are names: negative, large and unsorted ones do."""
    rewards = tensor([1.0, 10.0, 3.0, 20.0])
    questions = torch.tensor([-3, 700, -3, 700])
    got = trajectory_advantages(rewards, questions, torch.tensor([70_000, -1, -7, 70_001]), eps=0.0)
    half = 1 / math.sqrt(2)
    expect_close(got, [-half, -half, half, half], "questions -3 and 700")
    questions = torch.tensor([2**60, 2**60 + 1, 2**60, 2**60 + 1])
    got = trajectory_advantages(rewards, questions, questions.sort().values, eps=0.0)
    expect_close(got, [-half, -half, half, half], "questions and episodes 2^60 and 2^60 + 1")


def test_trajectory_advantages_silent_question(trajectory_advantages):
    """A question whose rewards are all equal gives zeros; a small difference is a difference."""
    for reward in (0.0, 1.0):
        rewards = torch.full((3,), reward, dtype=torch.float64)
        got = trajectory_advantages(rewards, torch.zeros(3, dtype=torch.long), torch.arange(3))
        expect_close(got, [0.0] * 3, f"three rewards of {reward:g}")
    half = 1 / math.sqrt(2)
    got = trajectory_advantages(tensor([0.0, 2e-9]), torch.tensor([0, 0]), torch.tensor([0, 1]), eps=0.0)
    expect_close(got, [-half, half], "rewards 0 and 2e-9, eps 0")


def test_trajectory_advantages_dtype_and_empty(trajectory_advantages):
    """The result has rewards' dtype, and its precision; a batch without rows gives none."""
    for dtype in (torch.float32, torch.float64):
        got = trajectory_advantages(torch.ones(2, dtype=dtype), torch.zeros(2).long(), torch.arange(2))
        expect_true(getattr(got, "dtype", None) == dtype, f"rewards of {dtype} should give {dtype}")
    none = torch.zeros(0, dtype=torch.long)
    expect_shape(trajectory_advantages(torch.zeros(0), none, none), (0,), "no rows")
    rewards, std = tensor([10000.01, 10000.02, 10000.06]), 0.01 * math.sqrt(7.0)  # mean 10000.03
    got = trajectory_advantages(rewards, torch.zeros(3).long(), torch.arange(3), eps=0.0)
    want = [-0.02 / std, -0.01 / std, 0.03 / std]
    expect_close(got, want, "rewards 10000.01, 10000.02, 10000.06 of float64", rtol=1e-3)


def advantages_by_loops(rewards, questions, episodes, eps):
    out = []
    for reward, question in zip(rewards, questions, strict=True):
        group = {e: r for r, q, e in zip(rewards, questions, episodes, strict=True) if q == question}
        n, mean = len(group), sum(group.values()) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group.values()) / (n - 1)) if n > 1 else 0.0
        out.append((reward - mean) / (std + eps) if n > 1 else 0.0)
    return out


def test_trajectory_advantages_on_random_batches(trajectory_advantages):
    """On random batches, with split episodes in any order, they are those of a loop."""
    rng = np.random.default_rng(3)
    for size in (1, 2, 7, 30):
        for _ in range(5):
            episode = rng.integers(-4, 8, size)
            question = episode % 3 - 1
            of_episode = {e: float(rng.normal()) for e in episode.tolist()}
            rewards = [of_episode[e] for e in episode.tolist()]
            eps = float(rng.choice([1e-4, 0.3]))
            want = advantages_by_loops(rewards, question.tolist(), episode.tolist(), eps)
            rows = (tensor(rewards), torch.tensor(question), torch.tensor(episode))
            got = trajectory_advantages(*rows, eps)
            expect_close(got, want, f"a random batch of {size} rows")
            expect_unchanged(rewards, rows[0], "rewards")
            expect_unchanged(question, rows[1], "questions")
            expect_unchanged(episode, rows[2], "episodes")


# turn_returns


def test_turn_returns_by_hand(turn_returns):
    """Without discount a token gets the sum of the rewards from its own turn on; other tokens 0."""
    rewards, turn = tensor([[1.0, 2.0, 4.0]]), torch.tensor([[-1, 0, 0, -1, 1, -1, -1, 2, 2, -1]])
    want = [[0.0, 7.0, 7.0, 0.0, 6.0, 0.0, 0.0, 4.0, 4.0, 0.0]]
    expect_close(turn_returns(rewards, turn), want, "rewards 1, 2, 4 after three turns")


def test_turn_returns_discount_per_turn(turn_returns):
    """gamma is applied once per turn, however many tokens a turn or a tool result has."""
    rewards, turn = tensor([[1.0, 2.0, 4.0]]), torch.tensor([[-1, 0, 0, 0, -1, -1, -1, 1, -1, 2, 2]])
    want = [[0.0, 3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 4.0, 0.0, 4.0, 4.0]]  # 1 + 2/2 + 4/4; 2 + 4/2; 4
    expect_close(turn_returns(rewards, turn, 0.5), want, "rewards 1, 2, 4, gamma 0.5")


def test_turn_returns_pass_over_observations(turn_returns):
    """A reward at the end reaches the turns before the tool's answers."""
    got = turn_returns(tensor([[0.0, 1.0]]), torch.tensor([[0, -1, 1]]), 0.5)
    expect_close(got, [[0.5, 0.0, 1.0]], "reward 1 after the second turn, gamma 0.5")


def test_turn_returns_rows_of_different_lengths(turn_returns):
    """Every row has its own turns, and padding and rows without turns get 0."""
    rewards = tensor([[1.0, 8.0, -2.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    turn = torch.tensor([[0, -1, 1, 2], [-1, 0, 0, -1], [-1, -1, -1, -1]])
    want = [[4.5, 0.0, 7.0, -2.0], [0.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    expect_close(turn_returns(rewards, turn, 0.5), want, "three rows with 3, 1 and 0 turns, gamma 0.5")


def test_turn_returns_a_turn_without_tokens(turn_returns):
    """The reward of a turn without tokens counts for the turns before it, and gamma passes it too."""
    got = turn_returns(tensor([[1.0, 2.0, 8.0]]), torch.tensor([[0, -1, 2]]), 0.5)
    expect_close(got, [[4.0, 0.0, 8.0]], "no token of turn 1, rewards 1, 2, 8, gamma 0.5")
    got = turn_returns(tensor([[1.0, 2.0, 8.0]]), torch.tensor([[0, -1, 1, -1]]), 0.5)
    expect_close(got, [[4.0, 0.0, 6.0, 0.0]], "no token of turn 2, rewards 1, 2, 8, gamma 0.5")


def test_turn_returns_dtype(turn_returns):
    """The result has turn_rewards' dtype and turn's shape."""
    for dtype in (torch.float32, torch.float64):
        got = turn_returns(torch.ones(2, 1, dtype=dtype), torch.tensor([[0, -1, -1], [0, 0, -1]]))
        expect_shape(got, (2, 3), "two rows of three tokens")
        expect_true(getattr(got, "dtype", None) == dtype, f"rewards of {dtype} should give {dtype}")
        got = turn_returns(torch.ones(1, 1, dtype=dtype), torch.tensor([[-1, -1]]))
        expect_close(got, [[0.0, 0.0]], "a batch without policy tokens")
        expect_true(got.dtype == dtype, f"rewards of {dtype} without policy tokens should give {dtype}")


def test_turn_returns_gamma_zero(turn_returns):
    """With gamma 0 only the turn's own reward counts."""
    got = turn_returns(tensor([[1.0, 2.0]]), torch.tensor([[0, -1, 1]]), 0.0)
    expect_close(got, [[1.0, 0.0, 2.0]], "rewards 1, 2, gamma 0")


def test_turn_returns_on_random_batches(turn_returns):
    """On random batches they are the sums of the definition, and no input is changed."""
    rng = np.random.default_rng(4)
    for B, K, L in [(1, 1, 1), (3, 4, 9), (2, 1, 5), (2, 60, 400)]:
        rewards, turn = rng.standard_normal((B, K)), np.full((B, L), -1)
        for i in range(B):
            turns = int(rng.integers(1, K + 1))
            rewards[i, turns:] = 0.0
            numbers = np.sort(rng.integers(0, turns, L))
            turn[i] = np.where(rng.random(L) < 0.6, numbers, -1)
        gamma = float(rng.choice([1.0, 0.9, 0.3]))
        want = [
            [sum(gamma ** (j - k) * rewards[i, j] for j in range(k, K)) if k >= 0 else 0.0 for k in turn[i]]
            for i in range(B)
        ]
        a, b = torch.tensor(rewards), torch.tensor(turn)
        expect_close(turn_returns(a, b, gamma), want, f"{B} rows of {L} tokens, at most {K} turns")
        expect_unchanged(rewards, a, "turn_rewards")
        expect_unchanged(turn, b, "turn")


# masked_gae


def gae_by_sums(rewards, values, mask, gamma, gae_lambda):
    """Straight from the definition: sums of the TD errors of each row's policy tokens."""
    B, L = mask.shape
    out = np.zeros((B, L))
    for i in range(B):
        at = [t for t in range(L) if mask[i, t]]
        deltas = [rewards[i, t] - values[i, t] for t in at]
        for k, t in enumerate(at[1:]):
            deltas[k] += gamma * values[i, t]
        for k, t in enumerate(at):
            out[i, t] = sum((gamma * gae_lambda) ** n * d for n, d in enumerate(deltas[k:]))
    return out


def gae_pair(masked_gae, *case):
    got = masked_gae(*case)
    expect_true(isinstance(got, tuple | list) and len(got) == 2, "two results: advantages and targets")
    return got


def test_masked_gae_by_hand(masked_gae):
    """Without tool tokens it is GAE; after the last token nothing is bootstrapped."""
    rewards, values = tensor([[1.0, 2.0, 4.0]]), tensor([[0.5, 1.0, 2.0]])
    got = gae_pair(masked_gae, rewards, values, torch.ones(1, 3, dtype=torch.float64), 0.5, 0.5)
    # TD errors 1 + 0.5 - 0.5, 2 + 1 - 1, 4 - 2; then 2, 2 + 2/4, 1 + 2.5/4
    expect_close(got[0], [[1.625, 2.5, 2.0]], "advantages for rewards 1, 2, 4, values 0.5, 1, 2")
    expect_close(got[1], [[2.125, 3.5, 4.0]], "targets: advantages plus values")


def test_masked_gae_skips_tool_tokens(masked_gae):
    """Tool tokens in between, with numbers of their own, change nothing at the policy's tokens."""
    rewards = tensor([[50.0, 1.0, 60.0, 70.0, 2.0, 80.0, 4.0]])
    values = tensor([[9.0, 0.5, -9.0, 8.0, 1.0, 7.0, 2.0]])
    mask = tensor([[0, 1, 0, 0, 1, 0, 1]])
    got = gae_pair(masked_gae, rewards, values, mask, 0.5, 0.5)
    expect_close(got[0], [[0, 1.625, 0, 0, 2.5, 0, 2.0]], "advantages with four tool tokens")
    expect_close(got[1], [[0, 2.125, 0, 0, 3.5, 0, 4.0]], "targets with four tool tokens")


def test_masked_gae_anything_at_tool_tokens(masked_gae):
    """NaN and infinity at tool tokens reach nothing."""
    for bad in (NAN, INF, -INF):
        rewards, values = tensor([[bad, 1.0, bad, 2.0, bad]]), tensor([[bad, 0.5, bad, 1.0, bad]])
        got = gae_pair(masked_gae, rewards, values, tensor([[0, 1, 0, 1, 0]]), 0.5, 0.5)
        expect_close(got[0], [[0.0, 1.25, 0.0, 1.0, 0.0]], f"advantages, {bad} at tool tokens")
        expect_close(got[1], [[0.0, 1.75, 0.0, 2.0, 0.0]], f"targets, {bad} at tool tokens")


def test_masked_gae_the_episode_is_over(masked_gae):
    """After a row's last policy token comes nothing, whatever the padding's values are."""
    rewards, values = tensor([[1.0, 9.0, 9.0], [1.0, 1.0, 1.0]]), tensor([[0.25, 9.0, 9.0], [0.5, 0.5, 0.5]])
    mask = tensor([[1, 0, 0], [1, 1, 1]])
    got = gae_pair(masked_gae, rewards, values, mask, 1.0, 1.0)
    expect_close(got[0], [[0.75, 0.0, 0.0], [2.5, 1.5, 0.5]], "a row of one token beside one of three")


def test_masked_gae_lambda_one_and_zero(masked_gae):
    """lambda 1: discounted return minus value. lambda 0: the TD errors."""
    rewards, values = tensor([[1.0, 0.0, 2.0, 4.0]]), tensor([[0.5, 0.0, 1.0, 2.0]])
    mask = tensor([[1, 0, 1, 1]])
    one = gae_pair(masked_gae, rewards, values, mask, 0.5, 1.0)
    expect_close(one[0], [[2.5, 0.0, 3.0, 2.0]], "lambda 1: returns 3, 4, 4 minus values 0.5, 1, 2")
    expect_close(one[1], [[3.0, 0.0, 4.0, 4.0]], "lambda 1: the targets are the returns")
    zero = gae_pair(masked_gae, rewards, values, mask, 0.5, 0.0)
    expect_close(zero[0], [[1.0, 0.0, 2.0, 2.0]], "lambda 0: TD errors 1, 2, 2")


def test_masked_gae_rows_without_policy_tokens(masked_gae):
    """A row without policy tokens gives zeros, in any company."""
    rewards = tensor([[3.0, 3.0], [NAN, 5.0]])
    got = gae_pair(masked_gae, rewards, rewards.clone() - 1, tensor([[1, 1], [0, 0]]), 1.0, 1.0)
    expect_close(got[0], [[4.0, 1.0], [0.0, 0.0]], "advantages of a full and an empty row")
    expect_close(got[1], [[6.0, 3.0], [0.0, 0.0]], "targets of a full and an empty row")


def test_masked_gae_has_no_gradient(masked_gae):
    """Advantages and targets are data: no gradient flows through them."""
    values = tensor([[0.5, 1.0]]).requires_grad_()
    rewards = tensor([[1.0, 1.0]]).requires_grad_()
    got = gae_pair(masked_gae, rewards, values, tensor([[1, 1]]), 0.9, 0.9)
    expect_true(
        not getattr(got[0], "requires_grad", False),
        "the advantages require grad: the policy loss would train the critic",
    )
    expect_true(
        not getattr(got[1], "requires_grad", False), "the targets require grad: the critic would chase itself"
    )


def test_masked_gae_dtype(masked_gae):
    """Advantages and targets have values' dtype."""
    for dtype in (torch.float32, torch.float64):
        ones = torch.ones(2, 3, dtype=dtype)
        for name, x in zip(
            ("advantages", "targets"), gae_pair(masked_gae, ones, ones, ones, 0.5, 0.5), strict=True
        ):
            expect_true(
                getattr(x, "dtype", None) == dtype, f"values of {dtype} should give {name} of {dtype}"
            )


def test_masked_gae_keeps_its_inputs(masked_gae):
    """Rewards, values and mask are not changed."""
    case = [tensor([[NAN, 1.0, 2.0]]), tensor([[NAN, 0.5, 1.0]]), tensor([[0.0, 1.0, 1.0]])]
    before = [x.clone() for x in case]
    masked_gae(*case, 0.5, 0.5)
    for name, a, b in zip(("rewards", "values", "mask"), before, case, strict=True):
        expect_unchanged(a, b, name)


def test_masked_gae_on_random_batches(masked_gae):
    """On random batches with random masks they are the sums of the definition."""
    rng = np.random.default_rng(5)
    for B, L in [(1, 1), (3, 8), (1, 400), (4, 5)]:
        rewards, values = rng.standard_normal((B, L)), rng.standard_normal((B, L))
        mask = (rng.random((B, L)) < 0.5).astype(float)
        gamma, gae_lambda = float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.2, 1.0))
        want = gae_by_sums(rewards, values, mask, gamma, gae_lambda)
        rewards[mask == 0] = NAN
        case = [torch.tensor(x) for x in (rewards, values, mask)]
        got = gae_pair(masked_gae, *case, gamma, gae_lambda)
        expect_close(got[0], want, f"advantages of a random batch of {B} rows of {L}")
        expect_close(got[1], want + values * mask, f"targets of a random batch of {B} rows of {L}")


# scalar_reward


def test_scalar_reward_of_floats(scalar_reward):
    """Success minus weighted cost minus weighted risk."""
    expect_close(scalar_reward(1.0, 3.0, 2.0, 0.1, 0.25), 0.2, "success 1, cost 3, risk 2, weights 0.1, 0.25")
    expect_close(scalar_reward(0.0, 3.0, 0.0, 0.1, 0.25), -0.3, "success 0, cost 3, risk 0")


def test_scalar_reward_of_tensors(scalar_reward):
    """Elementwise, and a success may be partial."""
    success, cost, risk = tensor([1.0, 0.5, 0.0]), tensor([2.0, 1.0, 4.0]), tensor([0.0, 2.0, 1.0])
    got = scalar_reward(success, cost, risk, 0.5, 0.25)
    expect_close(got, [0.0, -0.5, -2.25], "three episodes, weights 0.5 and 0.25")
    table = scalar_reward(success.view(1, 3), cost.view(1, 3), risk.view(1, 3), 0.5, 0.25)
    expect_close(table, [[0.0, -0.5, -2.25]], "the same of shape (1, 3)")


def test_scalar_reward_gate(scalar_reward):
    """With max_risk a success counts up to that risk, the edge included; cost and risk always count."""
    success, cost, risk = tensor([1.0, 1.0, 0.5, 0.0]), tensor([1.0] * 4), tensor([1.0, 2.0, 2.5, 3.0])
    got = scalar_reward(success, cost, risk, 0.5, 0.25, max_risk=2.0)
    expect_close(got, [0.25, 0.0, -1.125, -1.25], "risks 1, 2, 2.5, 3 with max_risk 2")


def test_scalar_reward_gate_of_floats(scalar_reward):
    """The gate works for floats too, and a max_risk of 0 is a gate."""
    expect_close(scalar_reward(1.0, 0.0, 0.5, 0.1, 0.0, max_risk=0.0), 0.0, "risk 0.5, max_risk 0")
    expect_close(scalar_reward(1.0, 2.0, 0.0, 0.1, 0.0, max_risk=0.0), 0.8, "risk 0, max_risk 0")
    expect_close(scalar_reward(1.0, 2.0, 3.0, 0.1, 0.1, max_risk=3.0), 0.5, "risk 3, max_risk 3")


def test_scalar_reward_rejects_negative_weights(scalar_reward):
    """A negative weight would reward cost or risk; a weight of 0 is fine."""
    expect_raises(ValueError, lambda: scalar_reward(1.0, 1.0, 1.0, -0.1, 0.1), "cost_weight -0.1")
    expect_raises(ValueError, lambda: scalar_reward(1.0, 1.0, 1.0, 0.1, -0.1), "risk_weight -0.1")
    for weights in ((0.5, -0.1), (-0.1, 0.5)):
        expect_raises(
            ValueError,
            lambda w=weights: scalar_reward(1.0, 1.0, 1.0, *w, max_risk=2.0),
            f"a gate and weights {weights}",
        )
    expect_close(scalar_reward(1.0, 1.0, 1.0, 0.0, 0.0), 1.0, "both weights 0")


def test_scalar_reward_on_random_episodes(scalar_reward):
    """On random numbers it is the sum of the definition, and no input is changed."""
    rng = np.random.default_rng(6)
    for max_risk in (None, 0.0, 0.5):
        success, cost = rng.integers(0, 2, 40).astype(float), rng.random(40) * 5
        risk = rng.choice([0.0, 0.2, 0.5, 0.9], 40)
        wc, wr = rng.random(2).tolist()
        want = [
            (s if max_risk is None or r <= max_risk else 0.0) - wc * c - wr * r
            for s, c, r in zip(success, cost, risk, strict=True)
        ]
        case = [torch.tensor(x) for x in (success, cost, risk)]
        expect_close(scalar_reward(*case, wc, wr, max_risk), want, f"40 episodes, max_risk {max_risk}")
        for name, a, b in zip(("success", "cost", "risk"), (success, cost, risk), case, strict=True):
            expect_unchanged(a, b, name)


# pareto_front


def front_by_loops(points):
    """Point against point, from the definition."""
    losses = [(-s, c, r) for s, c, r in points.tolist()]

    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return [not any(map(math.isnan, b)) and not any(beats(a, b) for a in losses) for b in losses]


def test_pareto_front_by_hand(pareto_front):
    """A point is out if another is at least as good in all columns and better in one."""
    points = np.array([
        [0.9, 5.0, 0.2],
        [0.8, 5.0, 0.2],  # less success at the same cost and risk as row 0
        [0.5, 1.0, 0.3],
        [0.9, 6.0, 0.2],  # more cost than row 0
        [0.4, 4.0, 0.0],
        [0.5, 1.0, 0.4],  # more risk than row 2
    ])  # fmt: skip
    expect_equal(pareto_front(points), [True, False, True, False, True, False], "six agents")


def test_pareto_front_more_success_is_better(pareto_front):
    """In the first column more is better, in the two others less."""
    got = pareto_front(np.array([[0.2, 1.0, 1.0], [0.8, 1.0, 1.0]]))
    expect_equal(got, [False, True], "success 0.2 and 0.8, all else equal")
    got = pareto_front(np.array([[0.5, 1.0, 1.0], [0.5, 0.0, 1.0], [0.5, 1.0, 0.0]]))
    expect_equal(got, [False, True, True], "one with less cost, one with less risk")


def test_pareto_front_small_differences(pareto_front):
    """However little better is better."""
    points = np.array([[0.5, 1.0, 0.0], [0.5, 1.0 + 1e-9, 0.0], [0.5 - 1e-9, 0.5, 0.0]])
    expect_equal(
        pareto_front(points), [True, False, True], "costs 1 and 1 + 1e-9, success 0.5 and 0.5 - 1e-9"
    )


def test_pareto_front_best_in_one_column_only(pareto_front):
    """Better in one column and worse in another does not dominate, even if better in two."""
    got = pareto_front(np.array([[0.9, 1.0, 0.1], [0.8, 0.9, 5.0], [0.1, 9.0, 0.0]]))
    expect_equal(got, [True, True, True], "three agents, each best in one column")


def test_pareto_front_middle_points(pareto_front):
    """A point that is best in no column is on the front if nothing dominates it."""
    got = pareto_front(np.array([[0.9, 9.0, 0.5], [0.1, 1.0, 0.5], [0.4, 5.0, 0.5], [0.4, 7.0, 0.5]]))
    expect_equal(got, [True, True, True, False], "success 0.4 at cost 5, between two extremes")


def test_pareto_front_equal_points(pareto_front):
    """Equal points do not dominate each other: both stay, or both go."""
    points = np.array([[0.5, 1.0, 0.0], [0.5, 1.0, 0.0], [0.4, 2.0, 0.0], [0.4, 2.0, 0.0]])
    expect_equal(pareto_front(points), [True, True, False, False], "two pairs of equal points")


def test_pareto_front_nan(pareto_front):
    """A row with NaN is not on the front and dominates nothing."""
    points = np.array([[NAN, 0.0, 0.0], [0.5, 1.0, 0.5], [1.0, NAN, 0.0], [1.0, 0.0, NAN], [0.4, 1.0, 0.5]])
    expect_equal(pareto_front(points), [False, True, False, False, False], "three rows with NaN")
    expect_equal(pareto_front(np.full((1, 3), NAN)), [False], "a single row of NaN")


def test_pareto_front_infinity(pareto_front):
    """Infinity is a number, not NaN: an agent of infinite cost may be the one with most success."""
    points = np.array([[0.9, INF, 0.5], [0.5, 1.0, 0.5], [0.4, 1.0, INF]])
    expect_equal(pareto_front(points), [True, True, False], "infinite cost with most success, infinite risk")


def test_pareto_front_small(pareto_front):
    """No point gives an empty bool array, a single point is on the front."""
    none = expect_shape(pareto_front(np.zeros((0, 3))), (0,), "no points")
    expect_true(none.dtype == bool, f"a bool array was expected for no points, got {none.dtype}")
    one = expect_shape(pareto_front(np.array([[0.0, 9.0, 9.0]])), (1,), "one point")
    expect_true(one.dtype == bool, f"a bool array was expected for one point, got {one.dtype}")
    expect_equal(one, [True], "one point")


def test_pareto_front_on_random_points(pareto_front):
    """On random points, with many ties and some NaN, it is that of the definition."""
    rng = np.random.default_rng(7)
    for n in (2, 5, 30, 200):
        for whole in (True, False):
            points = rng.integers(0, 5, (n, 3)).astype(float) if whole else rng.standard_normal((n, 3))
            points[rng.random((n, 3)) < 0.05] = NAN
            before = points.copy()
            got = expect_shape(pareto_front(points), (n,), f"{n} random points")
            expect_true(got.dtype == bool, f"a bool array was expected, got {got.dtype}")
            expect_equal(got, front_by_loops(before), f"{n} random points")
            expect_unchanged(before, points, "points")


# run_agent


class Step(NamedTuple):
    """What the world answers, as in rlcourse.agents."""

    text: str
    reward: float = 0.0
    done: bool = False
    reason: str | None = None
    cost: float = 0.0
    risk: float = 0.0


class Script:
    """A world that answers with the given steps; an exception among them is raised."""

    def __init__(self, *steps, user="task"):
        self.steps, self.user = list(steps), user
        self.resets, self.heard, self.over, self.late = 0, [], False, 0

    def reset(self):
        self.resets += 1
        return self.user

    def step(self, text):
        self.late += self.over  # stepped after the end
        self.heard.append(text)
        answer = self.steps[min(len(self.heard), len(self.steps)) - 1]
        self.over = self.over or isinstance(answer, Exception) or answer.done
        if isinstance(answer, Exception):
            raise answer
        return answer


def says(*texts):
    """A policy that says the given texts, one after the other, and remembers what it was shown."""

    def policy(messages):
        policy.shown.append([dict(m) for m in messages])
        return texts[min(len(policy.shown), len(texts)) - 1]

    policy.shown = []
    return policy


def chat(*texts, roles="uatatatatatat"):
    names = {"u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[r], "content": t} for r, t in zip(roles, texts, strict=False)]


def expect_record(got, messages, rewards, reason, what):
    expect_true(hasattr(got, "messages") and hasattr(got, "reason"), f"{what}: an EpisodeRecord was expected")
    expect_equal([dict(m) for m in got.messages], messages, f"{what}: messages")
    expect_close(list(got.rewards), rewards, f"{what}: rewards")
    expect_equal(None if got.reason is None else str(got.reason), reason, f"{what}: reason")


def test_run_agent_three_turns(run_agent):
    """User, then assistant and tool in turn, and the end that the world names."""
    env = Script(Step("one", 0.25), Step("two", -0.5), Step("bye", 1.0, True, "submitted"))
    got = run_agent(env, says("a", " b ", "c"), 9)
    want = chat("task", "a", "one", " b ", "two", "c", "bye")
    expect_record(got, want, [0.25, -0.5, 1.0], "submitted", "three turns")
    expect_equal(env.heard, ["a", " b ", "c"], "what the world was told")


def test_run_agent_the_rewards_are_the_worlds(run_agent):
    """Rewards are recorded as they are: cost and risk are weighed elsewhere."""
    env = Script(Step("one", 0.25, cost=2.0, risk=1.0), Step("", 1.0, True, "submitted", 3.0, 4.0))
    got = run_agent(env, says("a"), 9)
    expect_record(got, chat("task", "a", "one", "a"), [0.25, 1.0], "submitted", "steps with cost and risk")


def test_run_agent_what_the_policy_reads(run_agent):
    """In each turn the policy reads all messages so far, the tool's answers as the tool's."""
    policy = says("a", "b")
    run_agent(Script(Step("one"), Step("", 1.0, True, "submitted"), user="find x"), policy, 9)
    expect_equal(len(policy.shown), 2, "how often the policy was asked")
    expect_equal(policy.shown[0], chat("find x"), "what the policy read in turn 0")
    expect_equal(policy.shown[1], chat("find x", "a", "one"), "what it read in turn 1")


def test_run_agent_empty_texts(run_agent):
    """An empty answer of the tool is a message, but not after the last step."""
    env = Script(Step(""), Step("", 1.0, True, "submitted"))
    got = run_agent(env, says("a", "b"), 9)
    expect_record(got, chat("task", "a", "", "b"), [0.0, 1.0], "submitted", "two empty answers")
    got = run_agent(Script(Step(" ", 1.0, True, "submitted")), says("a"), 9)
    expect_record(got, chat("task", "a", " "), [1.0], "submitted", "a last answer of one space, not empty")


def test_run_agent_an_empty_reply(run_agent):
    """A policy that says nothing has taken a turn: the world hears the empty text and goes on."""
    env = Script(Step("what?"), Step("ok", 1.0, True, "submitted"))
    got = run_agent(env, says("", "b"), 9)
    expect_record(
        got, chat("task", "", "what?", "b", "ok"), [0.0, 1.0], "submitted", "an empty reply, then b"
    )
    expect_equal(env.heard, ["", "b"], "what the world heard")


def test_run_agent_turn_limit(run_agent):
    """After max_turns turns without an end the reason is turn_limit, whatever the rewards say."""
    env = Script(Step("one", 1.0), Step("two", 2.0), Step("three", 3.0))
    got = run_agent(env, says("a"), 2)
    want = chat("task", "a", "one", "a", "two")
    expect_record(got, want, [1.0, 2.0], "turn_limit", "max_turns 2")
    expect_equal(len(env.heard), 2, "the number of steps with max_turns 2")
    got = run_agent(Script(Step("one", 1.0), Step("", 1.0)), says("a"), 2)
    expect_record(
        got, chat("task", "a", "one", "a"), [1.0, 1.0], "turn_limit", "an empty answer at the limit"
    )
    got = run_agent(Script(Step("one", 5.0)), says("a"), 1)
    expect_record(got, chat("task", "a", "one"), [5.0], "turn_limit", "max_turns 1")


def test_run_agent_an_end_at_the_limit(run_agent):
    """An episode that ends in its last allowed turn has the world's reason, not turn_limit."""
    for turns in (1, 2):
        steps = [Step("more")] * (turns - 1) + [Step("", 1.0, True, "submitted")]
        got = run_agent(Script(*steps), says("a"), turns)
        want = chat("task", *["a", "more"] * (turns - 1), "a")
        expect_record(
            got, want, [0.0] * (turns - 1) + [1.0], "submitted", f"an end in turn {turns} of {turns}"
        )


def test_run_agent_other_reasons(run_agent):
    """The reason is the one that the world gives, also for an end without success."""
    for reason, reward in (("timeout", 1.0), ("budget", -1.0), ("invalid_call", 0.5), ("submitted", -1.0)):
        env = Script(Step("one"), Step("stop", reward, True, reason), Step("late", 9.0))
        got = run_agent(env, says("a"), 9)
        what = f"an end by {reason} with reward {reward:g}"
        expect_record(got, chat("task", "a", "one", "a", "stop"), [0.0, reward], reason, what)
        expect_equal(env.late, 0, "the number of steps after the end")


def test_run_agent_a_broken_tool(run_agent):
    """A step that raises ends the episode as tool_error with reward 0 for that turn; what was stays."""
    for error in (RuntimeError("disk"), KeyError("x"), TimeoutError()):
        env = Script(Step("one", 0.5), error, Step("late", 9.0))
        got = run_agent(env, says("a", "b"), 9)
        name = type(error).__name__
        expect_record(got, chat("task", "a", "one", "b"), [0.5, 0.0], "tool_error", f"{name} in turn 1")
        expect_equal(env.late, 0, "the number of steps after the error")
    got = run_agent(Script(RuntimeError("disk")), says("a"), 1)
    expect_record(got, chat("task", "a"), [0.0], "tool_error", "an error in the only turn")


def test_run_agent_a_stop_from_outside(run_agent):
    """Only an Exception is a tool error: what stops the whole program, such as Ctrl-C, goes through."""

    class Interrupt(BaseException):
        pass

    class Stopped(Script):
        def step(self, text):
            raise Interrupt

    expect_raises(Interrupt, lambda: run_agent(Stopped(), says("a"), 9), "a BaseException in env.step")


def test_run_agent_errors_of_the_policy(run_agent):
    """What the policy raises goes to the caller: it is our bug, not the world's."""

    def policy(messages):
        if len(messages) > 1:
            raise ArithmeticError("a bug")
        return "a"

    expect_raises(ArithmeticError, lambda: run_agent(Script(Step("one")), policy, 9), "a policy that raises")


def test_run_agent_the_policy_has_a_copy(run_agent):
    """A policy that writes into its messages changes neither the record nor what it reads next."""
    seen = []

    def policy(messages):
        seen.append([dict(m) for m in messages])
        messages[0]["content"] = "changed"
        messages[-1]["role"] = "system"
        messages.append({"role": "assistant", "content": "draft"})
        return "a"

    got = run_agent(Script(Step("one"), Step("", 1.0, True, "submitted")), policy, 9)
    expect_record(got, chat("task", "a", "one", "a"), [0.0, 1.0], "submitted", "a policy that writes")
    expect_equal(seen[1], chat("task", "a", "one"), "what it reads in turn 1")


def test_run_agent_one_reset(run_agent):
    """The world is reset once, before the first turn."""
    env = Script(Step("one"), Step("two"), Step("", 1.0, True, "submitted"))
    run_agent(env, says("a"), 9)
    expect_equal(env.resets, 1, "the number of resets")


def test_run_agent_rejects_no_turns(run_agent):
    """max_turns below 1 is refused before the world is touched."""
    for turns in (0, -3):
        env = Script(Step("one"))
        expect_raises(ValueError, lambda n=turns, e=env: run_agent(e, says("a"), n), f"max_turns {turns}")
        expect_equal(env.resets, 0, f"the number of resets with max_turns {turns}")


def test_run_agent_long(run_agent):
    """An episode of 50 turns has 50 rewards, and the policy is asked 50 times."""
    steps = [Step(f"t{k}", k / 8) for k in range(49)] + [Step("", 1.0, True, "submitted")]
    policy = says("a")
    got = run_agent(Script(*steps), policy, 50)
    want = chat("task", *[x for k in range(49) for x in ("a", f"t{k}")], "a", roles="u" + "at" * 50)
    expect_record(got, want, [k / 8 for k in range(49)] + [1.0], "submitted", "50 turns")
    expect_equal([len(m) for m in policy.shown], list(range(1, 100, 2)), "how much the policy reads, by turn")


# grpo_update

# The probe: a policy whose next token depends on the last one only. Row v of its table has the logits
# after token v, so every organ of the training step moves rows of its own.
VOCABULARY = 8


class Bigram(torch.nn.Module):
    """Called like a transformers model; logits of row ids[:, t] at position t."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(VOCABULARY, VOCABULARY, generator=generator, dtype=torch.float64)
        self.low, self.high = (torch.nn.Parameter(half) for half in table.chunk(2))

    @property
    def table(self):
        return torch.cat([self.low, self.high])

    def forward(self, input_ids, **ignored):
        class Output(NamedTuple):
            logits: torch.Tensor

        return Output(self.table[input_ids])


class Batch(NamedTuple):
    ids: torch.Tensor
    mask: torch.Tensor
    logprobs: torch.Tensor


def probe_batch(model, rows, shift=0.0, pad_to=0):
    """Rows as texts: "1 *2 3 *4" are tokens 1 2 3 4, of which the policy chose 2 and 4. `shift` is
    added to the sampler's log-probabilities."""
    words = [row.split() for row in rows]
    L = max(pad_to, *map(len, words))
    ids, mask, logprobs = torch.zeros(len(rows), L).long(), torch.zeros(len(rows), L), None
    for i, row in enumerate(words):
        for t, word in enumerate(row):
            ids[i, t], mask[i, t] = int(word.strip("*")), float("*" in word)
    table = model.table.detach().log_softmax(1)
    logprobs = torch.zeros(len(rows), L, dtype=torch.float64)
    logprobs[:, 1:] = (table[ids[:, :-1], ids[:, 1:]] + shift) * mask[:, 1:]
    return Batch(ids, mask.double(), logprobs)


def trained_by_loops(table, batch, rewards, questions, lr, clip_eps=0.2, updates=2, max_grad_norm=1.0):
    """The table after plain gradient steps, and the losses, from the formulas: no autograd."""
    table, losses = table.copy(), []
    ids, mask, old = (x.numpy() for x in batch)
    advantages = advantages_by_loops(rewards, questions, range(len(rewards)), 1e-4)
    for _ in range(updates):
        p = np.exp(table) / np.exp(table).sum(1, keepdims=True)
        gradient, loss, count = np.zeros_like(table), 0.0, max(mask.sum(), 1)
        for i, t in np.argwhere(mask == 1):
            row, token, a = ids[i, t - 1], ids[i, t], advantages[i]
            ratio = p[row, token] / math.exp(old[i, t])
            clipped = min(max(ratio, 1 - clip_eps), 1 + clip_eps)
            loss -= min(ratio * a, clipped * a) / count
            if not ((a > 0 and ratio > 1 + clip_eps) or (a < 0 and ratio < 1 - clip_eps)):
                gradient[row] -= ratio * a / count * (np.eye(VOCABULARY)[token] - p[row])
        norm = math.sqrt((gradient**2).sum())
        table -= lr * gradient * min(1.0, max_grad_norm / (norm + 1e-6))
        losses.append(loss)
    return table, losses


def probe(grpo_update, rows, rewards, questions, lr=0.1, shift=0.0, pad_to=0, stale=False, **settings):
    """One training step on a probe. Returns the table before, after, the right one, and both losses."""
    model = Bigram()
    batch = probe_batch(model, rows, shift, pad_to)
    if stale:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
    before = model.table.detach().numpy().copy()
    want, losses = trained_by_loops(before, batch, rewards, questions, lr, **settings)
    kept = [x.clone() for x in batch]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    got = grpo_update(model, optimizer, batch, tensor(rewards), torch.tensor(questions), **settings)
    for name, a, b in zip(Batch._fields, kept, batch, strict=True):
        expect_unchanged(a, b, f"batch.{name}")
    return before, model.table.detach().numpy().copy(), want, got, losses


def expect_tables(after, want, what, rows=None):
    """Compare tables, or some of their rows, with one number per message."""
    rows = list(range(VOCABULARY)) if rows is None else rows
    for v in rows:
        expect_close(after[v], want[v], f"{what}: the logits after token {v}", rtol=1e-5, atol=1e-7)


def moved(before, after, row, token):
    """By how much the log-probability of a token after another one rose."""

    def logprob(table):
        return table[row, token] - math.log(np.exp(table[row]).sum())

    return logprob(after) - logprob(before)


def test_grpo_update_rewards_point_the_right_way(grpo_update):
    """Organ reward: the episode with the higher reward becomes likelier, the other one less likely."""
    before, after, *_ = probe(grpo_update, ["1 *2", "1 *3"], [1.0, 0.0], [0, 0])
    rise, fall = moved(before, after, 1, 2), moved(before, after, 1, 3)
    expect_true(rise > 0.01, f"the token with reward 1 should become likelier, its log-prob moved {rise:.6f}")
    expect_true(fall < -0.01, f"the token with reward 0 should become rarer, its log-prob moved {fall:.6f}")


def test_grpo_update_only_policy_tokens_train(grpo_update):
    """Organ mask: where the world speaks the policy's logits do not move."""
    rows = ["1 *2 3 4 *5", "1 *2 3 4 *6", "1 *5 6 *2"]
    before, after, want, *_ = probe(grpo_update, rows, [1.0, 0.0, 0.5], [0, 0, 0])
    expect_tables(after, before, "no action follows these", [2, 3, 5])
    expect_tables(after, want, "two actions with tool tokens between", [1, 4, 6])


def test_grpo_update_groups_do_not_mix(grpo_update):
    """Organ group: an episode is compared with those of its own question, in whatever order they stand."""
    rows, rewards = ["1 *5", "2 *5", "1 *6", "2 *6", "2 *7"], [10.0, 0.0, 12.0, 1.0, 0.0]
    before, after, want, *_ = probe(grpo_update, rows, rewards, [4, -1, 4, -1, -1])
    expect_tables(after, want, "rewards 10, 12 and 0, 1, 0 of two questions", [1, 2])


def test_grpo_update_a_silent_group(grpo_update):
    """Organ group: a question whose episodes all got the same reward moves nothing."""
    rows, rewards = ["1 *5", "1 *6", "2 *5", "2 *6"], [1.0, 1.0, 1.0, 0.0]
    before, after, want, *_ = probe(grpo_update, rows, rewards, [0, 0, 1, 1])
    expect_tables(after, before, "two episodes with reward 1", [1])
    expect_tables(after, want, "two episodes with rewards 1 and 0", [2])


def test_grpo_update_one_episode_alone(grpo_update):
    """Organ group: a question with a single episode moves nothing, and gives no NaN."""
    before, after, want, *_ = probe(grpo_update, ["1 *5", "2 *5", "2 *6"], [1.0, 1.0, 0.0], [0, 1, 1])
    expect_tables(after, before, "a single episode", [1])
    expect_tables(after, want, "two episodes", [2])


def test_grpo_update_old_logprobs_are_the_samplers(grpo_update):
    """Organ ratio: batch.logprobs are the denominator, so the ratio is not 1 even in the first update."""
    for shift in (0.1, -0.15):
        _, after, want, *_ = probe(
            grpo_update, ["1 *2", "1 *3 4 *5"], [1.0, 0.0], [0, 0], shift=shift, updates=1, max_grad_norm=9.0
        )
        expect_tables(after, want, f"a sampler whose log-probs are {shift:+g} off", [1, 4])


def test_grpo_update_clips_the_first_update(grpo_update):
    """Organ clip: a token whose ratio is already past the edge in the direction of its advantage rests."""
    before, after, want, *_ = probe(
        grpo_update, ["1 *2", "3 *4"], [1.0, 0.0], [0, 0], shift=-0.7, updates=1
    )  # ratios 2
    expect_tables(after, before, "ratio 2, advantage above 0", [1])
    expect_tables(after, want, "ratio 2, advantage below 0", [3])


def test_grpo_update_clips_the_second_update(grpo_update):
    """Organ clip: what the first update pushed past the edge is not pushed on by the second."""
    settings = {"lr": 4.0, "max_grad_norm": 9.0}
    rows = ["1 *2", "3 *4"]
    _, once, *_ = probe(grpo_update, rows, [1.0, 0.0], [0, 0], updates=1, **settings)
    _, twice, want, *_ = probe(grpo_update, rows, [1.0, 0.0], [0, 0], updates=2, **settings)
    expect_tables(once, want, "one large update", [1, 3])
    expect_tables(twice, once, "a second update after a large one", [1, 3])


def test_grpo_update_clip_eps(grpo_update):
    """Organ clip: clip_eps is the range that was asked for."""
    for clip_eps, lr in ((0.05, 1.0), (0.9, 1.0), (3.0, 4.0)):
        _, after, want, *_ = probe(
            grpo_update, ["1 *2", "3 *4"], [1.0, 0.0], [0, 0], lr=lr, updates=3, clip_eps=clip_eps
        )
        expect_tables(after, want, f"three updates with clip_eps {clip_eps}, lr {lr:g}", [1, 3])


def test_grpo_update_the_norm_is_cut_before_the_step(grpo_update):
    """Organ gradient norm: every step is at most lr times max_grad_norm long."""
    for norm in (0.01, 0.1):
        before, after, want, *_ = probe(
            grpo_update, ["1 *2", "1 *3"], [1.0, 0.0], [0, 0], lr=1.0, updates=1, max_grad_norm=norm
        )
        length = math.sqrt(((after - before) ** 2).sum())
        expect_close(length, norm, f"the length of a step with lr 1, max_grad_norm {norm}", rtol=1e-3)
        expect_tables(after, want, f"a step with max_grad_norm {norm}", [1])
    before, after, *_ = probe(
        grpo_update, ["1 *2", "6 *3"], [1.0, 0.0], [0, 0], lr=1.0, updates=1, max_grad_norm=0.1
    )
    length = math.sqrt(((after - before) ** 2).sum())
    expect_close(length, 0.1, "the length of a step in two parameters, max_grad_norm 0.1", rtol=1e-3)


def test_grpo_update_a_small_gradient_is_not_scaled(grpo_update):
    """Organ gradient norm: a gradient below max_grad_norm is used as it is."""
    _, after, want, *_ = probe(
        grpo_update, ["1 *2", "1 *3"], [1.0, 0.0], [0, 0], updates=1, max_grad_norm=50.0
    )
    expect_tables(after, want, "a step with max_grad_norm 50", [1])


def test_grpo_update_gradients_do_not_add_up(grpo_update):
    """Organ zero_grad: each update uses its own gradient, not the sum of all since the start."""
    rows, case = ["1 *2 4 *5", "1 *3 4 *6"], {"lr": 0.05, "updates": 3, "max_grad_norm": 50.0}
    _, after, want, *_ = probe(grpo_update, rows, [1.0, 0.0], [0, 0], **case)
    expect_tables(after, want, "three updates", [1, 4])


def test_grpo_update_gradients_from_before(grpo_update):
    """Organ zero_grad: a gradient that was left over from before does not count."""
    before, after, want, *_ = probe(grpo_update, ["1 *2", "1 *3"], [1.0, 0.0], [0, 0], stale=True, updates=1)
    expect_tables(after, before, "rows that nothing trains", [0, 2, 7])
    expect_tables(after, want, "an update after a left-over gradient", [1])


def test_grpo_update_padding(grpo_update):
    """Organ padding: padding on the right changes nothing."""
    rows = ["1 *2 3 *4", "1 *5"]
    _, plain, want, *_ = probe(grpo_update, rows, [1.0, 0.0], [0, 0])
    before, padded, *_ = probe(grpo_update, rows, [1.0, 0.0], [0, 0], pad_to=12)
    expect_tables(padded, before, "rows that only padding visits", [0, 4, 5])
    expect_tables(padded, want, "the same batch with eight more columns")


def test_grpo_update_a_chosen_token_zero(grpo_update):
    """Organ padding: the end token has the padding's id 0, and where the policy chose it it trains."""
    rows = ["1 *2 *0", "1 *3 *5 4 *0", "1 *3 *0 6 *7"]
    _, after, want, *_ = probe(grpo_update, rows, [1.0, 0.0, 0.25], [0, 0, 0])
    expect_tables(after, want, "episodes whose turns end with token 0", [2, 3, 4, 1])


def test_grpo_update_every_token_weighs_the_same(grpo_update):
    """Organ mean: all policy tokens of the batch weigh the same, in long rows and in short ones."""
    _, after, want, *_ = probe(
        grpo_update, ["1 *2 3 *4 3 *5 3 *6", "1 *7"], [1.0, 0.0], [0, 0], max_grad_norm=50.0
    )
    expect_tables(after, want, "an episode of four turns beside one of one", [1, 3])


def test_grpo_update_an_episode_without_policy_tokens(grpo_update):
    """Organ group: an episode without policy tokens trains nothing, but counts in its group's mean."""
    rows, rewards = ["1 *2", "1 *3", "1 4 5", "6 *7"], [1.0, 0.0, -4.0, 0.5]
    before, after, want, *_ = probe(grpo_update, rows, rewards, [0, 0, 0, 0])
    expect_tables(after, before, "what only the empty episode visits", [4, 5])
    expect_tables(after, want, "rewards 1, 0, 0.5, and -4 for the empty episode", [1, 6])


def test_grpo_update_equal_rows(grpo_update):
    """Organ group: two rows with the same tokens are two episodes, each with its own reward."""
    rows, rewards = ["1 *2", "1 *2", "1 *3"], [1.0, 0.5, 0.0]
    _, after, want, *_ = probe(grpo_update, rows, rewards, [0, 0, 0], max_grad_norm=50.0)
    expect_tables(after, want, "the same tokens twice, with rewards 1 and 0.5", [1])


def test_grpo_update_nothing_to_train(grpo_update):
    """Organ padding: a batch without any policy token moves nothing and costs 0."""
    before, after, _, got, _ = probe(grpo_update, ["1 2 3", "1 4"], [1.0, 0.0], [0, 0])
    expect_tables(after, before, "no policy token at all")
    expect_close(got, [0.0, 0.0], "its losses")


def test_grpo_update_uses_its_optimizer(grpo_update):
    """Organ optimizer: the steps are those of the optimizer that was given."""
    before, after, *_ = probe(grpo_update, ["1 *2", "1 *3"], [1.0, 0.0], [0, 0], lr=0.0)
    expect_tables(after, before, "an optimizer with lr 0")


def test_grpo_update_number_of_updates(grpo_update):
    """Organ loop: as many updates as asked for, two by default, each with its loss as a float."""
    rows, rewards = ["1 *2 3 *4", "1 *5"], [1.0, 0.0]
    for settings in ({"updates": 1}, {}, {"updates": 4}):
        _, after, want, got, losses = probe(grpo_update, rows, rewards, [0, 0], lr=0.3, **settings)
        n = settings.get("updates", 2)
        expect_true(isinstance(got, list) and len(got) == n, f"{n} updates should give a list of {n} losses")
        expect_true(all(type(x) is float for x in got), "the losses should be floats: use loss.item()")
        expect_close(got, losses, f"the losses of {n} updates", rtol=1e-5, atol=1e-7)
        expect_tables(after, want, f"{n} updates", [1, 3])


def test_grpo_update_on_random_batches(grpo_update):
    """All organs: on random batches with all settings the table is that of the formulas."""
    rng = np.random.default_rng(8)
    for k, (size, length) in enumerate([(2, 2), (5, 6), (8, 12), (3, 300)]):
        rows = []
        for _ in range(size):
            n = int(rng.integers(2, length + 1))
            words = [f"{'*' if t and rng.random() < 0.5 else ''}{rng.integers(0, 8)}" for t in range(n)]
            rows.append(" ".join(words))
        rewards, questions = rng.standard_normal(size).tolist(), rng.integers(-1, 2, size).tolist()
        settings = {
            "clip_eps": float(rng.uniform(0.05, 0.4)),
            "updates": int(rng.integers(1, 4)),
            "max_grad_norm": float(rng.uniform(0.1, 2.0)),
        }
        shift = float(rng.uniform(-0.5, 0.5))
        _, after, want, got, losses = probe(
            grpo_update, rows, rewards, questions, lr=0.5, shift=shift, pad_to=length + 2, **settings
        )
        expect_tables(after, want, f"random batch {k}")
        expect_close(got, losses, f"the losses of random batch {k}", rtol=1e-5, atol=1e-7)
