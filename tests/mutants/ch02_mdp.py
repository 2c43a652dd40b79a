"""Wrong versions of chapter 2's exercises; each docstring is the diagnosis that a learner reads."""

import numpy as np

# --- expected_rewards


def expected_rewards__unweighted_sum(P, R):
    """You add up the rewards of all next states without their probabilities: P is never used."""
    return R.sum(axis=-1)


def expected_rewards__plain_mean(P, R):
    """You average over the possible next states as if all were equally likely: weight them by P[s, a, s']."""
    possible = P > 0
    return (R * possible).sum(axis=-1) / possible.sum(axis=-1)


def expected_rewards__most_likely(P, R):
    """You take the reward of the most likely next state: right only in a deterministic world."""
    return np.take_along_axis(R, P.argmax(axis=-1)[..., None], axis=-1)[..., 0]


def expected_rewards__sum_over_actions(P, R):
    """You sum over the axis of the actions; the sum runs over the next states, the last axis."""
    return (P * R).sum(axis=1)


def expected_rewards__in_place(P, R):
    """The numbers are right, but `R *= P` writes into the caller's table: use P * R."""
    R *= P
    return R.sum(axis=-1)


# --- sample_trajectory


def _draw(rng, p):
    return int(rng.choice(len(p), p=p))


def _episode(
    mdp,
    pi,
    rng,
    max_steps,
    start=None,
    choose=_draw,
    move=_draw,
    reward=lambda R, s, a, n: R[s, a, n],
    follow=True,
    past_the_end=False,
):
    """A sampler in which each part can be replaced by a wrong one."""
    s = _draw(rng, mdp.rho0) if start is None else start
    states, actions, rewards = [s], [], []
    while len(actions) < max_steps and (past_the_end or not mdp.terminal[states[-1]]):
        s = states[-1] if follow else states[0]
        a = choose(rng, pi[s])
        s_next = move(rng, mdp.P[s, a])
        states.append(s_next)
        actions.append(a)
        rewards.append(float(reward(mdp.R, s, a, s_next)))
    return states, actions, rewards, bool(mdp.terminal[states[-1]])


def _argmax(rng, p):
    return int(np.argmax(p))


def sample_trajectory__ignores_rho0(mdp, pi, rng, max_steps=1000):
    """Every episode starts in state 0: draw the first state from rho0."""
    return _episode(mdp, pi, rng, max_steps, start=0)


def sample_trajectory__greedy(mdp, pi, rng, max_steps=1000):
    """You always take the most likely action: a policy is a distribution, so draw from its row."""
    return _episode(mdp, pi, rng, max_steps, choose=_argmax)


def sample_trajectory__deterministic_world(mdp, pi, rng, max_steps=1000):
    """You always go to the most likely next state: the transition probabilities are ignored."""
    return _episode(mdp, pi, rng, max_steps, move=_argmax)


def sample_trajectory__stale_state(mdp, pi, rng, max_steps=1000):
    """The state is never updated: every action and every transition is drawn from the first state."""
    return _episode(mdp, pi, rng, max_steps, follow=False)


def sample_trajectory__reward_of_staying(mdp, pi, rng, max_steps=1000):
    """You read the reward as R[s, a, s]: it belongs to the transition, so the last index is s'."""
    return _episode(mdp, pi, rng, max_steps, reward=lambda R, s, a, n: R[s, a, s])


def sample_trajectory__past_the_end(mdp, pi, rng, max_steps=1000):
    """The loop never asks whether the state is terminal: the episode goes on after its end."""
    return _episode(mdp, pi, rng, max_steps, past_the_end=True)


def sample_trajectory__terminated_by_length(mdp, pi, rng, max_steps=1000):
    """You take every episode of max_steps steps for truncated; the last step may reach a terminal state."""
    states, actions, rewards, terminated = _episode(mdp, pi, rng, max_steps)
    return states, actions, rewards, terminated and len(actions) < max_steps


def sample_trajectory__always_terminated(mdp, pi, rng, max_steps=1000):
    """terminated is always True: an episode that max_steps cut off is truncated, not terminated."""
    return (*_episode(mdp, pi, rng, max_steps)[:3], True)


def sample_trajectory__global_rng(mdp, pi, rng, max_steps=1000):
    """You draw from a generator of your own and not from `rng`: the same seed does not repeat the episode."""
    return _episode(mdp, pi, np.random.default_rng(), max_steps)


