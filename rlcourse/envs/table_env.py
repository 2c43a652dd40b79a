"""An environment made from a table, with Gymnasium's interface and none of its weight."""

import numpy as np


def transition_table(mdp):
    """A TabularMDP in Gymnasium's form: table[s][a] lists (probability, s', reward, terminated)."""
    return [
        [
            [
                (float(mdp.P[s, a, n]), int(n), float(mdp.R[s, a, n]), bool(mdp.terminal[n]))
                for n in np.flatnonzero(mdp.P[s, a])
            ]
            for a in range(mdp.P.shape[1])
        ]
        for s in range(mdp.P.shape[0])
    ]


class TableEnv:
    """`reset` and `step` as in Gymnasium, read from table[s][a] = [(probability, s', reward, terminated), …].

    Args:
        table: Gymnasium's `env.unwrapped.P` or `transition_table(mdp)`; states may differ in their actions.
        start: number of the initial state, or a list with the probability of each state.
        rng: NumPy generator. A transition with one outcome draws nothing from it.
        max_steps: `truncated` is True from this step of an episode on; None for no limit.
    """

    def __init__(self, table, start, rng, max_steps=None):
        self.table, self.start, self.rng, self.max_steps = table, start, rng, max_steps

    def reset(self):
        self.steps, self.state = 0, self.start
        if not isinstance(self.start, int):
            self.state = int(self.rng.choice(len(self.start), p=self.start))
        return self.state, {}

    def step(self, action):
        outcomes = self.table[self.state][action]
        outcome = outcomes[0]
        if len(outcomes) > 1:
            u = self.rng.random()
            for outcome in outcomes:  # the last one also takes what rounding leaves over
                u -= outcome[0]
                if u < 0:
                    break
        _, self.state, reward, terminated = outcome
        self.steps += 1
        truncated = self.max_steps is not None and self.steps >= self.max_steps
        return self.state, reward, terminated, truncated, {}
