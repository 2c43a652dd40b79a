"""Small Markov decision processes as tables of numbers: the worlds of chapters 1 to 5."""

from typing import NamedTuple

import numpy as np


class TabularMDP(NamedTuple):
    """A finite MDP. A terminal state loops to itself with reward 0, so no equation needs a special case."""

    P: np.ndarray  # (S, A, S) transition probabilities P[s, a, s']; every row sums to 1
    R: np.ndarray  # (S, A, S) reward of the transition (s, a, s')
    rho0: np.ndarray  # (S,) initial-state distribution
    gamma: float  # discount factor
    terminal: np.ndarray  # (S,) bool
    states: tuple[str, ...] = ()  # names, for printing
    actions: tuple[str, ...] = ()


def helpdesk(gamma: float = 0.9) -> TabularMDP:
    """The help desk, the running example of chapters 2 to 5: answer now, or search first?

    A ticket is `new`. An agent may `answer` (a right answer closes the ticket, a wrong one confuses the
    customer) or `search` (costs 1, and mostly leaves it `informed`).
    """
    states, actions = ("new", "informed", "confused", "closed"), ("answer", "search")
    new, informed, confused, closed = range(4)
    answer, search = range(2)
    outcomes = [  # state, action, next state, probability, reward
        (new, answer, closed, 0.4, 10.0),
        (new, answer, confused, 0.6, -4.0),
        (new, search, informed, 0.8, -1.0),
        (new, search, new, 0.2, -1.0),
        (informed, answer, closed, 0.9, 10.0),
        (informed, answer, confused, 0.1, -4.0),
        (informed, search, informed, 0.9, -1.0),
        (informed, search, new, 0.1, -1.0),
        (confused, answer, closed, 0.2, 10.0),
        (confused, answer, confused, 0.8, -4.0),
        (confused, search, informed, 0.5, -1.0),
        (confused, search, confused, 0.5, -1.0),
    ]
    P, R = np.zeros((4, 2, 4)), np.zeros((4, 2, 4))
    for s, a, s_next, p, r in outcomes:
        P[s, a, s_next], R[s, a, s_next] = p, r
    P[closed, :, closed] = 1.0
    rho0 = np.array([0.8, 0.0, 0.2, 0.0])
    return TabularMDP(P, R, rho0, gamma, np.array([False, False, False, True]), states, actions)


def cliff(falling: str = "restart", gamma: float = 1.0) -> TabularMDP:
    """Cliff walking, 4 x 12 cells numbered row * 12 + column, start 36, goal 47, actions up right down left.

    Every step costs 1. Entering a cliff cell (37 to 46) costs 100 and then, by `falling`:
    "restart": back to the start, and the episode goes on (Sutton and Barto, Gymnasium);
    "terminal": the episode ends in the cliff cell (the convention of the source article).

    Raises ValueError for any other `falling`.
    """
    if falling not in ("restart", "terminal"):
        raise ValueError(f"falling must be 'restart' or 'terminal', not {falling!r}")
    rows, cols, start, goal = 4, 12, 36, 47
    in_cliff = np.zeros(48, dtype=bool)
    in_cliff[37:47] = True
    terminal = in_cliff if falling == "terminal" else np.zeros(48, dtype=bool)
    terminal = terminal.copy()
    terminal[goal] = True
    P, R = np.zeros((48, 4, 48)), np.zeros((48, 4, 48))
    for s in range(48):
        row, col = divmod(s, cols)
        for a, (d_row, d_col) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            s_next = min(max(row + d_row, 0), rows - 1) * cols + min(max(col + d_col, 0), cols - 1)
            r = -1.0
            if in_cliff[s_next]:
                r, s_next = -100.0, (s_next if falling == "terminal" else start)
            if terminal[s]:
                s_next, r = s, 0.0
            P[s, a, s_next], R[s, a, s_next] = 1.0, r
    rho0 = np.zeros(48)
    rho0[start] = 1.0
    return TabularMDP(
        P, R, rho0, gamma, terminal, tuple(map(str, range(48))), ("up", "right", "down", "left")
    )
