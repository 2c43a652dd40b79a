"""The course's losses equal TRL's on fixed tensors, to 1e-5.

TRL computes its losses inside its trainers. Each trainer is built for real, on the shipped clock-sum
model, and its method that computes per-token log-probabilities is replaced by one that returns ours.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from rlcourse.lm.models import MODELS
from solutions.ch07_rlhf import reward_model_loss
from solutions.ch08_dpo import dpo_loss, ipo_loss, sequence_logprobs
from solutions.ch09_grpo import (
    aggregate,
    cispo_losses,
    clipped_losses,
    group_advantages,
    kl_estimates,
    rloo_advantages,
    sequence_ratios,
)

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="datasets is not installed")

B, T, G = 8, 12, 4
GENERATOR = torch.Generator().manual_seed(0)
LENGTHS = torch.tensor([12, 9, 5, 12, 7, 3, 10, 12])
MASK = (torch.arange(T)[None] < LENGTHS[:, None]).double()


def normal(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


LOGPROBS = -3 * torch.rand(B, T, generator=GENERATOR, dtype=torch.float64)
OLD, REF = LOGPROBS + 0.3 * normal(B, T), LOGPROBS + 0.3 * normal(B, T)
ADVANTAGES = normal(B)
QUIET = {
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def parts():
    """Model and tokenizer of the course, and a data set of prompts, for the trainers to be built with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODELS / "clock_sum")
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "clock_sum")
    return model, tokenizer, datasets.Dataset.from_list([{"prompt": "1 2 3 4 5 6 ="}] * 16)


def grpo_trainer(parts, out, **settings):
    model, tokenizer, data = parts
    config = trl.GRPOConfig(
        out, num_generations=G, per_device_train_batch_size=B, max_completion_length=T, **QUIET, **settings
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
    )
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (LOGPROBS, torch.zeros(B, T), None)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


INPUTS = {
    "prompt_ids": torch.ones(B, 2, dtype=torch.long),
    "prompt_mask": torch.ones(B, 2, dtype=torch.long),
    "completion_ids": torch.ones(B, T, dtype=torch.long),
    "completion_mask": MASK,
    "advantages": ADVANTAGES,
    "old_per_token_logps": OLD,
    "ref_per_token_logps": REF,
    "num_items_in_batch": MASK.sum(),
}


def clipped(high=0.2):
    return clipped_losses(LOGPROBS, OLD, ADVANTAGES[:, None], 0.2, high)


def gspo():
    ratio = sequence_ratios(LOGPROBS, OLD, MASK)
    losses = clipped_losses(ratio.log(), torch.zeros_like(ratio), ADVANTAGES[:, None], 3e-4, 4e-4)
    return aggregate(losses.expand(B, T), MASK, "sequence")


def with_kl():
    k3 = kl_estimates(LOGPROBS, REF)[2]
    return aggregate(clipped() + 0.04 * k3, MASK, "sequence")


GRPO_FAMILY = {
    "grpo": ({"loss_type": "grpo"}, lambda: aggregate(clipped(), MASK, "sequence")),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, lambda: aggregate(clipped(0.28), MASK, "token")),
    "bnpo": ({"loss_type": "bnpo"}, lambda: aggregate(clipped(), MASK, "token")),
    "dr_grpo": ({"loss_type": "dr_grpo"}, lambda: aggregate(clipped(), MASK, "constant", T)),
    "k3": ({"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False}, with_kl),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        gspo,
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 5.0},  # TRL's edge is the cap itself, ours 1 + clip_high
        lambda: aggregate(cispo_losses(LOGPROBS, OLD, ADVANTAGES[:, None], 4.0), MASK, "token"),
    ),
}


@pytest.mark.parametrize("name", GRPO_FAMILY)
def test_grpo_losses(name, parts, tmp_path):
    settings, ours = GRPO_FAMILY[name]
    theirs = grpo_trainer(parts, str(tmp_path), **settings)._compute_loss(None, INPUTS)
    assert theirs.item() == pytest.approx(ours().item(), abs=1e-5)


def generated(trainer_class, config_class, parts, out, **settings):
    """The advantages that a trainer computes for two groups, and the rewards it was given."""
    model, tokenizer, data = parts
    seen = {}

    def reward(completions, **_):
        seen["rewards"] = [float(len(c) % 7) + 0.1 * i for i, c in enumerate(completions)]
        return seen["rewards"]

    config = config_class(
        out, num_generations=G, per_device_train_batch_size=B, max_completion_length=6, **QUIET, **settings
    )
    trainer = trainer_class(
        model=model, reward_funcs=[reward], args=config, train_dataset=data, processing_class=tokenizer
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    prompts = [{"prompt": "1 2 3 4 5 6 ="}] * G + [{"prompt": "6 5 4 3 2 1 ="}] * G
    out = trainer._generate_and_score_completions(prompts)
    return out["advantages"].double(), torch.tensor(seen["rewards"], dtype=torch.float64), trainer


@pytest.mark.parametrize("scale", [True, False])
def test_grpo_advantages(scale, parts, tmp_path):
    scale_rewards = "group" if scale else "none"
    theirs, rewards, _ = generated(
        trl.GRPOTrainer, trl.GRPOConfig, parts, str(tmp_path), scale_rewards=scale_rewards
    )
    assert torch.allclose(theirs, group_advantages(rewards, G, scale=scale), atol=1e-5)


def test_rloo_advantages_and_loss(parts, tmp_path):
    theirs, rewards, trainer = generated(trl.RLOOTrainer, trl.RLOOConfig, parts, str(tmp_path), beta=0.0)
    assert torch.allclose(theirs, rloo_advantages(rewards, G), atol=1e-5)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (LOGPROBS, torch.zeros(B, T), None)
    inputs = INPUTS | {"old_logps": (OLD * MASK).sum(1)}
    try:
        loss = trainer._compute_loss(None, inputs)
    except ValueError:  # TRL releases differ in what the replaced method returns
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (LOGPROBS, torch.zeros(B, T))
        loss = trainer._compute_loss(None, inputs)
    log_ratio = sequence_logprobs(LOGPROBS, MASK) - sequence_logprobs(OLD, MASK)  # whole replies
    ours = clipped_losses(log_ratio, torch.zeros(B, dtype=torch.float64), ADVANTAGES).mean()
    assert loss.item() == pytest.approx(ours.item(), abs=1e-5)


class FixedModel(torch.nn.Module):
    """Stands for a language model: returns given log-probabilities of the completion tokens."""

    def __init__(self, logprobs):
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **_):
        zeros = torch.zeros_like(self.logprobs)
        return SimpleNamespace(
            log_probs=self.logprobs,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
        )


