"""Numerical tests of the labelled equations of chapter 10: every episode is listed, nothing is sampled."""

import itertools
import math

import numpy as np
import pytest
import torch

from rlcourse.agents.exact import ExactAgentWorld
from rlcourse.lm.exact import ExactWorld, TablePolicy, exact_gradient, expectation
from solutions.ch10_agentic_rl import (
    masked_gae,
    masked_policy_loss,
    pareto_front,
    scalar_reward,
    trajectory_advantages,
    turn_returns,
)

WORLD = ExactAgentWorld()
REWARDS = WORLD.random_rewards(seed=1)
TURN_REWARDS = WORLD.random_turn_rewards(seed=1)


def models():
    return {"table": WORLD.table(seed=3), "transformer": WORLD.transformer(seed=3)}


def close(a, b, tolerance=1e-7):
    return bool((torch.as_tensor(a) - torch.as_tensor(b)).abs().max() < tolerance)


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=0).item()


# one reply ------------------------------------------------------------------------------------


@pytest.mark.equation("eq-one-step-mdp")
def test_a_reply_is_the_one_action_of_a_bandit():
    """J of chapter 7's world, token by token, is the expected reward of a bandit whose arms are replies; its
    gradient is the bandit's, with pi(y) (r(y) - J) for the logit of arm y, pulled back to the tokens."""
    world = ExactWorld()
    model, rewards = TablePolicy(world, seed=0).double(), world.random_rewards(seed=2).double()
    logprobs = world.logprobs(model)  # (M, N)
    objective = expectation(logprobs, rewards).mean()
    by_hand, p = 0.0, model.logits.detach().softmax(-1)
    for m, prompt in enumerate(world.prompts[:, 0].tolist()):
        for n, length in enumerate(world.lengths.tolist()):
            row, probability = prompt + 1, 1.0
            for token in world.tokens[n, :length].tolist():
                probability *= p[row, token].item()
                row = row * world.size + token + 1
            by_hand += probability * rewards[m, n].item() / len(world.prompts)
    assert objective.item() == pytest.approx(by_hand)
    pi, per_prompt = logprobs.exp().detach(), expectation(logprobs, rewards).detach()
    arms = pi * (rewards - per_prompt[:, None]) / len(world.prompts)  # dJ / d logit of each arm
    assert close(exact_gradient(objective, model), exact_gradient((arms * logprobs).sum(), model))


@pytest.mark.equation("eq-token-mdp")
def test_the_same_reply_is_an_episode_over_tokens():
    """States are prefixes, an action appends its token for sure, the reward comes at the end: backward
    induction over the tree of prefixes gives the same J."""
    world = ExactWorld()
    model, rewards = TablePolicy(world, seed=0).double(), world.random_rewards(seed=2).double()
    p = model.logits.detach().softmax(-1)
    index = {
        tuple(t[:n]): i for i, (t, n) in enumerate(zip(world.tokens.tolist(), world.lengths, strict=True))
    }

    def value(m, prefix, row):
        total = 0.0
        for token in range(world.size):
            after = (*prefix, token)
            over = token == 0 or len(after) == world.max_length
            if over:
                future = rewards[m, index[after]].item()
            else:
                future = value(m, after, row * world.size + token + 1)
            total += p[row, token].item() * future
        return total

    values = [value(m, (), prompt + 1) for m, prompt in enumerate(world.prompts[:, 0].tolist())]
    assert expectation(world.logprobs(model), rewards).tolist() == pytest.approx(values)


# a world that is not seen -----------------------------------------------------------------------

S, A, Z, HORIZON, GAMMA = 3, 2, 2, 3, 0.8


def pomdp(seed):
    rng = np.random.default_rng(seed)
    P, O = rng.dirichlet(np.ones(S), (S, A)), rng.dirichlet(np.ones(Z), (A, S))
    R, rho = rng.standard_normal((S, A)), rng.dirichlet(np.ones(S))
    lengths = range(HORIZON)
    histories = (
        h for n in lengths for h in itertools.product(itertools.product(range(A), range(Z)), repeat=n)
    )
    return P, O, R, rho, {h: rng.dirichlet(np.ones(A)) for h in histories}


