"""Graders of chapter 5."""

import numpy as np
import torch

from rlcourse.envs import TabularMDP, helpdesk
from rlcourse.grading.expect import expect_close, expect_shape, expect_true, expect_unchanged

EXERCISES = {
    "softmax_policy": {
        "title": "A softmax policy that never overflows",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-softmax-policy",
    },
    "score": {
        "title": "The score of a softmax policy",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-softmax-score",
    },
    "exact_policy_gradient": {
        "title": "The policy gradient without sampling",
        "difficulty": 4,
        "minutes": 30,
        "points": 20,
        "equation": "eq-pg-theorem",
    },
    "reinforce_gradient": {
        "title": "REINFORCE: one episode's estimate",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-reinforce",
    },
    "one_step_advantages": {
        "title": "The critic's one-step advantage",
        "difficulty": 2,
        "minutes": 10,
        "points": 10,
        "equation": "eq-one-step-advantage",
    },
    "batched_returns": {
        "title": "Returns of a batch of episodes",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-batched-returns",
    },
    "policy_loss": {
        "title": "The loss behind the gradient",
        "difficulty": 2,
        "minutes": 15,
        "points": 15,
        "equation": "eq-pg-loss",
    },
}


def softmax(x):
    """Row-wise softmax in extended precision, for expected values."""
    z = np.exp(np.asarray(x, dtype=np.longdouble) - np.max(x, axis=1, keepdims=True))
    return (z / z.sum(axis=1, keepdims=True)).astype(float)


def random_mdp(seed, n_states=4, n_actions=3, gamma=0.8):
    """A dense stochastic MDP without terminal states, rewards that depend on the next state."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))
    R = rng.normal(size=(n_states, n_actions, n_states))
    rho0 = rng.dirichlet(np.ones(n_states))
    return TabularMDP(P, R, rho0, gamma, np.zeros(n_states, dtype=bool))


def objective(mdp, theta, steps=300):
    """J(theta) by following the state distribution forwards, no value function."""
    pi, d, total = softmax(theta), mdp.rho0, 0.0
    for t in range(steps):
        flow = d[:, None, None] * pi[:, :, None] * mdp.P
        total += mdp.gamma**t * (flow * mdp.R).sum()
        d = flow.sum((0, 1))
    return total


def finite_differences(function, theta, step=1e-5):
    """Central differences of a scalar function, one entry of theta at a time."""
    grad = np.zeros_like(theta)
    for index in np.ndindex(theta.shape):
        up, down = theta.copy(), theta.copy()
        up[index] += step
        down[index] -= step
        grad[index] = (function(up) - function(down)) / (2 * step)
    return grad


# softmax_policy


def test_softmax_policy_by_hand(softmax_policy):
    """Preferences 0 and log 3 make probabilities 1/4 and 3/4, row by row."""
    theta = np.array([[0.0, np.log(3.0)], [np.log(3.0), 0.0], [5.0, 5.0]])
    want = [[0.25, 0.75], [0.75, 0.25], [0.5, 0.5]]
    expect_close(softmax_policy(theta), want, "pi for preferences (0, log 3), (log 3, 0), (5, 5)")


def test_softmax_policy_survives_large_preferences(softmax_policy):
    """A preference of 1000 does not overflow."""
    with np.errstate(all="ignore"):
        pi = softmax_policy(np.array([[1000.0, 0.0], [-1000.0, -1000.0]]))
    expect_close(pi, [[1.0, 0.0], [0.5, 0.5]], "pi for preferences (1000, 0) and (-1000, -1000)")


def test_softmax_policy_compares_large_preferences(softmax_policy):
    """Only differences matter: 1000 + log 3 against 1000 is log 3 against 0."""
    with np.errstate(all="ignore"):
        pi = softmax_policy(np.array([[1000.0 + np.log(3.0), 1000.0]]))
    expect_close(pi, [[0.75, 0.25]], "pi for preferences (1000 + log 3, 1000)")


def test_softmax_policy_keeps_its_input(softmax_policy):
    """The preferences are not changed."""
    theta = np.array([[1.0, 2.0], [3.0, 5.0]])
    softmax_policy(theta)
    expect_unchanged([[1.0, 2.0], [3.0, 5.0]], theta, "theta")


# score


def test_score_by_hand(score):
    """With pi = (1/4, 3/4), taking action 0 gives the row (3/4, -3/4)."""
    theta = np.array([[0.0, 0.0], [0.0, np.log(3.0)]])
    want = [[0.0, 0.0], [0.75, -0.75]]
    expect_close(score(theta, 1, 0), want, "the score of action 0 in state 1")


def test_score_is_the_gradient_of_log_pi(score):
    """It equals finite differences of log pi(a | s)."""
    theta = np.random.default_rng(1).normal(size=(3, 4))
    want = finite_differences(lambda x: np.log(softmax(x)[1, 2]), theta)
    expect_close(score(theta, 1, 2), want, "the score of action 2 in state 1", atol=1e-6)


def test_score_of_whole_numbers(score):
    """Preferences may be whole numbers, and they are not changed."""
    theta = np.array([[3, 3], [0, 2]])
    expect_close(score(theta, 0, 1), [[-0.5, 0.5], [0.0, 0.0]], "the score for preferences 3, 3")
    expect_unchanged([[3, 3], [0, 2]], theta, "theta")


def test_score_has_mean_zero(score):
    """Averaged over the policy's own actions the score vanishes."""
    theta = np.random.default_rng(2).normal(size=(2, 3))
    mean = sum(softmax(theta)[0, a] * np.asarray(score(theta, 0, a)) for a in range(3))
    expect_close(mean, np.zeros((2, 3)), "the mean score in state 0", atol=1e-9)


