"""The table environment and the loops of chapter 4 that are no exercises."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlcourse.envs.table_env import TableEnv, transition_table
from rlcourse.envs.tables import cliff, helpdesk
from solutions import ch04_value_methods as ch04


def zeros(states=48, actions=4):
    return [[0.0] * actions for _ in range(states)]


def test_the_cliff_table_is_gymnasiums():
    theirs, ours = gym.make("CliffWalking-v1").unwrapped.P, transition_table(cliff())
    for s in range(37):  # the cells one can stand on, except the goal
        for a in range(4):
            assert [tuple(map(float, o)) for o in theirs[s][a]] == [tuple(map(float, o)) for o in ours[s][a]]


@pytest.mark.parametrize("learn", [ch04.q_learning, ch04.sarsa])
def test_a_loop_gives_the_same_returns_on_the_table_and_on_gymnasium(learn):
    rng = np.random.default_rng(0)
    env = TableEnv(transition_table(cliff()), 36, rng)
    ours = learn(env, zeros(), 60, 0.5, 0.1, 1.0, rng)
    theirs = learn(gym.make("CliffWalking-v1"), zeros(), 60, 0.5, 0.1, 1.0, np.random.default_rng(0))
    assert ours == theirs and len(ours) == 60


def test_outcomes_come_with_their_probabilities():
    mdp = helpdesk()
    env = TableEnv(transition_table(mdp), list(mdp.rho0), np.random.default_rng(0))
    starts, nexts = np.zeros(4), np.zeros(4)
    for _ in range(20_000):
        s, _ = env.reset()
        starts[s] += 1
        env.state = 0
        s_next, reward, terminated, truncated, _ = env.step(0)
        assert reward == mdp.R[0, 0, s_next] and terminated == mdp.terminal[s_next] and not truncated
        nexts[s_next] += 1
    np.testing.assert_allclose(starts / 20_000, mdp.rho0, atol=0.015)
    np.testing.assert_allclose(nexts / 20_000, mdp.P[0, 0], atol=0.015)


def test_the_time_limit_truncates_and_does_not_terminate():
    env = TableEnv([[[(1.0, 0, 1.0, False)]]], 0, np.random.default_rng(0), max_steps=3)
    for _ in range(2):
        env.reset()
        flags = [env.step(0)[2:4] for _ in range(3)]
        assert flags == [(False, False), (False, False), (False, True)]


def test_double_q_learning_finds_the_best_actions_of_the_help_desk():
    mdp, rng = helpdesk(), np.random.default_rng(0)
    env = TableEnv(transition_table(mdp), list(mdp.rho0), rng)
    Q, other = zeros(4, 2), zeros(4, 2)
    ch04.double_q_learning(env, Q, other, 3000, 0.05, 0.3, mdp.gamma, rng)
    assert np.argmax(np.add(Q, other), 1)[:3].tolist() == [1, 0, 1]


def test_the_replay_buffer_keeps_the_newest_and_draws_only_what_is_stored():
    buffer, generator = ch04.ReplayBuffer(4, 2, "cpu"), torch.Generator().manual_seed(0)
    for x in range(3):
        buffer.add(np.full((2, 2), x), [x, x], [1.0, 2.0], np.full((2, 2), x + 1), [False, x == 2])
        obs, actions, rewards, next_obs, terminated = buffer.sample(200, generator)
        assert set(actions.tolist()) == set(range(max(0, x - 1), x + 1))
        assert torch.equal(obs[:, 0] + 1, next_obs[:, 0]) and torch.equal(obs[:, 0].long(), actions)
        assert not terminated.any() or x == 2
        assert set(rewards.tolist()) == {1.0, 2.0}


def test_dqn_stores_every_transition_and_no_reset_step(monkeypatch):
    """One CartPole step moves the cart by 0.02 times its speed; a reset does not."""
    buffers, steps, add = [], [], ch04.ReplayBuffer.add

    def spy(self, *rows):
        buffers.append(self)
        add(self, *rows)

    monkeypatch.setattr(ch04.ReplayBuffer, "add", spy)
    settings = ch04.DQNSettings(total=800, num_envs=4, learning_starts=100, batch=8)
    network = ch04.dqn(0, settings, lambda step, network: steps.append(step))
    stored = buffers[0].written
    obs, _, rewards, next_obs, terminated = (column[:stored] for column in buffers[0].columns)
    assert steps == list(range(4, 801, 4))
    ends = int(terminated.sum())
    assert ends > 5 and ends - 4 <= 800 - stored <= ends  # a reset follows each end but the last ones
    torch.testing.assert_close(next_obs[:, 0], obs[:, 0] + 0.02 * obs[:, 1], rtol=0, atol=1e-5)
    assert (rewards == 1).all()
    assert 1 <= ch04.evaluate(network, episodes=2) <= 500