def trajectories(P, O, R, rho, policy):
    """All (probability of the world's part, of the policy's part, actions, return)."""
    for states in itertools.product(range(S), repeat=HORIZON):
        for actions in itertools.product(range(A), repeat=HORIZON):
            for seen in itertools.product(range(Z), repeat=HORIZON - 1):
                world, pi, ret = rho[states[0]], 1.0, 0.0
                for t, (s, a) in enumerate(zip(states, actions, strict=True)):
                    pi *= policy[tuple(zip(actions[:t], seen[:t], strict=True))][a]
                    ret += GAMMA**t * R[s, a]
                    if t < HORIZON - 1:
                        world *= P[s, a, states[t + 1]] * O[a, states[t + 1], seen[t]]
                yield world, pi, actions, ret


@pytest.mark.equation("eq-pomdp")
@pytest.mark.parametrize("seed", [0, 1])
def test_the_return_of_a_policy_on_histories(seed):
    """Summing over hidden trajectories is the same as walking forward with beliefs, which never looks at a
    state: the history is all that the policy needs, and all that it has."""
    P, O, R, rho, policy = pomdp(seed)

    def value(history, belief):
        total = 0.0
        for a in range(A):
            total += policy[history][a] * belief @ R[:, a]
            for o in range(Z) if len(history) < HORIZON - 1 else ():
                joint = (belief @ P[:, a]) * O[a, :, o]
                after = value((*history, (a, o)), joint / joint.sum())
                total += policy[history][a] * GAMMA * joint.sum() * after
        return total

    by_listing = sum(world * pi * ret for world, pi, _, ret in trajectories(P, O, R, rho, policy))
    assert value((), rho) == pytest.approx(by_listing)


@pytest.mark.equation("eq-belief")
def test_the_belief_is_the_posterior_of_the_joint():
    """Step by step, it is the distribution of the last state given all actions and observations."""
    P, O, _, rho, _ = pomdp(2)
    path = [(0, 1), (1, 0), (1, 1)]
    belief = rho
    for a, o in path:
        joint = np.array([O[a, t, o] * sum(P[s, a, t] * belief[s] for s in range(S)) for t in range(S)])
        belief = joint / joint.sum()
    share = np.zeros(S)
    for states in itertools.product(range(S), repeat=len(path) + 1):
        p = rho[states[0]]
        for (a, o), s, t in zip(path, states[:-1], states[1:], strict=True):
            p *= P[s, a, t] * O[a, t, o]
        share[states[-1]] += p
    assert belief == pytest.approx(share / share.sum())


@pytest.mark.equation("eq-episode-probability")
def test_the_worlds_factors_sum_up_and_carry_no_gradient():
    """All trajectories together have probability 1, whatever the policy; and the gradient of log
    p(trajectory), by finite differences of the whole product, is that of the policy's factors alone."""
    parts = list(trajectories(*pomdp(3)))
    assert sum(world * pi for world, pi, _, _ in parts) == pytest.approx(1.0)
    for model in models().values():
        assert WORLD.probabilities(model).sum().item() == pytest.approx(1.0)
    model, step, episode = WORLD.table(seed=3), 1e-6, 17
    score = exact_gradient(WORLD.logprobs(model)[episode], model)
    for i in score.abs().topk(4).indices.tolist() + [0]:
        logs = []
        for sign in (1, -1):
            with torch.no_grad():
                model.logits.view(-1)[i] += sign * step
                logs.append(WORLD.probabilities(model)[episode].log().item())
                model.logits.view(-1)[i] -= sign * step
        assert (logs[0] - logs[1]) / (2 * step) == pytest.approx(score[i].item(), abs=1e-6)


