"""Chapter 6: PPO. A rollout is T steps of N environments; time is the first axis."""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def k_step_advantages(rewards, values, k, gamma):
    """k-step advantage estimates along one stretch of T steps (eq-k-step).

    Args:
        rewards: (T,) float tensor, `rewards[t]` follows the action of step t.
        values: (T + 1,) float tensor, `values[T]` is that of the last state.
        k: how many rewards to use, at least 1. Near the end, where fewer are left, all
            that are left are used.
        gamma: discount factor.

    Returns:
        (T,) tensor: k discounted rewards, plus gamma**k times the value of the state k
        steps ahead, minus `values[t]`.

    Raises:
        ValueError: if k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    T = len(rewards)
    advantages = torch.zeros(T)
    for t in range(T):
        end = min(t + k, T)
        discounts = gamma ** torch.arange(end - t + 1)
        future = discounts[:-1] @ rewards[t:end] + discounts[-1] * values[end]
        advantages[t] = future - values[t]
    return advantages


@torch.no_grad()
def compute_gae(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Generalised advantage estimates by the backward recursion (eq-gae).

    Args:
        rewards: (T,) or (T, N) float tensor, `rewards[t]` follows the action of step t.
        values: (T + 1,) or (T + 1, N), `values[t + 1]` is that of the state that step t
            led to. If step t ended an episode, that is its true last state.
        terminated: bool, shaped like rewards: nothing comes after such a step, so no
            value is bootstrapped.
        truncated: bool, shaped like rewards: the world would have gone on, so the value
            of the last state is bootstrapped. Over neither kind of end does an
            advantage flow back from the next episode.
        gamma: discount factor.
        gae_lambda: 0 is the one-step estimate, 1 uses all rewards.

    Returns:
        The advantages, shaped like rewards, without gradient. No input is changed.
        Source: Schulman et al. (2016), eq. 16.
    """
    deltas = rewards + gamma * values[1:] * ~terminated - values[:-1]
    goes_on = ~(terminated | truncated)
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        following = deltas[t] + gamma * gae_lambda * goes_on[t] * following
        advantages[t] = following
    return advantages


def real_transitions(terminated, truncated, done_before):
    """Which rows of a rollout are transitions, if an environment resets one step late.

    In Gymnasium (NEXT_STEP autoreset) the step after the end of an episode only resets:
    it leads from the last state of one episode to the first of the next, with reward 0.

    Args:
        terminated, truncated: (T, N) bool tensors.
        done_before: (N,) bool tensor: did the step before this rollout end an episode?

    Returns:
        (T, N) bool tensor, False where the step only reset the environment.
    """
    done = terminated | truncated
    return ~torch.cat([done_before[None], done[:-1]])  # (T, N)


def normalise_advantages(advantages, eps=1e-8):
    """Shift and scale a batch of advantages to mean 0 and deviation 1 (eq-normalise).

    Args:
        advantages: (B,) float tensor.
        eps: added to the standard deviation, which is that of the population (divide by
            B), so that a batch of one gives 0 and not nan.

    Returns:
        (B,) tensor.
    """
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + eps)


def clipped_surrogate(logprobs, old_logprobs, advantages, clip_eps):
    """PPO's clipped objective of each sample, to be maximised (eq-clip).

    Args:
        logprobs: (B,) log-probabilities of the actions, under the policy in training.
        old_logprobs: (B,) the same under the policy that acted; receives no gradient.
        advantages: (B,) receives no gradient.
        clip_eps: the ratio is clipped to [1 - clip_eps, 1 + clip_eps].

    Returns:
        (B,) tensor. Source: Schulman et al. (2017), eq. 7.
    """
    ratio = (logprobs - old_logprobs.detach()).exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    advantages = advantages.detach()
    return torch.min(ratio * advantages, clipped * advantages)


