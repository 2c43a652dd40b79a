"""Graders of chapter 2."""

from rlcourse.grading.expect import expect_close, expect_unchanged

EXERCISES = {
    "discounted_return": {
        "title": "The return, backwards",
        "difficulty": 1,
        "minutes": 10,
        "points": 10,
        "equation": "eq-return-recursion",
    },
}


def test_discounted_return_values(discounted_return):
    """The return adds up the rewards, each discounted once per step of delay."""
    expect_close(discounted_return([1.0, 2.0, 4.0], 0.5), 3.0, "the return of rewards 1, 2, 4 with gamma 0.5")


def test_discounted_return_extremes(discounted_return):
    """gamma = 0 keeps the first reward only; no rewards make a return of 0."""
    expect_close(discounted_return([3.0, 5.0], 0.0), 3.0, "the return with gamma 0")
    expect_close(discounted_return([], 0.9), 0.0, "the return of an empty episode")


def test_discounted_return_keeps_its_input(discounted_return):
    """The list of rewards is not changed."""
    rewards = [1.0, 2.0]
    discounted_return(rewards, 0.5)
    expect_unchanged([1.0, 2.0], rewards, "rewards")