@pytest.mark.equation("eq-episode-probability")
def test_a_factor_of_the_world_is_the_denominator_of_the_belief():
    """The probability of what was seen, given what was done: summed over hidden states, and as a product
    of the probabilities that the belief assigns to each observation."""
    P, O, _, rho, _ = pomdp(4)
    for actions in itertools.product(range(A), repeat=HORIZON):
        for seen in itertools.product(range(Z), repeat=HORIZON - 1):
            summed = 0.0
            for states in itertools.product(range(S), repeat=HORIZON):
                p = rho[states[0]]
                for t, o in enumerate(seen):
                    p *= P[states[t], actions[t], states[t + 1]] * O[actions[t], states[t + 1], o]
                summed += p
            belief, product = rho, 1.0
            for a, o in zip(actions, seen, strict=False):
                joint = (belief @ P[:, a]) * O[a, :, o]
                belief, product = joint / joint.sum(), product * joint.sum()
            assert product == pytest.approx(summed)


# the gradient of an agent -----------------------------------------------------------------------


@pytest.mark.equation("eq-agentic-gradient")
def test_with_the_mask_the_estimate_is_exact():
    """For a table and for a transformer, the expected masked estimate is the gradient of J."""
    for model in models().values():
        exact = WORLD.gradient(model, REWARDS)
        assert exact.norm() > 0.05
        assert close(WORLD.expected_estimate(model, REWARDS), exact)


@pytest.mark.equation("eq-agentic-gradient")
def test_without_the_mask_a_table_is_wrong_only_where_the_world_speaks():
    """The table has parameters of their own for observations: all others get the exact gradient, these get
    something although J does not depend on them."""
    model = WORLD.table(seed=3)
    exact, unmasked = WORLD.gradient(model, REWARDS), WORLD.expected_estimate(model, REWARDS, WORLD.unmasked)
    spoken = WORLD.observation_rows(model)
    assert close(unmasked[~spoken], exact[~spoken])
    assert exact[spoken].abs().max() == 0.0
    assert unmasked[spoken].abs().max() > 0.01


@pytest.mark.equation("eq-agentic-gradient")
def test_without_the_mask_a_transformer_is_pulled_elsewhere():
    """It shares its parameters among positions: the estimate is biased, and a mean over many episodes does
    not help. With a constant reward J is flat, and the unmasked estimate still pulls."""
    model = WORLD.transformer(seed=3)
    exact, unmasked = WORLD.gradient(model, REWARDS), WORLD.expected_estimate(model, REWARDS, WORLD.unmasked)
    assert not close(unmasked, exact, 0.01)
    assert cosine(unmasked, exact) < 0.95
    ones = torch.ones_like(REWARDS)
    assert WORLD.expected_estimate(model, ones).norm() < 1e-6
    assert WORLD.expected_estimate(model, ones, WORLD.unmasked).norm() > 0.1


@pytest.mark.equation("eq-agentic-gradient")
def test_no_baseline_removes_what_the_missing_mask_adds():
    """The added part with reward R - b, for the best number b; for the table even with a b of its own for
    every history. For the policy's own tokens every b is harmless."""
    ones, seen = torch.ones_like(REWARDS), WORLD.unmasked - WORLD.mask
    for model in models().values():
        added, of_one = (WORLD.expected_estimate(model, w, seen) for w in (REWARDS, ones))
        assert WORLD.expected_estimate(model, ones).norm() < 1e-6
        b = (added @ of_one) / (of_one @ of_one)
        assert (added - b * of_one).norm() > 0.05
    model = WORLD.table(seed=3)
    added, of_one = (WORLD.expected_estimate(model, w, seen).view(-1, WORLD.size) for w in (REWARDS, ones))
    b = (added * of_one).sum(1) / of_one.square().sum(1).clamp(min=1e-12)
    assert (added - b[:, None] * of_one).norm() > 0.02


@pytest.mark.equation("eq-masked-objective")
def test_at_ratio_one_the_masked_objective_has_the_exact_gradient():
    """One loss for each episode, weighted with its probability: minus the gradient of J, over its two tokens;
    garbage at the other tokens does not matter."""
    garbage = torch.where(WORLD.mask == 0, float("nan"), 0.0)
    for model in models().values():
        logprobs, total = WORLD.token_logprobs(model), 0.0
        probabilities = WORLD.probabilities(model).detach()
        for n in range(len(WORLD.ids)):
            row = slice(n, n + 1)
            old = logprobs[row].detach() + garbage[row]
            loss = masked_policy_loss(logprobs[row], old, REWARDS[row, None], WORLD.mask[row])
            total = total + probabilities[n] * loss
        assert close(-2 * exact_gradient(total, model), WORLD.gradient(model, REWARDS))


