"""Graders of chapter 4. Expected values come from arithmetic by hand, enumeration and autograd."""

import numpy as np
import torch

from rlcourse.grading.expect import expect_close, expect_equal, expect_raises, expect_true, expect_unchanged

EXERCISES = {
    "q_learning_update": {
        "title": "One step of Q-learning",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-q-learning",
    },
    "sarsa_update": {
        "title": "One step of SARSA",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-sarsa",
    },
    "expected_sarsa_target": {
        "title": "The target of expected SARSA",
        "difficulty": 2,
        "minutes": 15,
        "points": 10,
        "equation": "eq-expected-sarsa",
    },
    "visit_step_size": {
        "title": "Step sizes that shrink with the visits",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-step-size",
    },
    "double_q_update": {
        "title": "One step of double Q-learning",
        "difficulty": 3,
        "minutes": 15,
        "points": 10,
        "equation": "eq-double-q",
    },
    "n_step_targets": {
        "title": "Targets that know how an episode ended",
        "difficulty": 4,
        "minutes": 25,
        "points": 15,
        "equation": "eq-n-step",
    },
    "dqn_loss": {
        "title": "The loss of DQN",
        "difficulty": 3,
        "minutes": 20,
        "points": 15,
        "equation": "eq-dqn-loss",
    },
}

TABLE = [[1.0, 2.0], [-3.0, -0.5], [4.0, 0.0]]


def fresh():
    """A table of three states and two actions that a grader may let a function change."""
    return [list(row) for row in TABLE]


# One step of Q-learning


def test_q_learning_update_error(q_learning_update):
    """The TD error is the reward, plus the discounted best next value, minus the old value."""
    # by hand: 2 + 0.9 * 4 - 2 = 3.6 and 2 + 0.9 * (-0.5) - 2 = -0.45
    for s_next, want in ((2, 3.6), (1, -0.45)):
        delta = q_learning_update(fresh(), 0, 1, 2.0, s_next, False, 0.5, 0.9)
        expect_close(delta, want, f"the TD error of (s=0, a=1, reward=2, s_next={s_next}), gamma 0.9")


def test_q_learning_update_entry(q_learning_update):
    """The entry of (s, a) moves by alpha times the TD error, and no other entry changes."""
    Q, want = fresh(), fresh()
    want[0][1] = 2.0 + 0.25 * 3.6
    q_learning_update(Q, 0, 1, 2.0, 2, False, 0.25, 0.9)
    expect_close(Q, want, "the table after a step from (s=0, a=1) to s_next=2 with alpha 0.25")


def test_q_learning_update_terminal(q_learning_update):
    """After a termination nothing follows: the target is the reward alone."""
    Q, want = fresh(), fresh()
    want[0][0] = 1.0 + 0.5 * (7.0 - 1.0)
    delta = q_learning_update(Q, 0, 0, 7.0, 2, True, 0.5, 0.9)
    expect_close(delta, 6.0, "the TD error of a terminating step with reward 7 from Q = 1")
    expect_close(Q, want, "the table after the terminating step")


def test_q_learning_update_loop(q_learning_update):
    """A step that stays in the same state uses the old values on both sides."""
    Q = fresh()
    delta = q_learning_update(Q, 0, 1, -1.0, 0, False, 0.5, 1.0)
    expect_close(delta, -1.0, "the TD error of a step from s=0 to itself, reward -1, gamma 1")
    expect_close(Q[0], [1.0, 1.5], "the row of s=0 after that step")


def test_q_learning_update_mean(q_learning_update):
    """Averaged over a stochastic transition the step goes towards the Bellman optimality backup."""
    outcomes = [(0.5, 0, -1.0, False), (0.3, 1, 2.0, False), (0.2, 2, 5.0, True)]
    # by hand, gamma 0.5: 0.5 (-1 + 0.5*2) + 0.3 (2 + 0.5*(-0.5)) + 0.2 * 5 = 1.525; minus Q = -3 gives 4.525
    mean = sum(p * q_learning_update(fresh(), 1, 0, r, n, d, 0.1, 0.5) for p, n, r, d in outcomes)
    expect_close(mean, 4.525, "the mean TD error over three outcomes of (s=1, a=0)")


# One step of SARSA


def test_sarsa_update_error(sarsa_update):
    """The TD error uses the value of the action that is taken next, not of the best one."""
    for a_next, want in ((0, 2.0 + 0.9 * 4.0 - 1.0), (1, 2.0 + 0.9 * 0.0 - 1.0)):
        delta = sarsa_update(fresh(), 0, 0, 2.0, 2, a_next, False, 0.5, 0.9)
        expect_close(delta, want, f"the TD error of (s=0, a=0, reward=2, s_next=2, a_next={a_next})")


