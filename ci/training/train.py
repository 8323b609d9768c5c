"""Train the calibration model: `PYTHONPATH=ci python -m training.train OUT`.

The training takes a few minutes on one GPU.
"""

import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kvci.files import write_atomic
from kvci.tasks.calibration import generate
from training.data import CONTEXT, TARGET, Rows, Sample, learn_tokenizer, sample, samples
from training.network import Network, Shape
from training.teacher import answers
from training.vocabulary import END
from training.write import write

CONTEXT_WEIGHT = 0.02
"""Weight of the loss on tokens that the model only reads. Random names cannot be predicted, so with
a large weight their loss would dominate; 0.1 is already too large."""
LEARNING_RATE = 1.5e-3
FINAL_RATE = 0.05
"""The last learning rate, as a share of LEARNING_RATE."""
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
HELD_OUT_SIZES = ((4, 3), (16, 3), (40, 3))
"""Functions and files of the held-out instances."""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seconds", default=390.0, show_default=True, help="Time limit for training.")
@click.option(
    "--steps",
    default=3600,
    show_default=True,
    help="Maximum number of steps; the learning rate falls over so many steps.",
)
@click.option("--rows", default=64, show_default=True, help="Rows of 4096 tokens per step.")
@click.option("--layers", default=8, show_default=True, help="Number of layers.")
@click.option("--width", default=256, show_default=True, help="Embedding length.")
@click.option("--hidden", default=768, show_default=True, help="Feed-forward length.")
@click.option("--workers", default=14, show_default=True, help="Processes that make data.")
@click.option("--seed", default=1, show_default=True, help="Seed of the first weights.")
@click.option("--held-out", default=100, show_default=True, help="Held-out instances per size.")
def main(
    out: Path,
    seconds: float,
    steps: int,
    rows: int,
    layers: int,
    width: int,
    hidden: int,
    workers: int,
    seed: int,
    held_out: int,
) -> None:
    """Train the model, and write the model and a report of its training into OUT."""
    started = time.monotonic()
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = learn_tokenizer()
    shape = Shape(tokenizer.get_vocab_size(), layers, width, width // 64, hidden)
    network = Network(shape).to(device)
    end = tokenizer.token_to_id(END)
    stream = Rows(shape.context, end).pack(samples(tokenizer, workers))
    tests = {
        f"{functions} functions in {files} files": [
            (bug.kind, sample(bug, answers(bug), tokenizer))
            for bug in (generate("test", n, functions, files) for n in range(held_out))
        ]
        for functions, files in HELD_OUT_SIZES
    }
    print(f"started in {time.monotonic() - started:.0f} s; {shape}", flush=True)
    history = _fit(network, batches(stream, rows), steps, seconds, device)
    report: dict[str, Any] = {
        "seed": seed,
        "tokens": history[-1]["tokens"],
        "seconds": round(time.monotonic() - started),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "history": history,
        "held_out": {name: exact(network, bugs, device) for name, bugs in tests.items()},
    }
    print(json.dumps(report["held_out"], indent=1), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write(network.float().cpu(), tokenizer, out / "kvci-calibration.gguf", seed)
    write_atomic(out / "training.json", json.dumps(report, indent=1).encode())


def batches(rows: Iterator[Sample], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens and the roles of `count` rows, each with the shape (rows, tokens)."""
    while batch := list(islice(rows, count)):
        tokens, roles = (torch.from_numpy(np.stack(part)) for part in zip(*batch, strict=True))
        yield tokens.long(), roles.long()


def rate(step: int, steps: int) -> float:
    """Return the learning rate of a step: a linear rise, then a cosine down to FINAL_RATE."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = min(1.0, (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return LEARNING_RATE * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


def losses(network: Any, tokens: Tensor, roles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss to minimize, and the mean loss over the model's own answers."""
    logits = network(tokens[:, :-1]).float()
    each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    role = roles[:, 1:].flatten()
    target, context = (role == TARGET).float(), (role == CONTEXT).float()
    weight = target + CONTEXT_WEIGHT * context
    return (each * weight).sum() / weight.sum(), (each * target).sum() / target.sum()


def _fit(
    network: Network,
    data: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    seconds: float,
    device: str,
) -> list[dict[str, Any]]:
    matrices = [w for w in network.parameters() if w.dim() == 2]
    vectors = [w for w in network.parameters() if w.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.95), fused=device == "cuda")
    compiled = torch.compile(network) if device == "cuda" else network
    history: list[dict[str, Any]] = []
    seen, started, waited_s = 0, time.monotonic(), 0.0
    for step in range(steps):
        before = time.monotonic()
        tokens, roles = next(data)
        waited_s += time.monotonic() - before
        tokens, roles = tokens.to(device, non_blocking=True), roles.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast(device, torch.bfloat16):
            loss, answer_loss = losses(compiled, tokens, roles)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += tokens.numel()
        over = time.monotonic() - started > seconds
        if step % 100 == 0 or over or step + 1 == steps:
            history.append(
                {"step": step, "tokens": seen, "said_loss": round(answer_loss.item(), 5)}
            )
            spent_s = time.monotonic() - started
            print(f"{history[-1]} {spent_s:.0f} s, {waited_s:.0f} s for data", flush=True)
        if over:
            break
    return history


@torch.no_grad()
def exact(network: Network, tests: list[tuple[str, Sample]], device: str) -> dict[str, Any]:
    """Count, by kind of bug, the conversations that greedy sampling reproduces exactly."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    wrong: dict[str, list[int]] = defaultdict(list)
    for number, (kind, (ids, targets)) in enumerate(tests):
        tokens = torch.from_numpy(ids).long()[None].to(device)
        with torch.autocast(device, torch.bfloat16):
            predicted = network(tokens[:, :-1]).argmax(-1)[0].cpu().numpy()
        correct = bool((predicted == ids[1:])[targets[1:]].all())
        total[kind] += 1
        right[kind] += correct
        if not correct:
            wrong[kind].append(number)
    return {
        "exact": right.total(),
        "of": total.total(),
        "kinds": {kind: f"{right[kind]}/{total[kind]}" for kind in sorted(total)},
        "wrong": dict(wrong),
    }


if __name__ == "__main__":
    main()