def sample_trajectory__reseeded(mdp, pi, rng, max_steps=1000):
    """You make a new generator with a fixed seed inside the function: every call plays the same episode."""
    return _episode(mdp, pi, np.random.default_rng(0), max_steps)


def sample_trajectory__last_state_missing(mdp, pi, rng, max_steps=1000):
    """The last state S_T is missing: T actions lead through T + 1 states."""
    states, *rest = _episode(mdp, pi, rng, max_steps)
    return states[: max(len(states) - 1, 1)], *rest


# --- trajectory_logprob


def _factors(states, actions, mdp, pi):
    start = mdp.rho0[states[0]]
    choices = [pi[s, a] for s, a in zip(states[:-1], actions, strict=True)]
    moves = [mdp.P[s, a, n] for s, a, n in zip(states[:-1], actions, states[1:], strict=True)]
    return start, choices, moves


def _sum_of_logs(factors):
    with np.errstate(divide="ignore"):
        return float(np.log(np.asarray(factors, dtype=float)).sum())


def trajectory_logprob__no_start(states, actions, mdp, pi):
    """The probability of the initial state is missing: the product starts with rho0(s_0)."""
    _, choices, moves = _factors(states, actions, mdp, pi)
    return _sum_of_logs(choices + moves)


def trajectory_logprob__no_policy(states, actions, mdp, pi):
    """The policy's factors are missing: this is the probability of the states if the actions were given."""
    start, _, moves = _factors(states, actions, mdp, pi)
    return _sum_of_logs([start, *moves])


def trajectory_logprob__no_transitions(states, actions, mdp, pi):
    """The world's factors P(s' | s, a) are missing. Only in a deterministic world are they all 1."""
    start, choices, _ = _factors(states, actions, mdp, pi)
    return _sum_of_logs([start, *choices])


def trajectory_logprob__shifted_action(states, actions, mdp, pi):
    """You look up action a_t in the policy's row of s_{t+1}: it was chosen in s_t, one step earlier."""
    start, _, moves = _factors(states, actions, mdp, pi)
    choices = [pi[n, a] for n, a in zip(states[1:], actions, strict=True)]
    return _sum_of_logs([start, *choices, *moves])


def trajectory_logprob__swapped_states(states, actions, mdp, pi):
    """The states of the transition are swapped: you read P[s', a, s], the table is P[s, a, s']."""
    start, choices, _ = _factors(states, actions, mdp, pi)
    moves = [mdp.P[n, a, s] for s, a, n in zip(states[:-1], actions, states[1:], strict=True)]
    return _sum_of_logs([start, *choices, *moves])


def trajectory_logprob__log_of_product(states, actions, mdp, pi):
    """The log of the product underflows: 2000 small factors multiply to 0. Add up the logs instead."""
    start, choices, moves = _factors(states, actions, mdp, pi)
    with np.errstate(divide="ignore"):
        return float(np.log(np.prod([start, *choices, *moves])))


def trajectory_logprob__no_log(states, actions, mdp, pi):
    """This is the probability itself: its log was asked for."""
    start, choices, moves = _factors(states, actions, mdp, pi)
    return float(np.prod([start, *choices, *moves]))


def trajectory_logprob__mean(states, actions, mdp, pi):
    """You divide by the number of steps: that is a mean log-probability, not the log of the probability."""
    start, choices, moves = _factors(states, actions, mdp, pi)
    return _sum_of_logs([start, *choices, *moves]) / max(len(actions), 1)


# --- discounted_return


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


def discounted_return__discounted_once(rewards, gamma):
    """You multiply every later reward by gamma once: each further step of delay multiplies by gamma again."""
    return float(sum((gamma if k else 1.0) * r for k, r in enumerate(rewards)))


def discounted_return__in_place(rewards, gamma):
    """The numbers are right, but `rewards.reverse()` turns round the caller's list: use reversed(rewards)."""
    rewards.reverse()
    g = 0.0
    for r in rewards:
        g = r + gamma * g
    return g


# --- returns_to_go


def _backwards(rewards, gamma):
    returns, g = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        returns[t] = g
    return returns