def test_sarsa_update_entry(sarsa_update):
    """The entry of (s, a) moves by alpha times the TD error, and no other entry changes."""
    Q, want = fresh(), fresh()
    want[2][0] = 4.0 + 0.25 * (1.0 + 0.5 * (-3.0) - 4.0)
    sarsa_update(Q, 2, 0, 1.0, 1, 0, False, 0.25, 0.5)
    expect_close(Q, want, "the table after (s=2, a=0, reward=1, s_next=1, a_next=0)")


def test_sarsa_update_terminal(sarsa_update):
    """A terminating step still updates, with the reward alone as its target; a_next may be None."""
    Q, want = fresh(), fresh()
    want[0][1] = 2.0 + 0.5 * (10.0 - 2.0)
    delta = sarsa_update(Q, 0, 1, 10.0, 2, None, True, 0.5, 0.9)
    expect_close(Q, want, "the table after a terminating step with reward 10")
    expect_close(delta, 8.0, "the TD error of that step")


# Expected SARSA


def test_expected_sarsa_target_hand(expected_sarsa_target):
    """The best action has probability 1 - epsilon + epsilon / A, every other one epsilon / A."""
    # by hand: probabilities 0.1, 0.8, 0.1; mean value 0.1 - 0.4 + 3.2 = 2.9
    got = expected_sarsa_target([1.0, 4.0, -4.0], 2.0, False, 0.3, 0.5)
    expect_close(got, 2.0 + 0.5 * 2.9, "the target for values 1, 4, -4, epsilon 0.3, reward 2, gamma 0.5")


def test_expected_sarsa_target_ties(expected_sarsa_target):
    """Several best actions share their chance: the probabilities still sum to 1."""
    got = expected_sarsa_target([3.0, 3.0, 3.0, 3.0], 0.0, False, 0.4, 1.0)
    expect_close(got, 3.0, "the target when all four actions are worth 3, reward 0, gamma 1")


def test_expected_sarsa_target_limits(expected_sarsa_target):
    """epsilon = 0 gives the best value, epsilon = 1 the plain mean."""
    expect_close(expected_sarsa_target([2.0, 6.0], 1.0, False, 0.0, 1.0), 7.0, "the target with epsilon 0")
    expect_close(expected_sarsa_target([2.0, 6.0], 1.0, False, 1.0, 1.0), 5.0, "the target with epsilon 1")


def test_expected_sarsa_target_terminal(expected_sarsa_target):
    """After a termination the target is the reward alone."""
    got = expected_sarsa_target([9.0, 7.0], -2.0, True, 0.1, 0.9)
    expect_close(got, -2.0, "the target of a terminating step with reward -2")


def test_expected_sarsa_target_sampled(expected_sarsa_target):
    """It is the mean of SARSA's targets over the actions that epsilon-greedy draws."""
    rng, row, eps = np.random.default_rng(0), [0.5, -1.0, 2.0, 1.0], 0.4
    explore = rng.random(200_000) < eps
    draws = np.where(explore, rng.integers(4, size=200_000), 2)
    want = -1.0 + 0.9 * np.array(row)[draws].mean()
    got = expected_sarsa_target(row, -1.0, False, eps, 0.9)
    expect_close(float(got), want, "the target against the mean of 200,000 draws", rtol=0, atol=0.02)
    expect_unchanged([0.5, -1.0, 2.0, 1.0], row, "q_next")


# Step sizes


def test_visit_step_size_sequence(visit_step_size):
    """The n-th visit of a pair gets n ** -power, beginning with n = 1."""
    counts = [[0, 0], [0, 0]]
    got = [visit_step_size(counts, 1, 0, 1.0) for _ in range(4)]
    expect_close(got, [1, 1 / 2, 1 / 3, 1 / 4], "the step sizes of four visits with power 1")
    counts = [[0, 0], [0, 0]]
    got = [visit_step_size(counts, 1, 0, 0.5) for _ in range(4)]
    expect_close(got, [1, 2**-0.5, 3**-0.5, 0.5], "the step sizes of four visits with power 0.5")


def test_visit_step_size_per_pair(visit_step_size):
    """Each pair of state and action counts its own visits."""
    counts = [[3, 0], [0, 7]]
    got = [visit_step_size(counts, s, a, 1.0) for s, a in ((0, 0), (0, 1), (1, 0), (1, 1))]
    expect_close(got, [1 / 4, 1, 1, 1 / 8], "the step sizes of the four pairs after 3, 0, 0 and 7 visits")


def test_visit_step_size_counts(visit_step_size):
    """The visit is counted in place, and only for its own pair."""
    counts = [[3, 0], [0, 7]]
    visit_step_size(counts, 1, 1, 0.7)
    expect_equal(counts, [[3, 0], [0, 8]], "the counts after one more visit of (1, 1)")


