"""Chapter 6: proximal policy optimisation (PPO) for discrete actions, from the advantages to the whole loop.

A rollout has T steps of N environments that run side by side; time is always the first axis.
"""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import nn


def k_step_advantages(rewards, values, k, gamma):
    """k-step advantage estimates of an uninterrupted stretch of T steps, (eq-k-step).

    rewards: (T,) tensor; rewards[t] follows the action of step t.
    values: (T + 1,) tensor; values[T] belongs to the state after the last step.
    k: number of rewards to use, at least 1. Where fewer than k steps are left, all that are left are used.
    gamma: discount factor.

    Returns a (T,) tensor: k discounted rewards, plus gamma**k times the value k steps ahead, minus values[t].
    Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    T = len(rewards)
    advantages = torch.zeros(T)
    for t in range(T):
        end = min(t + k, T)
        discounts = gamma ** torch.arange(end - t + 1)
        advantages[t] = discounts[:-1] @ rewards[t:end] + discounts[-1] * values[end] - values[t]
    return advantages


@torch.no_grad()
def compute_gae(rewards, values, terminated, truncated, gamma, gae_lambda):
    """Generalised advantage estimates by the backward recursion, (eq-gae); Schulman et al. 2016, eq. 16.

    rewards: (T,) or (T, N) float tensor; rewards[t] follows the action of step t.
    values: (T + 1,) or (T + 1, N); values[t + 1] belongs to the state that step t led to. Where an episode
        ended at step t, that is its true last state, not the first state of the next episode.
    terminated, truncated: bool tensors, shaped like rewards. After a terminated step there is nothing to
        come, so no value is bootstrapped. After a truncated one the world went on without us, so it is.
        Over neither of the two does an advantage flow back from the next episode.

    Returns the advantages, shaped like rewards, without gradient. No input is changed.
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
    """Which rows of a rollout are transitions, when environments reset on the step after the last one.

    terminated, truncated: (T, N) bool tensors.
    done_before: (N,) bool tensor: did the step just before this rollout end an episode?

    Returns a (T, N) bool tensor, False where `step` only reset the environment: the action was ignored, the
    reward is 0, and "from the last state of one episode to the first of the next" is no transition.
    """
    done = terminated | truncated
    return ~torch.cat([done_before[None], done[:-1]])  # (T, N)


def normalise_advantages(advantages, eps=1e-8):
    """Shift and scale the advantages of a batch to mean 0 and standard deviation 1, (eq-normalise).

    advantages: (B,) float tensor.
    eps: added to the standard deviation.

    The standard deviation is that of the population (divide by B), so a batch of one gives 0, not nan.
    """
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + eps)


def clipped_surrogate(logprobs, old_logprobs, advantages, clip_eps):
    """The clipped surrogate objective of each sample, to be maximised, (eq-clip); Schulman et al. 2017, eq. 7.

    logprobs: (B,) log-probabilities of the taken actions under the policy that is being trained.
    old_logprobs: (B,) the same under the policy that collected the data; receives no gradient.
    advantages: (B,); receive no gradient.
    clip_eps: the clip range; the ratio is clipped to [1 - clip_eps, 1 + clip_eps].

    Returns a (B,) tensor.
    """
    ratio = (logprobs - old_logprobs.detach()).exp()
    clipped = ratio.clamp(1 - clip_eps, 1 + clip_eps)
    advantages = advantages.detach()
    return torch.min(ratio * advantages, clipped * advantages)


def value_loss(values, targets):
    """Mean squared error of the critic over a batch, without a factor 1/2, (eq-value-loss).

    values: (B,) the critic's values now.
    targets: (B,) raw advantages plus the values they were computed with; receive no gradient.

    Returns a scalar. Raises ValueError unless both have the same shape: (B, 1) against (B,) would broadcast
    to (B, B) and pull every value towards the mean of all targets.
    """
    if values.shape != targets.shape:
        raise ValueError(f"values {tuple(values.shape)} and targets {tuple(targets.shape)} differ in shape")
    return (values - targets.detach()).square().mean()