def returns_to_go__from_the_start(rewards, gamma):
    """You discount from step 0: these are gamma^t G_t. In G_t the reward R_{t+1} counts fully."""
    return gamma ** np.arange(len(rewards)) * _backwards(rewards, gamma)


def returns_to_go__of_the_past(rewards, gamma):
    """You add up the rewards before step t; a return looks forward, to the rewards after A_t."""
    returns, g = np.zeros(len(rewards)), 0.0
    for t, r in enumerate(rewards):
        g = r + gamma * g
        returns[t] = g
    return returns


def returns_to_go__shifted(rewards, gamma):
    """These are the returns of one step later: G_t includes R_{t+1}, the reward of the action at step t."""
    return np.append(_backwards(rewards, gamma)[1:], 0.0)[: len(rewards)]


def returns_to_go__same_everywhere(rewards, gamma):
    """Every step gets G_0, the return of the whole episode; step t is followed by less than that."""
    return np.repeat(_backwards(rewards, gamma)[:1], len(rewards))


def returns_to_go__reversed(rewards, gamma):
    """You collect the returns from the end and never turn the list around: G_{T-1} stands first."""
    return _backwards(rewards, gamma)[::-1]


def returns_to_go__rewards(rewards, gamma):
    """These are the rewards themselves: where a return is due, the later rewards count as well."""
    return np.array(rewards, dtype=float)


def returns_to_go__integers(rewards, gamma):
    """`zeros_like` takes the integer type of the rewards and cuts off the fractions: make a float array."""
    returns, g = np.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        g = rewards[t] + gamma * g
        returns[t] = g
    return returns