N = B // 2
BETA, EPS = 0.3, 0.1


def dpo_parts():
    """Whole-reply log-probabilities: chosen, rejected, and the same under the reference."""
    new, ref = sequence_logprobs(LOGPROBS, MASK), sequence_logprobs(REF, MASK)
    return new[:N], new[N:], ref[:N], ref[N:]


def per_token(pair):
    """The same divided by each reply's length: what TRL's IPO compares."""
    lengths = (LENGTHS[:N], LENGTHS[N:], LENGTHS[:N], LENGTHS[N:])
    return tuple(x / n for x, n in zip(pair, lengths, strict=True))


def robust():
    """TRL's `robust` is the unbiased cousin of label smoothing, made of the same two terms."""
    chosen, rejected, ref_chosen, ref_rejected = dpo_parts()
    right = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, BETA)
    flipped = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, BETA)
    return ((1 - EPS) * right - EPS * flipped) / (1 - 2 * EPS)


DPO_FAMILY = {
    "sigmoid": lambda: dpo_loss(*dpo_parts(), BETA),
    "ipo": lambda: ipo_loss(*per_token(dpo_parts()), BETA),
    "robust": robust,
}


@pytest.mark.parametrize("name", DPO_FAMILY)
def test_dpo_losses(name, parts, tmp_path):
    model, tokenizer, _ = parts
    data = datasets.Dataset.from_list([{"prompt": "1 2 =", "chosen": "3", "rejected": "4"}] * 8)
    smoothing = {"label_smoothing": EPS} if name == "robust" else {}
    config = trl.DPOConfig(str(tmp_path), loss_type=[name], beta=BETA, **smoothing, **QUIET)
    trainer = trl.DPOTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.model.train()
    trainer.ref_model = FixedModel(REF * MASK)
    completion = torch.cat([torch.zeros(B, 1, dtype=torch.long), MASK.long()], dim=1)
    inputs = {
        "input_ids": torch.ones(B, T + 1, dtype=torch.long),
        "attention_mask": torch.ones(B, T + 1, dtype=torch.long),
        "completion_mask": completion,
    }
    theirs = trainer._compute_loss(FixedModel(LOGPROBS * MASK), inputs, False)
    assert theirs.item() == pytest.approx(DPO_FAMILY[name]().item(), abs=1e-5)


def test_label_smoothing_is_a_mean_of_both_labels():
    """Conservative DPO itself has no counterpart in this TRL; its two terms were compared above."""
    chosen, rejected, ref_chosen, ref_rejected = dpo_parts()
    right = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, BETA)
    flipped = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, BETA)
    smoothed = dpo_loss(*dpo_parts(), BETA, label_smoothing=EPS)
    assert smoothed.item() == pytest.approx(((1 - EPS) * right + EPS * flipped).item(), abs=1e-12)


def test_reward_model_loss(tmp_path):
    """TRL's reward trainer on a model that returns given scores."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "clock_sum")
    model = AutoModelForSequenceClassification.from_pretrained(MODELS / "clock_sum", num_labels=1)
    data = datasets.Dataset.from_list([{"prompt": "1 2 =", "chosen": "3", "rejected": "4"}] * 8)
    trainer = trl.RewardTrainer(
        model=model,
        args=trl.RewardConfig(str(tmp_path), **QUIET),
        train_dataset=data,
        processing_class=tokenizer,
    )
    scores = normal(B, 1)

    def fixed(**_):
        return SimpleNamespace(logits=scores)

    inputs = {"input_ids": torch.ones(B, 3, dtype=torch.long), "attention_mask": torch.ones(B, 3).long()}
    trainer.accelerator.gather_for_metrics = lambda x: x
    theirs = trainer.compute_loss(fixed, inputs)
    ours = reward_model_loss(scores[:N, 0], scores[N:, 0])
    assert theirs.item() == pytest.approx(ours.item(), abs=1e-5)
    by_hand = [math.log1p(math.exp(-d)) for d in (scores[:N, 0] - scores[N:, 0]).tolist()]
    assert ours.item() == pytest.approx(sum(by_hand) / N, abs=1e-10)