def test_visit_step_size_constant(visit_step_size):
    """power = 0 gives the constant step size 1."""
    expect_close(visit_step_size([[5]], 0, 0, 0), 1.0, "the step size with power 0")


# Double Q-learning

FIRST, OTHER = [[0.0, 0.0], [5.0, 1.0]], [[0.0, 0.0], [2.0, 8.0]]


def test_double_q_update_error(double_q_update):
    """The first table chooses the next action, the other one says what it is worth."""
    # FIRST prefers action 0 in state 1; OTHER gives it 2: 1 + 0.5 * 2 - 0
    Q, other = [r[:] for r in FIRST], [r[:] for r in OTHER]
    delta = double_q_update(Q, other, 0, 1, 1.0, 1, False, 0.1, 0.5)
    expect_close(delta, 2.0, "the TD error: next values 5, 1 in Q and 2, 8 in Q_other, reward 1, gamma 0.5")


def test_double_q_update_tables(double_q_update):
    """Only the entry (s, a) of the first table changes."""
    Q, other = [r[:] for r in FIRST], [r[:] for r in OTHER]
    double_q_update(Q, other, 0, 1, 1.0, 1, False, 0.1, 0.5)
    expect_close(Q[0], [0.0, 0.2], "row 0 of the first table with alpha 0.1")
    expect_close(Q[1], [5.0, 1.0], "row 1 of the first table")
    expect_unchanged(OTHER, other, "the other table")


def test_double_q_update_terminal(double_q_update):
    """After a termination the target is the reward alone."""
    Q, other = [r[:] for r in FIRST], [r[:] for r in OTHER]
    delta = double_q_update(Q, other, 0, 0, 3.0, 1, True, 0.5, 0.5)
    expect_close(delta, 3.0, "the TD error of a terminating step with reward 3 from Q = 0")


def test_double_q_update_lower_side(double_q_update):
    """The other table is believed also where it gives more than the first."""
    delta = double_q_update([[0.0], [1.0]], [[0.0], [4.0]], 0, 0, 0.0, 1, False, 0.5, 1.0)
    expect_close(delta, 4.0, "the TD error with one action, worth 1 in Q and 4 in Q_other")


def test_double_q_update_unbiased(double_q_update):
    """With two independent tables of noise around 0 the mean target is 0, not the mean of the maximum."""
    signs = [(i, j) for i in (-1.0, 1.0) for j in (-1.0, 1.0)]  # all tables of two fair coins
    errors = [
        double_q_update([[0.0], [*x]], [[0.0], [*y]], 0, 0, 0.0, 1, False, 0.5, 1.0)
        for x in signs
        for y in signs
    ]
    expect_close(np.mean(errors), 0.0, "the mean TD error over all 16 pairs of coin tables")


# n-step targets

NONE = np.zeros(4, dtype=bool)
REWARDS, NEXT = np.array([1.0, 2.0, 4.0, 8.0]), np.array([10.0, 20.0, 30.0, 40.0])


def at(t):
    flags = NONE.copy()
    flags[t] = True
    return flags


def test_n_step_targets_one(n_step_targets):
    """n = 1: each reward plus the discounted value of the next state."""
    got = n_step_targets(REWARDS, NEXT, NONE, NONE, 1, 0.5)
    expect_close(got, [6.0, 12.0, 19.0, 28.0], "the one-step targets with gamma 0.5")


def test_n_step_targets_two(n_step_targets):
    """n = 2: two rewards, then the value two steps ahead, discounted twice."""
    # by hand: 1 + 0.5*2 + 0.25*20 = 7; 2 + 2 + 7.5 = 11.5; 4 + 4 + 10 = 18; one reward left: 28
    got = n_step_targets(REWARDS, NEXT, NONE, NONE, 2, 0.5)
    expect_close(got, [7.0, 11.5, 18.0, 28.0], "the two-step targets with gamma 0.5, no episode ends")


def test_n_step_targets_terminated(n_step_targets):
    """A termination ends the sum: no later reward, and no value after it."""
    got = n_step_targets(REWARDS, NEXT, at(1), NONE, 3, 0.5)
    expect_close(got, [2.0, 2.0, 18.0, 28.0], "three-step targets, step 1 terminated")


def test_n_step_targets_truncated(n_step_targets):
    """A time limit also ends the sum of rewards, but the value of the state reached still counts."""
    got = n_step_targets(REWARDS, NEXT, NONE, at(1), 3, 0.5)
    expect_close(got, [7.0, 12.0, 18.0, 28.0], "three-step targets, step 1 truncated")


