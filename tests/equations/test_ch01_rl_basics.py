"""Numerical tests of the labelled equations of chapter 1."""

import numpy as np
import pytest

from solutions.ch01_rl_basics import (
    CliffWorld,
    episode_return,
    epsilon_greedy_probs,
    monte_carlo_update,
    run_episode,
    safe_policy,
    update_mean,
)


@pytest.mark.equation("eq-episode-return")
def test_episode_return():
    """The running total that the world itself would show equals the return, after every step."""
    actions = [0, 1, 2, 3, 0, *[1] * 11, 2]  # one fall on the way: up, right, down into the cliff, …
    moves = iter(actions)
    _, _, rewards, terminated = run_episode(CliffWorld(), lambda state: next(moves))
    assert terminated and len(rewards) == 17
    assert episode_return(rewards) == -16 - 100  # 16 steps and one fall
    assert episode_return(run_episode(CliffWorld(), safe_policy)[2]) == -17


@pytest.mark.equation("eq-epsilon-greedy-probs")
def test_epsilon_greedy_probs():
    """The formula against the frequencies of the two-stage draw that it describes."""
    rng, values, epsilon, draws = np.random.default_rng(0), np.array([0.0, 2.0, -1.0, 2.0]), 0.3, 200_000
    explore = rng.random(draws) < epsilon
    arms = np.where(explore, rng.integers(4, size=draws), rng.choice([1, 3], size=draws))
    frequencies = np.bincount(arms, minlength=4) / draws
    assert epsilon_greedy_probs(values, epsilon) == pytest.approx(frequencies, abs=0.005)


@pytest.mark.equation("eq-running-mean")
def test_running_mean():
    numbers = np.random.default_rng(1).normal(3.0, 2.0, size=40)
    mean = 0.0
    for n, value in enumerate(numbers, 1):
        mean = update_mean(mean, n, value)
        assert mean == pytest.approx(np.mean(numbers[:n]))


@pytest.mark.equation("eq-mc-update")
def test_mc_update():
    """With a constant step size, old returns fade: the weights of start and returns add up to 1."""
    rng, alpha, first = np.random.default_rng(2), 0.2, 5.0
    Q, returns = np.array([[first]]), []
    for _ in range(12):
        reward = rng.normal()
        returns.append(reward)
        Q = monte_carlo_update(Q, [0, 0], [0], [reward], alpha)
    n = len(returns)
    weights = alpha * (1 - alpha) ** np.arange(n - 1, -1, -1)
    assert weights.sum() + (1 - alpha) ** n == pytest.approx(1.0)
    assert Q[0, 0] == pytest.approx((1 - alpha) ** n * first + weights @ np.array(returns))