# exact_policy_gradient


def test_exact_policy_gradient_on_a_bandit(exact_policy_gradient):
    """One state, rewards 1 and 0, pi = (1/2, 1/2), gamma 0: the gradient is (1/4, -1/4)."""
    P, R = np.ones((1, 2, 1)), np.array([[[1.0], [0.0]]])
    bandit = TabularMDP(P, R, np.ones(1), 0.0, np.zeros(1, dtype=bool))
    grad = exact_policy_gradient(bandit, np.zeros((1, 2)))
    expect_close(grad, [[0.25, -0.25]], "the gradient of the two-armed bandit")


def test_exact_policy_gradient_equals_finite_differences(exact_policy_gradient):
    """On a random stochastic MDP it equals finite differences of J."""
    mdp, theta = random_mdp(3, 2, 2), np.random.default_rng(3).normal(size=(2, 2))
    want = finite_differences(lambda x: objective(mdp, x), theta)
    expect_close(exact_policy_gradient(mdp, theta), want, "the gradient", rtol=1e-4, atol=1e-7)


def test_exact_policy_gradient_on_the_help_desk(exact_policy_gradient):
    """On the help desk it equals finite differences too; the terminal state's row is zero."""
    mdp, theta = helpdesk(), np.random.default_rng(4).normal(size=(4, 2))
    want = finite_differences(lambda x: objective(mdp, x), theta)
    expect_close(exact_policy_gradient(mdp, theta), want, "the gradient", rtol=1e-4, atol=1e-7)


def test_exact_policy_gradient_keeps_its_input(exact_policy_gradient):
    """The preferences are not changed."""
    theta = np.array([[1.0, 2.0], [3.0, 5.0]])
    exact_policy_gradient(random_mdp(3, 2, 2), theta)
    expect_unchanged([[1.0, 2.0], [3.0, 5.0]], theta, "theta")


# reinforce_gradient


def test_reinforce_gradient_on_a_chain(reinforce_gradient):
    """Two states, rewards 1 then 1, gamma 0.5: the weights of the two scores are 1.5 and 0.5."""
    grad = reinforce_gradient(np.zeros((2, 2)), [0, 1], [0, 1], [1.0, 1.0], 0.5, np.zeros(2))
    want = [[0.75, -0.75], [-0.25, 0.25]]
    expect_close(grad, want, "the estimate of the episode")