@pytest.mark.equation("eq-masked-objective")
@pytest.mark.parametrize("ratio, advantage, slope", [
    (0.7, 1.0, 0.7), (1.0, 1.0, 1.0), (1.5, 1.0, 0.0), (0.7, -1.0, 0.0), (1.0, -1.0, -1.0), (1.5, -1.0, -1.5),
])  # fmt: skip
def test_the_clip_rests_in_two_of_six_regions(ratio, advantage, slope):
    """By finite differences of the objective itself, with a tool token beside the policy's."""

    def objective(x):
        rho = math.exp(x)
        return min(rho * advantage, min(max(rho, 0.8), 1.2) * advantage)

    x, h = math.log(ratio), 1e-6
    assert (objective(x + h) - objective(x - h)) / (2 * h) == pytest.approx(slope, abs=1e-5)
    new = torch.tensor([[5.0, x]], dtype=torch.float64, requires_grad=True)
    case = (torch.zeros_like(new), torch.tensor([[advantage]]), torch.tensor([[0.0, 1.0]]))
    (got,) = torch.autograd.grad(-masked_policy_loss(new, *case), new)
    assert got.tolist() == [[0.0, pytest.approx(slope)]]


@pytest.mark.equation("eq-trajectory-advantage")
def test_a_split_episode_counts_once_in_its_group():
    """All groups of two episodes of a question are listed. Episodes whose first action is 1 came in five
    rows. With the mean over episodes the expected estimate is (G - 1) / G of the exact gradient, split
    or not. With the mean over rows it points elsewhere."""
    model = WORLD.table(seed=3)
    p, logprobs = WORLD.probabilities(model).detach(), WORLD.logprobs(model)
    rows = torch.where(WORLD.ids[:, 1] == 1, 5.0, 1.0).double()  # how many rows an episode makes
    by_episode, by_row = torch.zeros_like(p), torch.zeros_like(p)
    for prompt in WORLD.ids[:, 0].unique():
        at = (WORLD.ids[:, 0] == prompt).nonzero()[:, 0]
        share, r, n = p[at] / p[at].sum(), REWARDS[at], rows[at]
        episodes = (r[:, None] + r[None]) / 2  # the mean of a group of episodes i and j
        of_rows = (n[:, None] * r[:, None] + n[None] * r[None]) / (n[:, None] + n[None])
        by_episode[at] = p[at] * (share[None] * (r[:, None] - episodes)).sum(1)
        by_row[at] = p[at] * (share[None] * (r[:, None] - of_rows)).sum(1)
    exact = WORLD.gradient(model, REWARDS)
    assert close(exact_gradient((by_episode * logprobs).sum(), model), exact / 2)
    assert cosine(exact_gradient((by_row * logprobs).sum(), model), exact) < 0.99


@pytest.mark.equation("eq-trajectory-advantage")
def test_advantages_of_a_question_are_standardised_over_episodes():
    """Mean 0 and sample std 1 over each question's episodes, however many rows an episode was split into;
    another scale or offset of the rewards changes nothing."""
    rng = np.random.default_rng(0)
    of_episode, rows = rng.standard_normal(12), rng.integers(1, 5, 12)
    episode = torch.tensor(rng.permutation(np.repeat(np.arange(12), rows)))
    rewards, question = torch.tensor(of_episode)[episode], episode % 3
    advantages = trajectory_advantages(rewards, question, episode, eps=0.0)
    for q in range(3):
        group = [advantages[episode == e].unique() for e in range(q, 12, 3)]
        assert all(len(values) == 1 for values in group)
        assert torch.cat(group).mean().item() == pytest.approx(0.0, abs=1e-12)
        assert torch.cat(group).std().item() == pytest.approx(1.0)
    assert close(trajectory_advantages(3 * rewards - 7, question, episode, eps=0.0), advantages)


# credit over turns ------------------------------------------------------------------------------


