"""Chapter 4: Q-learning, SARSA and their kin on tables, and DQN.

A table Q is a list with one row of action values per state, Q[s][a]: for single entries
plain lists are several times faster than arrays. `rng` is a NumPy generator.
"""

import copy
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def epsilon_greedy(q, epsilon, rng):
    """Draw an action with the probabilities of (eq-epsilon-greedy-probs), chapter 1.

    q: list of A action values; ties for the best are broken at random.
    """
    if rng.random() < epsilon:
        return int(rng.random() * len(q))
    best = max(q)
    if q.count(best) == 1:
        return q.index(best)
    ties = [a for a, value in enumerate(q) if value == best]
    return ties[int(rng.random() * len(ties))]


def q_learning_update(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """One step of Q-learning, (eq-q-learning). Returns the TD error, (eq-td-error).

    Q: table of lists, Q[s][a]. The entry of (s, a) changes in place, no other does.
    reward: R_{t+1}, which followed action a in state s. s_next: the state it led to.
    terminated: True if s_next is terminal: nothing follows, its value is 0. A time
        limit is no termination. alpha: step size. gamma: discount factor.

    Source: Watkins (1989); Sutton and Barto (2018), eq. 6.8.
    """
    best_next = 0.0 if terminated else max(Q[s_next])
    delta = reward + gamma * best_next - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def sarsa_update(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """One step of SARSA, (eq-sarsa). Returns the TD error.

    a_next: the action that will really be taken in s_next. Its value is not used if
        `terminated`; it may then be None.
    The rest as in q_learning_update; Q changes in place at (s, a) only.

    Source: Sutton and Barto (2018), eq. 6.7.
    """
    next_value = 0.0 if terminated else Q[s_next][a_next]
    delta = reward + gamma * next_value - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def expected_sarsa_target(q_next, reward, terminated, epsilon, gamma):
    """Reward plus discounted mean next value of epsilon-greedy, (eq-expected-sarsa).

    q_next: list of A action values of the next state; not changed.
    epsilon: with this probability the policy draws one of all A actions, the best
        included; otherwise it takes a best one. Ties share that chance equally.

    Returns a float. Source: Sutton and Barto (2018), eq. 6.9.
    """
    if terminated:
        return reward
    mean = sum(q_next) / len(q_next)
    return reward + gamma * ((1 - epsilon) * max(q_next) + epsilon * mean)


def q_learning(env, Q, episodes, alpha, epsilon, gamma, rng):
    """Q-learning with an epsilon-greedy behaviour; Q changes in place.

    Returns the list of the episodes' undiscounted returns.
    """
    returns = []
    for _ in range(episodes):
        s, _ = env.reset()
        total, done = 0.0, False
        while not done:
            a = epsilon_greedy(Q[s], epsilon, rng)
            s_next, reward, terminated, truncated, _ = env.step(a)
            q_learning_update(Q, s, a, reward, s_next, terminated, alpha, gamma)
            s, done = s_next, terminated or truncated
            total += reward
        returns.append(total)
    return returns


def sarsa(env, Q, episodes, alpha, epsilon, gamma, rng, expected=False):
    """SARSA, or expected SARSA, on an epsilon-greedy policy; Q changes in place.

    Returns the list of the episodes' undiscounted returns.
    """
    returns = []
    for _ in range(episodes):
        s, _ = env.reset()
        a = epsilon_greedy(Q[s], epsilon, rng)
        total, done = 0.0, False
        while not done:
            s_next, reward, terminated, truncated, _ = env.step(a)
            a_next = epsilon_greedy(Q[s_next], epsilon, rng)
            if expected:
                y = expected_sarsa_target(Q[s_next], reward, terminated, epsilon, gamma)
                Q[s][a] += alpha * (y - Q[s][a])
            else:
                sarsa_update(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma)
            s, a, done = s_next, a_next, terminated or truncated
            total += reward
        returns.append(total)
    return returns


def visit_step_size(counts, s, a, power):
    """Count this visit of (s, a) and return its step size, (eq-step-size).

    counts: table of lists, visits so far; counts[s][a] grows by 1 in place.
    power: 0 gives the constant 1; above 0.5, up to 1: (eq-robbins-monro) holds.

    Returns n ** -power, where n = 1 at the first visit.
    """
    counts[s][a] += 1
    return counts[s][a] ** -power


def double_q_update(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """One step of double Q-learning on Q, (eq-double-q). Returns the TD error.

    Q: chooses the next action (the first of several best ones) and is changed in place,
        at (s, a) only.
    Q_other: says what that action is worth; not changed. The caller tosses a coin for
        which of the two tables is Q.

    Source: van Hasselt (2010); Sutton and Barto (2018), eq. 6.10.
    """
    next_value = 0.0
    if not terminated:
        row = Q[s_next]
        next_value = Q_other[s_next][row.index(max(row))]
    delta = reward + gamma * next_value - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def double_q_learning(env, Q, Q_other, episodes, alpha, epsilon, gamma, rng):
    """Double Q-learning; the behaviour is epsilon-greedy on the sum of both tables.

    Both tables change in place. Returns the episodes' undiscounted returns.
    """
    returns = []
    for _ in range(episodes):
        s, _ = env.reset()
        total, done = 0.0, False
        while not done:
            both = [x + y for x, y in zip(Q[s], Q_other[s], strict=True)]
            a = epsilon_greedy(both, epsilon, rng)
            s_next, reward, terminated, truncated, _ = env.step(a)
            pair = (Q, Q_other) if rng.random() < 0.5 else (Q_other, Q)
            double_q_update(*pair, s, a, reward, s_next, terminated, alpha, gamma)
            s, done = s_next, terminated or truncated
            total += reward
        returns.append(total)
    return returns


def n_step_targets(rewards, next_values, terminated, truncated, n, gamma):
    """n-step targets of T consecutive steps of one or more episodes, (eq-n-step).

    rewards: (T,) array; rewards[t] follows the action of step t.
    next_values: (T,) array; value of the state that step t led to, before any reset.
    terminated, truncated: (T,) bool arrays; how step t ended its episode, if it did.
    n: number of rewards to use, at least 1; fewer where the episode ends or the log
        stops. The discounted next value is added unless the last step terminated.

    Returns a (T,) float array. Raises ValueError if n < 1.
    Source: Sutton and Barto (2018), eq. 7.1; time limits as in Pardo et al. (2018).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    T = len(rewards)
    targets = np.zeros(T)
    for t in range(T):
        discount = 1.0
        for k in range(t, min(t + n, T)):
            targets[t] += discount * rewards[k]
            discount *= gamma
            if terminated[k] or truncated[k]:
                break
        targets[t] += discount * (0.0 if terminated[k] else next_values[k])
    return targets


def dqn_loss(online, target, batch, gamma, double=False):
    """Mean squared TD error of a batch, (eq-dqn-loss); double: (eq-double-dqn).

    online: the network that learns; maps (B, D) observations to (B, A) action values.
    target: its older copy; says what the next state is worth and gets no gradient.
    batch: obs (B, D), actions (B,) long, rewards (B,), next_obs (B, D), the true one
        also where a time limit cut the episode, terminated (B,) bool.
    double: let `online` choose the next action and `target` evaluate it.

    Returns a scalar. Source: Mnih et al. (2015); van Hasselt et al. (2016).
    """
    obs, actions, rewards, next_obs, terminated = batch
    q = online(obs).gather(1, actions[:, None])[:, 0]  # (B,)
    with torch.no_grad():
        q_next = target(next_obs)  # (B, A)
        best = (online(next_obs) if double else q_next).argmax(1)  # (B,)
        q_next = q_next.gather(1, best[:, None])[:, 0]  # (B,)
        y = rewards + gamma * q_next * ~terminated
    return (y - q).square().mean()


class ReplayBuffer:
    """The last `capacity` transitions, as one ring of rows per column."""

    def __init__(self, capacity, obs_dim, device):
        def zeros(*shape, dtype=torch.float32):
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        obs, actions, rewards = zeros(obs_dim), zeros(dtype=torch.long), zeros()
        next_obs, terminated = zeros(obs_dim), zeros(dtype=torch.bool)
        self.columns = (obs, actions, rewards, next_obs, terminated)
        self.capacity, self.written = capacity, 0

    def add(self, *rows):
        """Store n transitions, given as five columns with n rows each."""
        n = len(rows[0])
        slots = torch.arange(self.written, self.written + n) % self.capacity
        for column, row in zip(self.columns, rows, strict=True):
            column[slots] = torch.as_tensor(row).to(column)
        self.written += n

    def sample(self, batch_size, generator):
        """A batch drawn uniformly, with replacement, from what was stored."""
        n = min(self.written, self.capacity)
        i = torch.randint(n, (batch_size,), generator=generator)
        return tuple(column[i] for column in self.columns)


class DQNSettings(NamedTuple):
    """The knobs of DQN; these suit CartPole."""

    total: int = 32_000  # environment steps
    num_envs: int = 16
    capacity: int = 50_000
    learning_starts: int = 1_000
    batch: int = 64
    lr: float = 5e-4
    gamma: float = 0.99
    target_every: int = 100  # updates between two copies; 1: no target network
    double: bool = True
    epsilon: float = 0.05  # after falling linearly from 1 over a fifth of `total`
    hidden: int = 128


def cartpole(num_envs):
    """CartPole-v1 written for vectors: one NumPy step for all copies."""
    mode = "vector_entry_point"
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode=mode)


def dqn(seed, cfg, after_step=lambda step, network: None, device="cpu"):
    """Train a Q network on CartPole and return it."""
    generator = torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    envs = cartpole(cfg.num_envs)
    layers = [nn.Linear(4, cfg.hidden), nn.ReLU()]
    layers += [nn.Linear(cfg.hidden, cfg.hidden), nn.ReLU(), nn.Linear(cfg.hidden, 2)]
    online = nn.Sequential(*layers).to(device)
    target = copy.deepcopy(online)
    optimizer = torch.optim.Adam(online.parameters(), lr=cfg.lr, fused=True)
    buffer = ReplayBuffer(cfg.capacity, 4, device)
    obs, _ = envs.reset(seed=seed)
    resets = np.zeros(cfg.num_envs, dtype=bool)
    for step in range(cfg.num_envs, cfg.total + 1, cfg.num_envs):
        epsilon = max(cfg.epsilon, 1 - (1 - cfg.epsilon) * 5 * step / cfg.total)
        explore = rng.random(cfg.num_envs) < epsilon
        at_random = rng.integers(2, size=cfg.num_envs)
        actions = np.where(explore, at_random, act(online, obs))
        next_obs, rewards, terminated, truncated, _ = envs.step(actions)
        real = ~resets  # the step after an episode's end only resets
        rows = (obs, actions, rewards, next_obs, terminated)
        buffer.add(*(column[real] for column in rows))
        obs, resets = next_obs, terminated | truncated
        if step >= cfg.learning_starts:
            batch = buffer.sample(cfg.batch, generator)
            loss = dqn_loss(online, target, batch, cfg.gamma, cfg.double)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(online.parameters(), 10.0)
            optimizer.step()
        if step // cfg.num_envs % cfg.target_every == 0:
            target.load_state_dict(online.state_dict())
        after_step(step, online)
    return online


@torch.no_grad()
def act(network, obs):
    """Greedy actions for a NumPy batch of observations, as a NumPy array."""
    device = next(network.parameters()).device
    return network(torch.as_tensor(obs, device=device)).argmax(1).cpu().numpy()


def evaluate(network, episodes=50, seed=12345):
    """Mean return of the greedy policy over the same fresh episodes each time."""
    envs = cartpole(episodes)
    obs, _ = envs.reset(seed=seed)
    running, returns = np.ones(episodes, dtype=bool), np.zeros(episodes)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(act(network, obs))
        returns += rewards * running
        running &= ~(terminated | truncated)
    return returns.mean()
