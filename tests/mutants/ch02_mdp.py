"""Wrong versions of chapter 2's exercises; each docstring is the diagnosis that a learner reads."""


def discounted_return__forwards(rewards, gamma):
    """You fold the list from the front, so the last reward counts fully and the first is discounted most."""
    g = 0.0
    for r in rewards:
        g = r + gamma * g
    return g


def discounted_return__undiscounted(rewards, gamma):
    """This is the plain sum of the rewards: gamma is never used."""
    return float(sum(rewards))


def discounted_return__shifted(rewards, gamma):
    """Every reward is discounted once too often: R_1 follows A_0 at once and is not discounted in G_0."""
    g = 0.0
    for r in reversed(rewards):
        g = gamma * (r + g)
    return g


def discounted_return__in_place(rewards, gamma):
    """The numbers are right, but `rewards.reverse()` turns the caller's list around: use reversed(rewards)."""
    rewards.reverse()
    g = 0.0
    for r in rewards:
        g = r + gamma * g
    return g