def test_reinforce_gradient_subtracts_the_baseline(reinforce_gradient):
    """The baseline of the state is taken from the return before the score is weighted."""
    baseline = np.array([1.0, 2.0])
    grad = reinforce_gradient(np.zeros((2, 2)), [0, 1], [0, 1], [1.0, 1.0], 0.5, baseline)
    want = [[0.25, -0.25], [0.25, -0.25]]  # weights 1.5 - 1 and 0.5 (1 - 2)
    expect_close(grad, want, "the estimate with baseline (1, 2)")


def test_reinforce_gradient_baseline_belongs_to_the_state(reinforce_gradient):
    """The baseline is looked up by state, not by time: here state 1 comes first."""
    baseline = np.array([1.0, 2.0])
    grad = reinforce_gradient(np.zeros((2, 2)), [1, 0], [0, 1], [1.0, 1.0], 0.5, baseline)
    want = [[0.0, 0.0], [-0.25, 0.25]]  # weights 0.5 (1 - 1) and 1.5 - 2
    expect_close(grad, want, "the estimate with states 1, 0 and baseline (1, 2)")


def test_reinforce_gradient_keeps_its_input(reinforce_gradient):
    """The preferences are not changed."""
    theta = np.array([[1.0, 2.0]])
    reinforce_gradient(theta, [0, 0], [0, 1], [1.0, 1.0], 1.0, np.zeros(1))
    expect_unchanged([[1.0, 2.0]], theta, "theta")


def test_reinforce_gradient_is_unbiased(reinforce_gradient):
    """Averaged over every episode of a two-step problem it is the exact gradient."""
    theta, rewards, gamma = np.array([[0.3, -0.2], [0.1, 0.6]]), [[1.0, 4.0], [-2.0, 3.0]], 0.5
    pi, mean = softmax(theta), np.zeros((2, 2))
    for a in range(2):
        for b in range(2):
            episode = ([0, 1], [a, b], [rewards[0][a], rewards[1][b]])
            grad = reinforce_gradient(theta, *episode, gamma, np.array([7.0, -3.0]))
            mean += pi[0, a] * pi[1, b] * np.asarray(grad)

    def J(x):
        p = softmax(x)
        return p[0] @ rewards[0] + gamma * p[1] @ rewards[1]

    expect_close(mean, finite_differences(J, theta), "the mean estimate", rtol=1e-4, atol=1e-6)


def test_reinforce_gradient_adds_up_repeated_states(reinforce_gradient):
    """A state that is visited twice gets both contributions."""
    grad = reinforce_gradient(np.zeros((1, 2)), [0, 0], [0, 0], [1.0, 1.0], 1.0, np.zeros(1))
    expect_close(grad, [[1.5, -1.5]], "the estimate when state 0 is visited twice")


# batched_returns

REWARDS = np.array([[1.0, 1.0], [2.0, 8.0], [4.0, 8.0]], dtype=np.float32)
ALIVE = np.array([[True, True], [True, False], [True, False]])


def test_batched_returns_by_hand(batched_returns):
    """Rewards 1, 2, 4 with gamma 0.5 give 3, 4, 4; an episode of one step gives its reward."""
    got = batched_returns(REWARDS.copy(), ALIVE.copy(), 0.5)
    expect_close(got, [[3.0, 1.0], [4.0, 0.0], [4.0, 0.0]], "the returns of the two episodes")


def test_batched_returns_undiscounted(batched_returns):
    """gamma = 1 adds the rewards that are still to come."""
    want = [[7.0, 1.0], [6.0, 0.0], [4.0, 0.0]]
    expect_close(batched_returns(REWARDS.copy(), ALIVE.copy(), 1.0), want, "the returns with gamma 1")


def test_batched_returns_batch_of_one(batched_returns):
    """A batch of one long episode works."""
    rewards, alive = np.ones((5, 1), dtype=np.float32), np.ones((5, 1), dtype=bool)
    want = [[sum(0.9**k for k in range(5 - t))] for t in range(5)]
    expect_close(batched_returns(rewards, alive, 0.9), want, "the returns", rtol=1e-5)