def policy_entropy(logits):
    """Entropy in nats of the categorical distribution of each state, (eq-policy-entropy).

    logits: (B, A), not normalised, of any size.

    Returns a (B,) tensor, between 0 and log A.
    """
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def ppo_loss(
    logits,
    values,
    actions,
    old_logprobs,
    advantages,
    targets,
    clip_eps=0.2,
    vf_coef=0.5,
    ent_coef=0.01,
):
    """The three-term loss of PPO, to be minimised, (eq-ppo-loss); Schulman et al. 2017, eq. 9 with its sign turned.

    logits: (B, A) of the policy; values: (B,) of the critic. Both receive gradient, nothing else does.
    actions: (B,) long; old_logprobs: (B,); advantages: (B,), already normalised; targets: (B,).
    vf_coef, ent_coef: weights of the value loss and of the entropy bonus.

    Returns a scalar: each of the three terms is a mean over the batch.
    """
    logprobs = logits.log_softmax(-1).gather(-1, actions[:, None])[:, 0]  # (B,)
    surrogate = clipped_surrogate(logprobs, old_logprobs, advantages, clip_eps)
    return (
        -surrogate.mean() + vf_coef * value_loss(values, targets) - ent_coef * policy_entropy(logits).mean()
    )


class Settings(NamedTuple):
    """The knobs of PPO; these suit CartPole."""

    num_envs: int = 32
    steps: int = 64  # of each environment, per rollout
    total: int = 100_000  # environment steps over which lr and clip_eps fall linearly to 0
    epochs: int = 10  # passes over each rollout
    minibatch: int = 512
    lr: float = 2e-3
    gamma: float = 0.98
    gae_lambda: float = 0.8
    clip_eps: float = 0.2
    vf_coef: float = 0.5
    ent_coef: float = 0.0
    max_grad_norm: float = 0.5
    normalise: bool = True  # normalise the advantages of each minibatch
    merge_done: bool = False  # the bug of the ablation: treat truncation as termination
    mask_resets: bool = True  # False: the bug of training on reset rows
    anneal: bool = True
    hidden: int = 64


ACROBOT = Settings(num_envs=16, steps=128, minibatch=256, lr=1e-3, gamma=0.99, gae_lambda=0.95)


class ActorCritic(nn.Module):
    """Two separate networks with two tanh layers: a policy (logits) and a state value."""

    def __init__(self, obs_dim, num_actions, hidden, generator):
        super().__init__()
        self.generator = generator
        self.actor = self.mlp(
            [obs_dim, hidden, hidden, num_actions], last_gain=0.01
        )  # nearly uniform at first
        self.critic = self.mlp([obs_dim, hidden, hidden, 1], last_gain=1.0)

    def mlp(self, sizes, last_gain):
        layers = []
        for i, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = nn.Linear(fan_in, fan_out, device=self.generator.device)
            gain = last_gain if i == len(sizes) - 2 else 2**0.5
            nn.init.orthogonal_(linear.weight, gain, generator=self.generator)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def values(self, obs):
        return self.critic(obs)[..., 0]

    def act(self, obs, greedy=False):
        """Actions for a NumPy batch of observations, as a NumPy array."""
        logits = self.actor(torch.as_tensor(obs, device=self.generator.device))
        if greedy:
            return logits.argmax(-1).cpu().numpy()
        return torch.multinomial(logits.softmax(-1), 1, generator=self.generator)[:, 0].cpu().numpy()


@torch.no_grad()
def collect(envs, agent, obs, done, steps):
    """Run `steps` steps of every environment from (obs, done); return the rollout and the new (obs, done)."""
    rows = []
    for _ in range(steps):
        actions = agent.act(obs)
        next_obs, rewards, terminated, truncated, _ = envs.step(actions)
        rows.append((obs, actions, rewards.astype(np.float32), terminated, truncated, done))
        obs, done = next_obs, terminated | truncated
    device = agent.generator.device
    columns = [torch.as_tensor(np.stack(column), device=device) for column in zip(*rows, strict=True)]
    observations = torch.cat([columns[0], torch.as_tensor(obs, device=device)[None]])  # (T + 1, N, D)
    return (observations, *columns[1:5], columns[5][0]), obs, done