def returns_to_go__in_place(rewards, gamma):
    """You write the returns over the caller's rewards: make a new array."""
    returns = np.asarray(rewards)
    if returns.dtype.kind != "f":
        returns = returns.astype(float)
    for t in reversed(range(len(returns) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


# --- monte_carlo_objective


def _two_at_least(episodes):
    if episodes < 2:
        raise ValueError("a standard error needs at least 2 episodes")


def monte_carlo_objective__population_std(sample_return, episodes):
    """You divide the squares by n: around an estimated mean that is too small. Use n - 1 (ddof=1)."""
    _two_at_least(episodes)
    returns = np.array([sample_return() for _ in range(episodes)])
    return returns.mean(), returns.std() / np.sqrt(episodes)


def monte_carlo_objective__std(sample_return, episodes):
    """This is the spread of single returns; the standard error of their mean is smaller by sqrt(n)."""
    _two_at_least(episodes)
    returns = np.array([sample_return() for _ in range(episodes)])
    return returns.mean(), returns.std(ddof=1)


def monte_carlo_objective__variance(sample_return, episodes):
    """This is the variance of the mean: the standard error is its square root."""
    _two_at_least(episodes)
    returns = np.array([sample_return() for _ in range(episodes)])
    return returns.mean(), returns.var(ddof=1) / episodes


def monte_carlo_objective__std_over_n(sample_return, episodes):
    """You divide the standard deviation by n: the error of a mean shrinks with sqrt(n) only."""
    _two_at_least(episodes)
    returns = np.array([sample_return() for _ in range(episodes)])
    return returns.mean(), returns.std(ddof=1) / episodes


def monte_carlo_objective__half_width(sample_return, episodes):
    """This is the half width of a 95% interval, 1.96 standard errors: return the standard error itself."""
    _two_at_least(episodes)
    returns = np.array([sample_return() for _ in range(episodes)])
    return returns.mean(), 1.96 * returns.std(ddof=1) / np.sqrt(episodes)


def monte_carlo_objective__one_episode_repeated(sample_return, episodes):
    """You play one episode and repeat its return: call sample_return once per episode."""
    _two_at_least(episodes)
    returns = np.array([sample_return()] * episodes)
    return returns.mean(), returns.std(ddof=1) / np.sqrt(episodes)


def monte_carlo_objective__fresh_sample(sample_return, episodes):
    """You play a second set of episodes for the standard error: take mean and spread from the same ones."""
    _two_at_least(episodes)
    mean = np.mean([sample_return() for _ in range(episodes)])
    returns = np.array([sample_return() for _ in range(episodes)])
    return mean, returns.std(ddof=1) / np.sqrt(episodes)


def monte_carlo_objective__no_error(sample_return, episodes):
    """For one episode you return a standard error of nan or 0: raise ValueError, it is not known."""
    returns = np.array([sample_return() for _ in range(episodes)])
    spread = returns.std(ddof=1) if episodes > 1 else 0.0
    return float(returns.mean()), float(spread / np.sqrt(episodes))


# --- enumerate_trajectories


def _enumerate(
    mdp,
    pi,
    horizon,
    start=lambda rho0, s: rho0[s],
    factor=lambda pi, P, s, a, n: pi[s, a] * P[s, a, n],
    reward=lambda R, s, a, n: R[s, a, n],
    past_the_end=False,
    keep_impossible=False,
):
    """An enumeration in which each part can be replaced by a wrong one."""
    found = []
    todo = [
        (start(mdp.rho0, s), [s], [], []) for s in range(len(mdp.rho0)) if mdp.rho0[s] > 0 or keep_impossible
    ]
    while todo:
        p, states, actions, rewards = todo.pop()
        s = states[-1]
        if len(actions) == horizon or (mdp.terminal[s] and not past_the_end):
            found.append((p, (states, actions, rewards, bool(mdp.terminal[s]))))
            continue
        for a in range(pi.shape[1]):
            for n in range(len(mdp.P)):
                if keep_impossible or pi[s, a] * mdp.P[s, a, n] > 0:
                    r = float(reward(mdp.R, s, a, n))
                    p_next = p * factor(pi, mdp.P, s, a, n)
                    todo.append((p_next, [*states, n], [*actions, a], [*rewards, r]))
    return found


def enumerate_trajectories__no_start(mdp, pi, horizon):
    """Every start counts fully: the probability of a trajectory begins with rho0(s_0)."""
    return _enumerate(mdp, pi, horizon, start=lambda rho0, s: 1.0)


def enumerate_trajectories__no_policy(mdp, pi, horizon):
    """The policy's factor is missing: multiply by pi[s, a] at every step."""
    return _enumerate(mdp, pi, horizon, factor=lambda pi, P, s, a, n: P[s, a, n])


def enumerate_trajectories__no_transitions(mdp, pi, horizon):
    """The world's factor is missing: multiply by P[s, a, s'] at every step."""
    return _enumerate(mdp, pi, horizon, factor=lambda pi, P, s, a, n: pi[s, a])


def enumerate_trajectories__reward_of_staying(mdp, pi, horizon):
    """You read the reward as R[s, a, s]: it belongs to the transition, so the last index is s'."""
    return _enumerate(mdp, pi, horizon, reward=lambda R, s, a, n: R[s, a, s])


def enumerate_trajectories__past_the_end(mdp, pi, horizon):
    """You go on in a terminal state: it loops to itself, and one trajectory is listed many times."""
    return _enumerate(mdp, pi, horizon, past_the_end=True)


def enumerate_trajectories__finished_only(mdp, pi, horizon):
    """You leave out the trajectories that are unfinished at the horizon: their probability is missing."""
    return [item for item in _enumerate(mdp, pi, horizon) if item[1][3]]


def enumerate_trajectories__impossible_too(mdp, pi, horizon):
    """You list trajectories of probability 0: skip what rho0, pi or P rule out, or the list explodes."""
    return _enumerate(mdp, pi, horizon, keep_impossible=True)


def enumerate_trajectories__one_step_more(mdp, pi, horizon):
    """Your trajectories have up to horizon + 1 steps: stop when `horizon` actions were taken."""
    return _enumerate(mdp, pi, horizon + 1)


def enumerate_trajectories__shared_list(mdp, pi, horizon):
    """All branches append to the same list and overwrite each other: give each branch its own list."""
    found = []

    def extend(p, states, actions, rewards):
        s = states[-1]
        if mdp.terminal[s] or len(actions) == horizon:
            found.append((p, (states, actions, rewards, bool(mdp.terminal[s]))))
            return
        for a in np.flatnonzero(pi[s]):
            for n in np.flatnonzero(mdp.P[s, a]):
                for path, item in ((states, n), (actions, a), (rewards, mdp.R[s, a, n])):
                    path.append(item)
                extend(p * pi[s, a] * mdp.P[s, a, n], states, actions, rewards)
                for path in (states, actions, rewards):
                    path.pop()

    for s in np.flatnonzero(mdp.rho0):
        extend(mdp.rho0[s], [s], [], [])
    return found