@pytest.mark.equation("eq-turn-return")
def test_returns_from_the_turn_on_are_unbiased():
    """Rewards come after both turns. Weighing each action with what follows gives the gradient of J;
    weighing it with its own turn's reward alone does not."""
    for model in models().values():
        weights = turn_returns(TURN_REWARDS, WORLD.turn)  # (N, 4)
        exact = WORLD.gradient(model, TURN_REWARDS.sum(1))
        assert close(WORLD.expected_estimate(model, weights), exact)
        own = torch.where(WORLD.turn >= 0, TURN_REWARDS.gather(1, WORLD.turn.clamp(min=0)), 0.0)
        assert not close(WORLD.expected_estimate(model, own), exact, 0.01)


@pytest.mark.equation("eq-turn-return")
def test_the_discount_is_the_worlds_and_per_turn():
    """With gamma the first action is weighed with r_0 + gamma r_1, the second with r_1: the gradient of
    r_0 + gamma r_1 has another gamma in front of the second, as in chapter 5."""
    model, gamma = WORLD.table(seed=3), 0.6
    weights = turn_returns(TURN_REWARDS, WORLD.turn, gamma)
    weights[:, 3] *= gamma
    discounted = TURN_REWARDS[:, 0] + gamma * TURN_REWARDS[:, 1]
    assert close(WORLD.expected_estimate(model, weights), WORLD.gradient(model, discounted))


def random_rows(seed, rows=3, length=9):
    rng = np.random.default_rng(seed)
    rewards, values = rng.standard_normal((2, rows, length))
    return torch.tensor(rewards), torch.tensor(values), torch.tensor((rng.random((rows, length)) < 0.6) * 1.0)


@pytest.mark.equation("eq-masked-gae")
def test_gae_with_lambda_one_is_return_minus_value():
    """lambda = gamma = 1: the rewards that are still to come at the policy's tokens, minus the value."""
    rewards, values, mask = random_rows(0)
    to_come = (rewards * mask).flip(1).cumsum(1).flip(1)
    advantages, targets = masked_gae(rewards, values, mask, 1.0, 1.0)
    assert close(advantages, (to_come - values) * mask)
    assert close(targets, to_come * mask)


@pytest.mark.equation("eq-masked-gae")
def test_tool_tokens_anywhere_change_nothing():
    """The policy's tokens alone, put through the recursion by hand, and the same with tool tokens put in."""
    gamma, gae_lambda, rng = 0.9, 0.7, np.random.default_rng(1)
    rewards, values = rng.standard_normal((2, 6))
    want, ahead, following = [0.0] * 6, 0.0, 0.0
    for k in reversed(range(6)):
        following = rewards[k] + gamma * ahead - values[k] + gamma * gae_lambda * following
        want[k], ahead = following, values[k]
    for _ in range(20):
        at = np.sort(rng.choice(15, 6, replace=False))
        r, v, mask = torch.full((1, 15), torch.nan), torch.full((1, 15), torch.nan), torch.zeros(1, 15)
        r, v = r.double(), v.double()
        r[0, at], v[0, at], mask[0, at] = torch.tensor(rewards), torch.tensor(values), 1.0
        got, targets = masked_gae(r, v, mask, gamma, gae_lambda)
        assert got[0, at].tolist() == pytest.approx(want)
        assert targets[0, at].tolist() == pytest.approx((np.array(want) + values).tolist())


# three numbers and one --------------------------------------------------------------------------


@pytest.mark.equation("eq-multi-objective")
def test_the_gradient_of_the_sum_is_the_weighted_sum_of_three_gradients():
    """Success, cost and risk of every episode: the reward's gradient is linear in the weights. And a
    weight can be stated in other units: a reward that is scaled as a whole has the same direction."""
    model = WORLD.table(seed=3)
    success = (WORLD.random_rewards(5) > 0).double()
    cost, risk = WORLD.random_rewards(6).abs(), (WORLD.random_rewards(7) > 1).double()
    reward = scalar_reward(success, cost, risk, 0.2, 1.5)
    parts = [WORLD.gradient(model, x) for x in (success, cost, risk)]
    got = WORLD.gradient(model, reward)
    assert close(got, parts[0] - 0.2 * parts[1] - 1.5 * parts[2])
    assert cosine(WORLD.gradient(model, 4 * reward), got) == pytest.approx(1.0)