def policy_entropy(logits):
    """Entropy, in nats, of the action distribution in each state (eq-policy-entropy).

    Args:
        logits: (B, A) float tensor, not normalised, of any size.

    Returns:
        (B,) tensor, between 0 and log A.
    """
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def value_loss(values, targets):
    """Mean squared error of the critic, without a factor 1/2 (eq-value-loss).

    Args:
        values: (B,) what the critic says now.
        targets: (B,) the raw advantages plus the values that they were computed with;
            receives no gradient.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: if the shapes differ; (B, 1) against (B,) would broadcast to (B, B).
    """
    if values.shape != targets.shape:
        raise ValueError(f"{tuple(values.shape)} is not {tuple(targets.shape)}")
    return (values - targets.detach()).square().mean()


def ppo_loss(logits, values, batch, clip_eps, vf_coef, ent_coef):
    """PPO's loss of three terms, to be minimised (eq-ppo-loss).

    Args:
        logits: (B, A) of the policy in training.
        values: (B,) of the critic. These two receive gradient, nothing else does.
        batch: the tensors (actions, old_logprobs, advantages, targets), each (B,);
            actions are long, advantages are used as they are.
        clip_eps: the clip range.
        vf_coef: weight of the value loss, c_1.
        ent_coef: weight of the entropy bonus, c_2.

    Returns:
        A scalar tensor; each of its three terms is a mean over the batch.
        Source: Schulman et al. (2017), eq. 9, with the sign turned.
    """
    actions, old_logprobs, advantages, targets = batch
    logprobs = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0]  # (B,)
    surrogate = clipped_surrogate(logprobs, old_logprobs, advantages, clip_eps).mean()
    entropy = policy_entropy(logits).mean() if ent_coef else 0.0
    return -surrogate + vf_coef * value_loss(values, targets) - ent_coef * entropy


class Settings(NamedTuple):
    """The knobs of PPO, with values that suit CartPole."""

    num_envs: int = 32
    steps: int = 32  # of each environment, in one rollout
    total: int = 100_000  # steps of all environments together
    epochs: int = 10  # passes over each rollout
    minibatch: int = 256
    lr: float = 3e-3  # falls linearly to 0
    gamma: float = 0.98
    gae_lambda: float = 0.9
    clip_eps: float = 0.2
    clip_falls: bool = True  # linearly to 0, like lr
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    hidden: int = 32
    normalise: bool = True  # the advantages of each minibatch
    merge_done: bool = False  # True (a mistake): truncated = terminated
    mask_resets: bool = True  # False (a mistake): train on reset steps too


ACROBOT = Settings(num_envs=16, steps=128, gamma=0.99, gae_lambda=0.95, hidden=64)
ACROBOT = ACROBOT._replace(lr=1e-3, ent_coef=0.01)  # without the bonus it may get stuck


