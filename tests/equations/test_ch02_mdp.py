"""Numerical tests of the labelled equations of chapter 2."""

import numpy as np
import pytest


@pytest.mark.equation("eq-return-recursion")
def test_return_recursion():
    rewards, gamma = np.random.default_rng(0).normal(size=7), 0.9
    returns = [sum(gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(8)]
    for t in range(7):
        assert returns[t] == pytest.approx(rewards[t] + gamma * returns[t + 1])