def test_n_step_targets_both(n_step_targets):
    """A step that is terminated and truncated at once counts as terminated."""
    got = n_step_targets(REWARDS, NEXT, at(3), at(3), 9, 1.0)
    expect_close(got, [15.0, 14.0, 12.0, 8.0], "targets with n = 9, gamma 1, the last step ends both ways")


def test_n_step_targets_input(n_step_targets):
    """The inputs stay as they are, a single step works, and n = 0 is refused."""
    rewards, values = REWARDS.copy(), NEXT.copy()
    n_step_targets(rewards, values, at(1), at(2), 2, 0.5)
    expect_unchanged(REWARDS, rewards, "rewards")
    expect_unchanged(NEXT, values, "next_values")
    got = n_step_targets(np.array([3]), np.array([0.5]), at(1)[:1], at(1)[:1], 5, 0.5)
    expect_close(got, [3.25], "the target of a single step with an integer reward of 3")
    expect_raises(ValueError, lambda: n_step_targets(rewards, values, NONE, NONE, 0, 0.5), "n = 0")


# DQN


class Table(torch.nn.Module):
    """A 'network' whose values can be read off: observation [i] has the i-th row of a table."""

    def __init__(self, rows):
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows))

    def forward(self, obs):
        return self.rows[obs[:, 0].long()]


def dqn_case():
    online = Table([[1.0, 2.0, 3.0], [5.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    target = Table([[0.0, 0.0, 0.0], [2.0, 7.0, 4.0], [6.0, 3.0, 9.0]])
    batch = (
        torch.tensor([[0.0], [0.0]]),
        torch.tensor([1, 2]),
        torch.tensor([1.0, -1.0]),
        torch.tensor([[1.0], [2.0]]),
        torch.tensor([False, False]),
    )
    return online, target, batch


def test_dqn_loss_value(dqn_loss):
    """The mean of the squared TD errors, with the target network's best next value."""
    # by hand, gamma 0.5: 1 + 3.5 - 2 = 2.5 and -1 + 4.5 - 3 = 0.5; mean of squares 3.25
    expect_close(dqn_loss(*dqn_case(), 0.5), 3.25, "the loss of two transitions", rtol=1e-5)


def test_dqn_loss_double(dqn_loss):
    """double: the online network chooses the next action, the target network evaluates it."""
    # by hand: the choices are 0 and 1, worth 2 and 3: 1 + 1 - 2 = 0 and -1 + 1.5 - 3 = -2.5
    loss = dqn_loss(*dqn_case(), 0.5, double=True)
    expect_close(loss, 3.125, "the double loss of two transitions", rtol=1e-5)


def test_dqn_loss_terminated(dqn_loss):
    """A terminated transition has no next value, the others in the batch keep theirs."""
    online, target, batch = dqn_case()
    batch = (*batch[:4], torch.tensor([True, False]))
    # by hand: 1 - 2 = -1 and 0.5 as before
    loss = dqn_loss(online, target, batch, 0.5)
    expect_close(loss, 0.625, "the loss, first transition terminated", rtol=1e-5)


def test_dqn_loss_gradient(dqn_loss):
    """The gradient flows through the predicted value of the action taken, and nowhere else."""
    online, target, batch = dqn_case()
    loss = dqn_loss(online, target, batch, 0.5)
    expect_true(loss.requires_grad, "the loss has no gradient: do not put the prediction under no_grad")
    loss.backward()
    want = np.zeros((3, 3))
    want[0, 1], want[0, 2] = -2.5, -0.5  # d/dq of mean (y - q)^2 is -(y - q) for a batch of two
    expect_close(online.rows.grad, want, "the gradient of the online table", rtol=1e-5)
    silent = target.rows.grad is None or not target.rows.grad.any()
    expect_true(silent, "the target network received a gradient: it must stay fixed")


def test_dqn_loss_one_network(dqn_loss):
    """Without a separate copy (target is online) the target still counts as a constant."""
    online, _, batch = dqn_case()
    batch = (*batch[:3], torch.tensor([[0.0], [1.0]]), batch[4])
    dqn_loss(online, online, batch, 1.0, double=True).backward()
    # by hand: 1 + 3 - 2 = 2 and -1 + 5 - 3 = 1; the gradient is minus these, at the actions taken only
    want = np.zeros((3, 3))
    want[0, 1], want[0, 2] = -2.0, -1.0
    expect_close(online.rows.grad, want, "the gradient when both networks are one", rtol=1e-5)


def test_dqn_loss_single_transition(dqn_loss):
    """A batch of one gives a scalar."""
    online, target, batch = dqn_case()
    loss = dqn_loss(online, target, tuple(column[:1] for column in batch), 0.5)
    expect_equal(tuple(loss.shape), (), "the shape of the loss")
    expect_close(loss, 6.25, "the loss of the first transition alone", rtol=1e-5)
