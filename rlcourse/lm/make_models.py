"""Trains the base models that the labs start from: `python -m rlcourse.lm.make_models [name ...]`.

Each is a tiny Llama that has imitated noisy demonstrations, so it knows the format and how a step
is made, and is often wrong. Written to `models/<name>/` with a card that says how good it is.
"""

import argparse
import json
import math
import shutil
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from .evaluate import evaluate
from .models import MODELS, tiny_llama
from .worlds import WORLDS


class Recipe(NamedTuple):
    """Stage 1 (if any): clean demonstrations until the loss is low. Stage 2: noisy ones."""

    world: str
    seed: int
    hidden: int
    lr: float
    clean: dict | None  # options of the clean demonstrations, or None: no first stage
    noisy: dict  # options of the noisy demonstrations
    noisy_steps: int
    demonstrations: int = 4000


RECIPES = {
    "clock_sum": Recipe("clock_sum", 0, 96, 2e-3, None, {"think": 0.4, "noise": 0.1}, 500),
    "clock_sum_process": Recipe(
        "clock_sum_process",
        0,
        64,
        2e-3,
        {"think": 1.0, "noise": 0.0},
        {"think": 1.0, "noise": 0.5},
        80,
    ),
    "sort6": Recipe("sort6", 0, 64, 3e-3, None, {"noise": 0.25}, 250),
}


def fit(model, prompts, replies, mask, steps, lr, generator, stop_at=0.0, batch=64):
    """Next-token cross-entropy on the replies with AdamW; ends early when the loss average is low.

    A tiny model learns in a sudden jump whose time depends on the seed: hence `stop_at`.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    inputs = torch.cat([prompts, replies], dim=1)
    targets = inputs.masked_fill(torch.cat([torch.zeros_like(prompts), mask], dim=1) == 0, -100)
    average = None
    for step in range(steps):
        rate = min(1.0, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = lr * rate
        rows = torch.randint(0, len(inputs), (batch,), generator=generator)
        logits = model(input_ids=inputs[rows, :-1], use_cache=False).logits  # (B, L - 1, V)
        loss = F.cross_entropy(logits.flatten(0, 1), targets[rows, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.9 * average + 0.1 * loss.item()
        if average < stop_at:
            break
    return step + 1


def make(recipe):
    """The trained model, its world, and the number of optimiser steps of each stage."""
    world = WORLDS[recipe.world]()
    generator = torch.Generator().manual_seed(recipe.seed)
    model = tiny_llama(world.tokenizer, hidden=recipe.hidden, seed=recipe.seed)
    prompts = world.prompts(recipe.demonstrations, generator)
    steps = []
    if recipe.clean is not None:
        clean = world.demonstrations(prompts, generator, **recipe.clean)
        steps.append(fit(model, prompts, *clean, 1000, recipe.lr, generator, stop_at=0.05))
    noisy = world.demonstrations(prompts, generator, **recipe.noisy)
    steps.append(fit(model, prompts, *noisy, recipe.noisy_steps, recipe.lr, generator))
    return model, world, steps


def card(name, recipe, model, world, steps, samples=2048):
    """What is to be known about the file, as a dictionary."""
    sampled = evaluate(model, world, samples, seed=1)
    greedy = evaluate(model, world, samples, greedy=True, seed=1)
    return {
        "name": name,
        "command": f"python -m rlcourse.lm.make_models {name}",
        "recipe": recipe._asdict(),
        "optimiser_steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "evaluation": {
            "prompts": samples,
            "seed": 1,
            "sampled_accuracy": round(sampled.accuracy, 4),
            "sampled_standard_error": round(sampled.standard_error, 4),
            "greedy_accuracy": round(greedy.accuracy, 4),
            "sampled_score": round(sampled.score, 4),
            "thinking": None if math.isnan(sampled.thinking) else round(sampled.thinking, 4),
            "length": round(sampled.length, 2),
        },
        "made_with": {"torch": torch.__version__, "transformers": transformers_version},
    }


def readme(card):
    e = card["evaluation"]
    return (
        f"# {card['name']}\n\n"
        f"A Llama with {card['parameters']:,} parameters for the world `{card['recipe']['world']}` "
        "of `rlcourse/lm/worlds.py`, trained on noisy demonstrations. Load it with "
        f'`rlcourse.lm.load("{card["name"]}")` or with `AutoModelForCausalLM.from_pretrained`.\n\n'
        f"- made by: `{card['command']}` (seed {card['recipe']['seed']})\n"
        f"- sampled accuracy {e['sampled_accuracy']:.3f} ± {e['sampled_standard_error']:.3f} "
        f"(standard error, {e['prompts']} prompts), greedy {e['greedy_accuracy']:.3f}\n"
        "- the exact settings and figures are in `card.json`; `tests/test_lm.py` checks them\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="default: all")
    names = parser.parse_args().names or list(RECIPES)
    torch.set_num_threads(1)  # with so little work per step a second thread costs more than it gives
    transformers_logging.disable_progress_bar()
    for name in names:
        start = time.process_time()
        model, world, steps = make(RECIPES[name])
        facts = card(name, RECIPES[name], model, world, steps)
        folder = MODELS / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        world.tokenizer.save_pretrained(folder)
        (folder / "card.json").write_text(json.dumps(facts, indent=2) + "\n")
        (folder / "README.md").write_text(readme(facts))
        accuracy = facts["evaluation"]["sampled_accuracy"]
        seconds = time.process_time() - start
        print(f"{name:20} sampled {accuracy:.3f}  {seconds:.0f} CPU s  -> {folder}", flush=True)


if __name__ == "__main__":
    main()