PLANS = {  # success, cost, risk of what an agent may do
    "nothing": (0.0, 0.0, 0.0),
    "careful": (0.8, 2.0, 0.05),
    "reckless": (1.0, 1.0, 1.0),
}


def best(score, plans=PLANS):
    return max(plans, key=lambda name: score(*plans[name]))


@pytest.mark.equation("eq-gate")
def test_no_large_weight_is_a_gate():
    """The gate at 0.1 takes the careful plan. A growing weight on risk passes through it and goes on, to
    doing nothing: in the limit the weighted sum looks for the least risk, not for a risk that is
    allowed."""
    gate = best(lambda s, c, r: scalar_reward(s, c, r, 0.01, 0.0, max_risk=0.1))
    by_weight = [
        best(lambda s, c, r, w=w: scalar_reward(s, c, r, 0.01, w)) for w in (0.0, 0.1, 1.0, 10.0, 100.0)
    ]
    assert gate == "careful"
    assert by_weight == ["reckless", "reckless", "careful", "careful", "nothing"]


@pytest.mark.equation("eq-gate")
@pytest.mark.parametrize("seed", range(5))
def test_a_growing_weight_goes_to_the_gate_at_the_least_risk(seed):
    """In random small worlds in which some plans have risk 0, the optimum of the weighted sum becomes that
    of the gate at risk 0, if success is worth its cost there."""
    rng = np.random.default_rng(seed)
    plans = {i: (rng.random(), rng.random(), float(rng.choice([0.0, 0.3, 0.7, 1.0]))) for i in range(12)}
    plans |= {12: (0.9, 0.1, 0.0)}
    gate = best(lambda s, c, r: scalar_reward(s, c, r, 0.1, 0.0, max_risk=0.0), plans)
    assert best(lambda s, c, r: scalar_reward(s, c, r, 0.1, 1e4), plans) == gate


@pytest.mark.equation("eq-gate")
def test_a_gate_reaches_what_no_weight_reaches():
    """Success 0.4 at risk 0.5, between nothing and everything: under the line between the two. The gate at
    0.5 takes it; over all weights the sum takes one of the ends."""
    plans = {"nothing": (0.0, 0.0, 0.0), "half": (0.4, 0.0, 0.5), "all": (1.0, 0.0, 1.0)}
    assert best(lambda s, c, r: scalar_reward(s, c, r, 0.0, 0.0, max_risk=0.5), plans) == "half"
    weights = np.linspace(0, 5, 501)
    assert {best(lambda s, c, r, w=w: s - w * r, plans) for w in weights} == {"nothing", "all"}


@pytest.mark.equation("eq-pareto")
@pytest.mark.parametrize("seed", range(3))
def test_every_weighted_sum_has_its_best_on_the_front(seed):
    """For any positive weights nothing dominates the maximiser."""
    rng = np.random.default_rng(seed)
    points = rng.random((40, 3))
    front = pareto_front(points)
    for weights in rng.exponential(size=(200, 3)):
        i = (points @ (weights * [1, -1, -1])).argmax()
        no_worse = (
            (points[:, 0] >= points[i, 0]) & (points[:, 1] <= points[i, 1]) & (points[:, 2] <= points[i, 2])
        )
        assert no_worse.nonzero()[0].tolist() == [i]  # only the point itself
        assert front[i]


@pytest.mark.equation("eq-pareto")
def test_a_point_of_the_front_that_no_weights_reach():
    """Success 0.4 at risk 0.5 is dominated by neither (0, 0) nor (1, 1). To beat (0, 0) it needs a risk
    weight of at most 0.8 times that of success, to beat (1, 1) at least 1.2 times."""
    points = np.array([[0.0, 1.0, 0.0], [0.4, 1.0, 0.5], [1.0, 1.0, 1.0]])
    assert pareto_front(points).tolist() == [True, True, True]
    for success, risk in itertools.product(np.linspace(0.01, 3, 60), np.linspace(0.01, 3, 60)):
        assert (points @ np.array([success, -1.0, -risk])).argmax() != 1
