"""Chapter 2: the Markov decision process, trajectories, returns."""


def discounted_return(rewards, gamma):
    """Return of the first step of an episode, computed backwards in one pass (eq-return-recursion).

    Args:
        rewards: list of T floats, `rewards[t]` is R_{t+1}, the reward that follows action A_t.
        gamma: discount factor in [0, 1].

    Returns:
        G_0 = R_1 + gamma R_2 + gamma^2 R_3 + ..., a float; 0.0 for an empty list.

    Source: Sutton and Barto (2018), eq. 3.9.
    """
    g = 0.0
    for r in reversed(rewards):
        g = r + gamma * g
    return g