def test_batched_returns_keeps_its_inputs(batched_returns):
    """Rewards after the end are left out of the sum, not erased from the caller's array."""
    rewards, alive = REWARDS.copy(), ALIVE.copy()
    batched_returns(rewards, alive, 0.5)
    expect_unchanged(REWARDS, rewards, "rewards")
    expect_unchanged(ALIVE, alive, "alive")


# policy_loss

LOGITS = [[0.0, 1.0986123], [0.0, 0.0]]  # pi = (1/4, 3/4) and (1/2, 1/2)


def test_policy_loss_value(policy_loss):
    """Minus the mean of log pi(a | s) times the advantage."""
    loss = policy_loss(torch.tensor(LOGITS), torch.tensor([0, 1]), torch.tensor([2.0, -1.0]))
    want = -(2 * np.log(0.25) - np.log(0.5)) / 2
    expect_close(loss, want, "the loss of two samples", rtol=1e-5)


def test_policy_loss_raises_good_actions(policy_loss):
    """A step down the loss makes an action with a positive advantage more likely."""
    logits = torch.zeros(1, 3, requires_grad=True)
    policy_loss(logits, torch.tensor([2]), torch.tensor([1.5])).backward()
    expect_close(logits.grad, [[0.5, 0.5, -1.0]], "the gradient for action 2, advantage 1.5")


def test_policy_loss_keeps_advantages_out_of_the_gradient(policy_loss):
    """No gradient flows into the advantages, or the critic would be trained to please the actor."""
    advantages = torch.tensor([2.0, -1.0], requires_grad=True)
    logits = torch.tensor(LOGITS, requires_grad=True)
    policy_loss(logits, torch.tensor([0, 1]), advantages).backward()
    got = "none" if advantages.grad is None else [round(g, 4) for g in advantages.grad.tolist()]
    expect_true(got in ("none", [0.0, 0.0]), f"gradient of the advantages: expected none, got {got}")


def test_policy_loss_survives_extreme_logits(policy_loss):
    """A logit of 200 does not make the loss infinite."""
    loss = policy_loss(torch.tensor([[200.0, 0.0]]), torch.tensor([1]), torch.tensor([1.0]))
    expect_close(loss, 200.0, "the loss of an action 200 nats below the best", rtol=1e-5)


# one_step_advantages


def test_one_step_advantages_by_hand(one_step_advantages):
    """r + gamma V(s') - V(s), for one step that goes on and one that terminates."""
    got = one_step_advantages(
        np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([4.0, 4.0]), np.array([False, True]), 0.5
    )
    expect_close(got, [1.0, -1.0], "the advantages of a step that goes on and one that terminates")


def test_one_step_advantages_of_the_true_values_average_to_zero(one_step_advantages):
    """With the true V of a policy, the mean over its own steps is zero in every state."""
    mdp, pi = random_mdp(5), np.full((4, 3), 1 / 3)
    P = np.einsum("sa,sat->st", pi, mdp.P)
    r = np.einsum("sa,sat,sat->s", pi, mdp.P, mdp.R)
    V = np.linalg.solve(np.eye(4) - mdp.gamma * P, r)
    means = []
    for s in range(4):
        flow = (pi[s][:, None] * mdp.P[s]).ravel()
        n = len(flow)
        args = (mdp.R[s].ravel(), np.full(n, V[s]), np.tile(V, 3), np.zeros(n, dtype=bool), mdp.gamma)
        means.append(flow @ np.asarray(one_step_advantages(*args)))
    expect_close(means, np.zeros(4), "the mean advantage in each state", atol=1e-9)


def test_one_step_advantages_keeps_its_inputs(one_step_advantages):
    """The critic's values are not erased where a step terminates."""
    rewards, values, next_values = np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([4.0, 4.0])
    one_step_advantages(rewards, values, next_values, np.array([False, True]), 0.5)
    expect_unchanged([1.0, 1.0], rewards, "rewards")
    expect_unchanged([4.0, 4.0], next_values, "next_values")


def test_one_step_advantages_shape(one_step_advantages):
    """One number per step, also for a batch of one."""
    one = np.array([1.0])
    expect_shape(one_step_advantages(one, one, one, np.array([True]), 0.9), (1,), "the advantages")