class ActorCritic(nn.Module):
    """Two networks that share nothing: the policy (logits) and the state value."""

    def __init__(self, obs_dim, num_actions, hidden, generator):
        super().__init__()
        self.generator, self.device = generator, generator.device
        self.actor = self.mlp([obs_dim, hidden, hidden, num_actions], last_gain=0.01)
        self.critic = self.mlp([obs_dim, hidden, hidden, 1], last_gain=1.0)

    def mlp(self, sizes, last_gain):
        layers = []
        for i, (m, n) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = nn.Linear(m, n, device=self.device)
            gain = last_gain if i == len(sizes) - 2 else 2**0.5
            nn.init.orthogonal_(linear.weight, gain, generator=self.generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def values(self, obs):
        return self.critic(obs)[..., 0]

    def act(self, obs, greedy=False):
        """One action for each observation, from a NumPy array to a NumPy array."""
        logits = self.actor(torch.as_tensor(obs, device=self.device))
        if greedy:
            return logits.argmax(-1).cpu().numpy()
        sampled = torch.multinomial(logits.softmax(-1), 1, generator=self.generator)
        return sampled[:, 0].cpu().numpy()


@torch.no_grad()
def collect(envs, agent, obs, done, steps):
    """Act for some steps from (obs, done); return the rollout and where it stopped."""
    rows = []
    for _ in range(steps):
        actions = agent.act(obs)
        next_obs, rewards, terminated, truncated, _ = envs.step(actions)
        rows.append((obs, actions, np.float32(rewards), terminated, truncated, done))
        obs, done = next_obs, terminated | truncated
    columns = [np.stack(column) for column in zip(*rows, strict=True)]  # (T, N, ...)
    columns[0] = np.concatenate([columns[0], obs[None]])  # (T + 1, N, D)
    columns[5] = columns[5][0]  # (N,) was the step before the rollout an end?
    return [torch.as_tensor(x, device=agent.device) for x in columns], obs, done


@torch.no_grad()
def prepare(rollout, agent, cfg):
    """From a rollout to a batch: obs, actions, old logprobs, advantages, targets."""
    obs, actions, rewards, terminated, truncated, done_before = rollout
    real = real_transitions(terminated, truncated, done_before) | (not cfg.mask_resets)
    if cfg.merge_done:
        terminated = terminated | truncated
    values = agent.values(obs)  # (T + 1, N)
    gae = compute_gae(rewards, values, terminated, truncated, cfg.gamma, cfg.gae_lambda)
    targets = gae + values[:-1]  # before anything is normalised
    obs, actions = obs[:-1][real], actions[real]  # (B, D), (B,)
    logprobs = agent.actor(obs).log_softmax(-1).gather(-1, actions[:, None])[:, 0]
    return obs, actions, logprobs, gae[real], targets[real]


def update(agent, optimizer, batch, cfg, clip_eps):
    """Several passes of minibatch steps over one batch."""
    n, parameters = len(batch[0]), list(agent.parameters())
    for _ in range(cfg.epochs):
        order = torch.randperm(n, generator=agent.generator, device=agent.device)
        shuffled = (x[order].split(cfg.minibatch) for x in batch)
        for obs, actions, old, advantages, targets in zip(*shuffled, strict=True):
            if cfg.normalise:
                advantages = normalise_advantages(advantages)
            data = (actions, old, advantages, targets)
            logits, values = agent.actor(obs), agent.values(obs)
            loss = ppo_loss(logits, values, data, clip_eps, cfg.vf_coef, cfg.ent_coef)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, cfg.max_grad_norm)
            optimizer.step()


def ppo(make_envs, cfg, seed, after_update=None, device="cpu"):
    """Train for cfg.total steps or until after_update says so, and return the agent."""
    envs = make_envs(cfg.num_envs)
    obs, _ = envs.reset(seed=seed)
    done = np.zeros(cfg.num_envs, dtype=bool)
    generator = torch.Generator(device).manual_seed(seed)
    agent = ActorCritic(obs.shape[1], envs.single_action_space.n, cfg.hidden, generator)
    optimizer = torch.optim.Adam(agent.parameters(), cfg.lr, eps=1e-5, fused=True)
    per_rollout = cfg.steps * cfg.num_envs
    for step in range(0, cfg.total, per_rollout):
        left = 1 - step / cfg.total  # falls from 1 to 0
        optimizer.param_groups[0]["lr"] = cfg.lr * left
        clip_eps = cfg.clip_eps * left if cfg.clip_falls else cfg.clip_eps
        rollout, obs, done = collect(envs, agent, obs, done, cfg.steps)
        batch = prepare(rollout, agent, cfg)
        update(agent, optimizer, batch, cfg, clip_eps)
        if after_update and after_update(step + per_rollout, agent, batch):
            break
    return agent


def cartpole(num_envs):
    """CartPole-v1 in NumPy: one step moves all copies."""
    return gym.make_vec("CartPole-v1", num_envs, "vector_entry_point")


def acrobot(num_envs):
    """Acrobot-v1, one copy after the other."""
    return gym.make_vec("Acrobot-v1", num_envs, "sync")


@torch.no_grad()
def evaluate(agent, make_envs, episodes=100, seed=12345):
    """Mean undiscounted return of the greedy policy over fresh, fixed episodes."""
    envs = make_envs(episodes)
    obs, _ = envs.reset(seed=seed)
    running, returns = np.ones(episodes, dtype=bool), np.zeros(episodes)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(agent.act(obs, greedy=True))
        returns += rewards * running
        running &= ~(terminated | truncated)
    return returns.mean()
