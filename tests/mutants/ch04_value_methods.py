"""Wrong versions of chapter 4's exercises; each docstring is the diagnosis that a learner reads."""

import numpy as np
import torch

# One step of Q-learning


def q_learning_update__terminal_ignored(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """`terminated` is never used: the row of a terminal state, which nothing ever corrects, leaks in."""
    delta = reward + gamma * max(Q[s_next]) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def q_learning_update__max_of_s(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """You take the maximum over the row of s, where the action was taken; the target needs that of s_next."""
    delta = reward + gamma * (0.0 if terminated else max(Q[s])) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def q_learning_update__overwrites(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """The new entry is alpha times the target: the old value's share (1 - alpha) Q[s][a] is lost."""
    target = reward + gamma * (0.0 if terminated else max(Q[s_next]))
    delta = target - Q[s][a]
    Q[s][a] = alpha * target
    return delta


def q_learning_update__max_with_zero(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """Your running maximum begins at 0, so a state whose values are all negative counts as 0."""
    best = 0.0
    for value in Q[s_next]:
        if value > best and not terminated:
            best = value
    delta = reward + gamma * best - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def q_learning_update__returns_step(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """The table is right, but you return alpha times the TD error: the step, not the error."""
    delta = reward + gamma * (0.0 if terminated else max(Q[s_next])) - Q[s][a]
    Q[s][a] += alpha * delta
    return alpha * delta


def q_learning_update__reward_discounted(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """The reward is discounted too: gamma belongs to the next value only, the reward comes at once."""
    delta = gamma * (reward + (0.0 if terminated else max(Q[s_next]))) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def q_learning_update__error_after_step(Q, s, a, reward, s_next, terminated, alpha, gamma):
    """You compute the error again after the table has changed and return what is left of it."""
    best = 0.0 if terminated else max(Q[s_next])
    Q[s][a] += alpha * (reward + gamma * best - Q[s][a])
    return reward + gamma * best - Q[s][a]


# One step of SARSA


def sarsa_update__best_action(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """This is Q-learning: it uses the best next action, SARSA uses the one that will be taken."""
    delta = reward + gamma * (0.0 if terminated else max(Q[s_next])) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def sarsa_update__terminal_ignored(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """`terminated` is never used: the value of an action after the end of the episode gets in."""
    delta = reward + gamma * Q[s_next][a_next or 0] - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def sarsa_update__terminal_skipped(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """A terminating step is not learned from: its reward, often the only one, never enters the table."""
    if terminated:
        return 0.0
    delta = reward + gamma * Q[s_next][a_next] - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def sarsa_update__same_action(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """You look up the old action a in the row of s_next; the action taken there is a_next."""
    delta = reward + gamma * (0.0 if terminated else Q[s_next][a]) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def sarsa_update__wrong_row(Q, s, a, reward, s_next, a_next, terminated, alpha, gamma):
    """You look up a_next in the row of s; it is an action of the state s_next."""
    delta = reward + gamma * (0.0 if terminated else Q[s][a_next]) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


# Expected SARSA


def expected_sarsa_target__greedy(q_next, reward, terminated, epsilon, gamma):
    """This is the target of Q-learning: the best value alone, as if the policy never explored."""
    return reward if terminated else reward + gamma * max(q_next)


def expected_sarsa_target__exclusive(q_next, reward, terminated, epsilon, gamma):
    """You share epsilon among the other actions only. An exploring step may also draw the best action."""
    if terminated:
        return reward
    best = max(q_next)
    if len(q_next) == 1:
        return reward + gamma * best
    others = (sum(q_next) - best) / (len(q_next) - 1)
    return reward + gamma * ((1 - epsilon) * best + epsilon * others)


def expected_sarsa_target__uniform(q_next, reward, terminated, epsilon, gamma):
    """The plain mean over the actions: these are the values of a policy that always explores."""
    return reward if terminated else reward + gamma * sum(q_next) / len(q_next)


def expected_sarsa_target__terminal_ignored(q_next, reward, terminated, epsilon, gamma):
    """`terminated` is never used: the mean value of a state after the end of the episode gets in."""
    mean = sum(q_next) / len(q_next)
    return reward + gamma * ((1 - epsilon) * max(q_next) + epsilon * mean)


def expected_sarsa_target__ties_twice(q_next, reward, terminated, epsilon, gamma):
    """Every best action gets the whole 1 - epsilon: with ties the probabilities sum to more than 1."""
    if terminated:
        return reward
    best, n = max(q_next), len(q_next)
    return reward + gamma * sum(q * ((1 - epsilon) * (q == best) + epsilon / n) for q in q_next)


def expected_sarsa_target__swapped(q_next, reward, terminated, epsilon, gamma):
    """epsilon and 1 - epsilon have changed places: the best action gets the exploring share."""
    if terminated:
        return reward
    mean = sum(q_next) / len(q_next)
    return reward + gamma * (epsilon * max(q_next) + (1 - epsilon) * mean)


# Step sizes


def visit_step_size__counts_late(counts, s, a, power):
    """Your step size lags one visit behind: count the visit first, then use the new count."""
    alpha = float(max(counts[s][a], 1)) ** -power
    counts[s][a] += 1
    return alpha


def visit_step_size__per_state(counts, s, a, power):
    """You use the visits of the state. Each pair of state and action has a step size of its own."""
    counts[s][a] += 1
    return sum(counts[s]) ** -power


def visit_step_size__global(counts, s, a, power):
    """You use the number of all steps so far: rarely visited pairs then learn with steps far too small."""
    counts[s][a] += 1
    return sum(map(sum, counts)) ** -power


def visit_step_size__not_counted(counts, s, a, power):
    """The visit is not written into `counts`, so that the step size never shrinks."""
    return (counts[s][a] + 1) ** -power


def visit_step_size__power_ignored(counts, s, a, power):
    """The step size is 1 / n whatever the power."""
    counts[s][a] += 1
    return 1 / counts[s][a]


def visit_step_size__grows(counts, s, a, power):
    """The sign of the exponent is missing: your step sizes grow with the visits."""
    counts[s][a] += 1
    return counts[s][a] ** power


# Double Q-learning


def double_q_update__single(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """The first table chooses and evaluates: this is plain Q-learning, with its upward bias."""
    delta = reward + gamma * (0.0 if terminated else max(Q[s_next])) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def double_q_update__other_max(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """The other table chooses and evaluates: its own maximum is biased upwards just as much."""
    delta = reward + gamma * (0.0 if terminated else max(Q_other[s_next])) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def double_q_update__roles_swapped(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """The roles are swapped: here the other table chooses and the first one evaluates."""
    row = Q_other[s_next]
    delta = reward + gamma * (0.0 if terminated else Q[s_next][row.index(max(row))]) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def double_q_update__terminal_ignored(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """`terminated` is never used: a value from after the end of the episode gets into the target."""
    row = Q[s_next]
    delta = reward + gamma * Q_other[s_next][row.index(max(row))] - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


def double_q_update__both_tables(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """You change both tables with the same sample: they soon agree, and the bias is back."""
    row = Q[s_next]
    delta = reward + gamma * (0.0 if terminated else Q_other[s_next][row.index(max(row))]) - Q[s][a]
    Q[s][a] += alpha * delta
    Q_other[s][a] += alpha * delta
    return delta


def double_q_update__minimum(Q, Q_other, s, a, reward, s_next, terminated, alpha, gamma):
    """You take the smaller of the two values. That is clipped double Q-learning (TD3), biased downwards."""
    row = Q[s_next]
    i = row.index(max(row))
    delta = reward + gamma * (0.0 if terminated else min(row[i], Q_other[s_next][i])) - Q[s][a]
    Q[s][a] += alpha * delta
    return delta


# n-step targets


def _targets(rewards, next_values, n, gamma, ends, bootstrap, rewards_used=0, power=0):
    """The loop that the wrong versions share."""
    if n < 1:
        raise ValueError(n)
    T, targets = len(rewards), np.zeros(len(rewards))
    for t in range(T):
        k = t
        while k < min(t + n + rewards_used, T):
            targets[t] += gamma ** (k - t) * rewards[k]
            k += 1
            if ends[k - 1]:
                break
        targets[t] += gamma ** (k - t + power) * bootstrap(t, k - 1)
    return targets


def n_step_targets__terminal_ignored(rewards, next_values, terminated, truncated, n, gamma):
    """A terminated step still adds the next value. Nothing follows a termination: that value is 0."""
    return _targets(rewards, next_values, n, gamma, terminated | truncated, lambda t, k: next_values[k])


def n_step_targets__truncated_as_terminated(rewards, next_values, terminated, truncated, n, gamma):
    """A truncated step adds no next value: only the clock stopped it, the world would have gone on."""
    ends = terminated | truncated
    return _targets(rewards, next_values, n, gamma, ends, lambda t, k: 0.0 if ends[k] else next_values[k])


def n_step_targets__runs_through_truncation(rewards, next_values, terminated, truncated, n, gamma):
    """The sum runs on over a truncated step, so it collects rewards of the next episode."""
    return _targets(
        rewards, next_values, n, gamma, terminated, lambda t, k: 0.0 if terminated[k] else next_values[k]
    )


def n_step_targets__runs_through_termination(rewards, next_values, terminated, truncated, n, gamma):
    """The sum runs on over a terminated step, so it collects rewards of the next episode."""
    return _targets(
        rewards, next_values, n, gamma, truncated, lambda t, k: 0.0 if terminated[k] else next_values[k]
    )


def n_step_targets__one_reward_more(rewards, next_values, terminated, truncated, n, gamma):
    """You add n + 1 rewards: the last one of n begins at step t + n - 1."""
    value = lambda t, k: 0.0 if terminated[k] else next_values[k]  # noqa: E731
    return _targets(rewards, next_values, n, gamma, terminated | truncated, value, rewards_used=1)


def n_step_targets__first_next_value(rewards, next_values, terminated, truncated, n, gamma):
    """You add next_values[t], the value one step ahead; it must be the one after the last reward used."""
    value = lambda t, k: 0.0 if terminated[k] else next_values[t]  # noqa: E731
    return _targets(rewards, next_values, n, gamma, terminated | truncated, value)


def n_step_targets__discount_short(rewards, next_values, terminated, truncated, n, gamma):
    """The next value is discounted once too little: after m rewards it carries gamma ** m."""
    value = lambda t, k: 0.0 if terminated[k] else next_values[k]  # noqa: E731
    return _targets(rewards, next_values, n, gamma, terminated | truncated, value, power=-1)


def n_step_targets__log_end_is_terminal(rewards, next_values, terminated, truncated, n, gamma):
    """You add nothing where the log stops. That is no termination: add the value of the last state."""
    T = len(rewards)

    def value(t, k):
        cut = k == T - 1 and not truncated[k] and k - t + 1 < n
        return 0.0 if terminated[k] or cut else next_values[k]

    return _targets(rewards, next_values, n, gamma, terminated | truncated, value)


# DQN


def _dqn(online, target, batch, gamma, double, terminal=True):
    obs, actions, rewards, next_obs, terminated = batch
    q = online(obs).gather(1, actions[:, None])[:, 0]
    best = (online if double else target)(next_obs).argmax(1, keepdim=True)
    q_next = target(next_obs).gather(1, best)[:, 0]
    return q, rewards + gamma * q_next * (~terminated if terminal else 1)


def dqn_loss__target_learns(online, target, batch, gamma, double=False):
    """The target receives gradient: put it under torch.no_grad(), or detach it. It is a constant."""
    q, y = _dqn(online, target, batch, gamma, double)
    return (y - q).square().mean()


def dqn_loss__terminal_ignored(online, target, batch, gamma, double=False):
    """`terminated` is never used: the value of a state after the end of the episode gets into the target."""
    q, y = _dqn(online, target, batch, gamma, double, terminal=False)
    return (y.detach() - q).square().mean()


def dqn_loss__max_over_batch(online, target, batch, gamma, double=False):
    """The maximum runs over the batch (dim 0); the best next action of a row is a maximum over dim 1."""
    obs, actions, rewards, next_obs, terminated = batch
    q = online(obs).gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        q_next = target(next_obs).max(0).values[: len(rewards)]
    return (rewards + gamma * q_next * ~terminated - q).square().mean()


def dqn_loss__double_ignored(online, target, batch, gamma, double=False):
    """`double` is never used: the target network both chooses and evaluates."""
    q, y = _dqn(online, target, batch, gamma, False)
    return (y.detach() - q).square().mean()


def dqn_loss__networks_swapped(online, target, batch, gamma, double=False):
    """The networks are swapped: the target is computed with the online network, so it moves at every step."""
    obs, actions, rewards, next_obs, terminated = batch
    q = online(obs).gather(1, actions[:, None])[:, 0]
    with torch.no_grad():
        best = (target if double else online)(next_obs).argmax(1, keepdim=True)
        y = rewards + gamma * online(next_obs).gather(1, best)[:, 0] * ~terminated
    return (y - q).square().mean()


def dqn_loss__broadcast(online, target, batch, gamma, double=False):
    """(B, 1) minus (B,) broadcasts to (B, B): every prediction is compared with every target."""
    q, y = _dqn(online, target, batch, gamma, double)
    return (y.detach() - q[:, None]).square().mean()


def dqn_loss__best_action(online, target, batch, gamma, double=False):
    """You use the best value of the current state; the transition tells about the action that was taken."""
    _, y = _dqn(online, target, batch, gamma, double)
    return (y.detach() - online(batch[0]).max(1).values).square().mean()


def dqn_loss__sum(online, target, batch, gamma, double=False):
    """This is the sum over the batch, not the mean: the gradient grows with the batch size."""
    q, y = _dqn(online, target, batch, gamma, double)
    return (y.detach() - q).square().sum()