@torch.no_grad()
def prepare(rollout, agent, cfg):
    """Turn a rollout (T, N) into a flat batch: obs, actions, old log-probabilities, advantages, targets."""
    obs, actions, rewards, terminated, truncated, done_before = rollout
    real = real_transitions(terminated, truncated, done_before).flatten()
    if not cfg.mask_resets:
        real = torch.ones_like(real)
    if cfg.merge_done:
        terminated = terminated | truncated
    values = agent.values(obs)  # (T + 1, N)
    advantages = compute_gae(rewards, values, terminated, truncated, cfg.gamma, cfg.gae_lambda)
    targets = advantages + values[:-1]  # before the advantages are normalised
    obs, actions = obs[:-1].flatten(0, 1)[real], actions.flatten()[real]
    old_logprobs = agent.actor(obs).log_softmax(-1).gather(-1, actions[:, None])[:, 0]
    return obs, actions, old_logprobs, advantages.flatten()[real], targets.flatten()[real]


def update(agent, optimizer, batch, cfg, clip_eps):
    """K epochs of minibatch steps on one rollout."""
    generator, n = agent.generator, len(batch[0])
    for _ in range(cfg.epochs):
        for i in torch.randperm(n, generator=generator, device=generator.device).split(cfg.minibatch):
            obs, actions, old_logprobs, advantages, targets = (column[i] for column in batch)
            if cfg.normalise:
                advantages = normalise_advantages(advantages)
            loss = ppo_loss(
                agent.actor(obs), agent.values(obs), actions, old_logprobs, advantages, targets,
                clip_eps, cfg.vf_coef, cfg.ent_coef,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), cfg.max_grad_norm)
            optimizer.step()


def ppo(make_envs, seed, cfg, after_update=lambda step, agent, batch: False, device="cpu"):
    """Train on `make_envs(num_envs)` until cfg.total steps, or until after_update returns True; return the agent."""
    generator = torch.Generator(device).manual_seed(seed)
    envs = make_envs(cfg.num_envs)
    obs_dim, num_actions = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
    agent = ActorCritic(obs_dim, num_actions, cfg.hidden, generator)
    optimizer = torch.optim.Adam(agent.parameters(), lr=cfg.lr, eps=1e-5, fused=True)
    obs, _ = envs.reset(seed=seed)
    done = np.zeros(cfg.num_envs, dtype=bool)
    for step in range(0, cfg.total, cfg.steps * cfg.num_envs):
        left = 1 - step / cfg.total if cfg.anneal else 1.0
        optimizer.param_groups[0]["lr"] = cfg.lr * left
        rollout, obs, done = collect(envs, agent, obs, done, cfg.steps)
        batch = prepare(rollout, agent, cfg)
        update(agent, optimizer, batch, cfg, cfg.clip_eps * left)
        if after_update(step + cfg.steps * cfg.num_envs, agent, batch):
            break
    return agent


def cartpole(num_envs):
    """CartPole-v1 written for vectors: one NumPy step for all copies. Resets on the step after the last one."""
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="vector_entry_point")


def acrobot(num_envs):
    """Acrobot-v1, one copy after the other. Resets on the step after the last one."""
    return gym.make_vec("Acrobot-v1", num_envs=num_envs, vectorization_mode="sync")


@torch.no_grad()
def evaluate(agent, make_envs, episodes=100, seed=12345):
    """Mean undiscounted return of the greedy policy over fresh episodes, the same ones each time."""
    envs = make_envs(episodes)
    obs, _ = envs.reset(seed=seed)
    running, returns = np.ones(episodes, dtype=bool), np.zeros(episodes)
    while running.any():
        obs, rewards, terminated, truncated, _ = envs.step(agent.act(obs, greedy=True))
        returns += rewards * running
        running &= ~(terminated | truncated)
    return returns.mean()
