"""Correct but different versions of chapter 2's exercises."""


def discounted_return__power_series(rewards, gamma):
    """The definition, term by term."""
    return float(sum(gamma**k * r for k, r in enumerate(rewards)))
