"""The exact world of chapter 7 with a tool turn: two actions with an answer of the world in between.

An episode is four tokens: a prompt, the policy's first action, an observation that the world puts
in, the policy's second action. What the world answers depends on a hidden state and on the first
action, with known probabilities. So few tokens that every episode can be listed: objective and
gradient are sums, nothing is estimated. Tensors over all episodes are (N,) or (N, 4).
"""

import itertools

import torch

from rlcourse.lm.exact import TablePolicy, exact_gradient
from rlcourse.lm.models import tiny_llama
from rlcourse.lm.tokenizer import EOS, make_tokenizer

from .rollout import episode_logprobs


class ExactAgentWorld:
    """All episodes over a vocabulary of <eos> and `letters`. An action is any token of it, a
    prompt and an observation are letters.

    ids (N, 4) prompt, action, observation, action · mask (N, 4) 1 at the two actions ·
    turn (N, 4) 0 and 1 at the actions, -1 elsewhere · states (N,) the hidden state ·
    environment (N,) probability of everything that the policy does not choose
    """

    def __init__(self, letters="ab", states=2, seed=0):
        self.letters, self.max_length = list(letters), 3
        self.tokenizer = make_tokenizer(self.letters, specials=[EOS])
        self.size = len(self.tokenizer)
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        letters = range(1, self.size)
        self.prior = torch.randn(states, **draw).softmax(0)  # P(hidden state)
        logits = 2 * torch.randn(states, self.size, len(letters), **draw)
        self.answers = logits.softmax(-1)  # P(observation | state, first action), (S, A, O)
        everything = list(
            itertools.product(letters, range(states), range(self.size), letters, range(self.size))
        )  # prompt, state, action, observation, action
        prompt, self.states, first, observation, second = torch.tensor(everything).T
        self.ids = torch.stack([prompt, first, observation, second], dim=1)  # (N, 4)
        self.mask = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64).repeat(len(self.ids), 1)
        self.turn = torch.tensor([-1, 0, -1, 1]).repeat(len(self.ids), 1)
        answered = self.answers[self.states, first, observation - 1]
        self.environment = self.prior[self.states] * answered / len(letters)  # (N,)

    def token_logprobs(self, model):
        """log pi of every token given those before it, (N, 4), with gradient: of the observation
        too, which the policy did not choose. 0 for the prompt."""
        return episode_logprobs(model, self.ids)

    def logprobs(self, model):
        """log pi of the two actions of every episode, (N,), with gradient."""
        return (self.token_logprobs(model) * self.mask).sum(1)

    def probabilities(self, model):
        """The probability of every episode, (N,), with gradient. They sum to 1."""
        return self.environment * self.logprobs(model).exp()

    def objective(self, model, rewards):
        """J: the expected reward, a scalar with gradient. rewards (N,)"""
        return (self.probabilities(model) * rewards).sum()

    def gradient(self, model, rewards):
        """The exact gradient of J as one vector."""
        return exact_gradient(self.objective(model, rewards), model)

    def expected_estimate(self, model, weights, mask=None):
        """What the policy-gradient estimate is on average, as one vector.

        weights: (N,) one number for every episode, or (N, 4) one for every token.
        mask: (N, 4) the tokens whose log-probability is differentiated; the policy's own if
        None, `unmasked` for all but the prompt.
        """
        weights = weights if weights.ndim == 2 else weights[:, None]
        scores = (self.token_logprobs(model) * weights * (self.mask if mask is None else mask)).sum(1)
        return exact_gradient((self.probabilities(model).detach() * scores).sum(), model)

    @property
    def unmasked(self):
        """The mask of someone who takes observations for actions, (N, 4): all but the prompt."""
        mask = torch.ones_like(self.mask)
        mask[:, 0] = 0
        return mask

    def random_turn_rewards(self, seed=0):
        """Rewards after both turns, (N, 2). They depend on prompt, hidden state and the actions
        so far, not on the observation: that is only worth what it tells about the state."""
        draw = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
        prompts, states, actions = self.size - 1, len(self.prior), self.size
        first = torch.randn(prompts, states, actions, **draw)
        second = torch.randn(prompts, states, actions, actions, **draw)
        prompt, a1, _, a2 = self.ids.T
        row = (prompt - 1, self.states, a1)
        return torch.stack([first[row], second[(*row, a2)]], dim=1)

    def random_rewards(self, seed=0):
        """One reward for every episode, (N,): the sum over its turns."""
        return self.random_turn_rewards(seed).sum(1)

    def table(self, seed=0, scale=1.0):
        """A policy with free logits after every prefix, also where the world speaks."""
        return TablePolicy(self, seed, scale).double()

    def transformer(self, seed=0, hidden=16, layers=1, heads=2):
        """A small Llama on this vocabulary: one set of parameters for all positions."""
        return tiny_llama(self.tokenizer, hidden, layers, heads, max_positions=16, seed=seed).double()

    def observation_rows(self, policy):
        """Which parameters of a `table` speak only where the world does, bool, as one vector."""
        rows = policy._rows(self.ids[:, :2])[:, 1].unique()  # after prompt and first action
        where = torch.zeros_like(policy.logits, dtype=torch.bool)
        where[rows] = True
        return where.flatten()
