"""Train the calibration model: `PYTHONPATH=ci python -m training.train OUT`. One GPU, minutes."""

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
from training.data import Rows, Sample, sample, samples, tokenizer
from training.network import Network, Shape
from training.teacher import turns
from training.vocabulary import END
from training.write import write

TOLD_WEIGHT = 0.02
"""Of the loss on what the model is told: random names cannot be predicted, and their loss drowns
the rest (0.1 is too much)."""
RATE = 1.5e-3
RATE_END = 0.05
WARMUP_STEPS = 100
DECAY = 0.1
LOOKED_AT = ((4, 3), (16, 3), (40, 3))
"""Functions and files of the held-out instances."""


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seconds", default=390.0, show_default=True, help="Of training.")
@click.option("--steps", default=3600, show_default=True, help="What the rate is planned for.")
@click.option("--rows", default=64, show_default=True, help="Rows of 4096 tokens a step.")
@click.option("--layers", default=8, show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--hidden", default=768, show_default=True)
@click.option("--workers", default=14, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--held-out", default=100, show_default=True, help="Instances a difficulty.")
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
    """Train, and write the model and a report of the training into OUT."""
    started = time.monotonic()
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = tokenizer()
    shape = Shape(words.get_vocab_size(), layers, width, width // 64, hidden)
    network = Network(shape).to(device)
    end = words.token_to_id(END)
    stream = Rows(shape.context, end).pack(samples(words, workers))
    held = {
        f"{functions} functions in {files} files": [
            (one.kind, sample(one, turns(one), words))
            for one in (generate("test", n, functions, files) for n in range(held_out))
        ]
        for functions, files in LOOKED_AT
    }
    print(f"{time.monotonic() - started:.0f} s to begin; {shape}", flush=True)
    history = _fit(network, batches(stream, rows), steps, seconds, device)
    report: dict[str, Any] = {
        "seed": seed,
        "tokens": history[-1]["tokens"],
        "seconds": round(time.monotonic() - started),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "history": history,
        "held_out": {name: exact(network, some, device) for name, some in held.items()},
    }
    print(json.dumps(report["held_out"], indent=1), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write(network.float().cpu(), words, out / "kvci-calibration.gguf", seed)
    write_atomic(out / "training.json", json.dumps(report, indent=1).encode())


def batches(rows: Iterator[Sample], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    while some := list(islice(rows, count)):
        tokens, said = (torch.from_numpy(np.stack(part)) for part in zip(*some, strict=True))
        yield tokens.long(), said.long()


def rate(step: int, steps: int) -> float:
    """Up in a line, down in a cosine to RATE_END of it."""
    if step < WARMUP_STEPS:
        return RATE * (step + 1) / WARMUP_STEPS
    done = min(1.0, (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS))
    return RATE * (RATE_END + (1 - RATE_END) * 0.5 * (1 + math.cos(math.pi * done)))


def losses(network: Any, tokens: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
    """What is minimized, and the mean loss over what the model says."""
    logits = network(tokens[:, :-1]).float()
    each = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    kind = said[:, 1:].flatten()
    mine, told = (kind == 2).float(), (kind == 1).float()
    weight = mine + TOLD_WEIGHT * told
    return (each * weight).sum() / weight.sum(), (each * mine).sum() / mine.sum()


def _fit(
    network: Network,
    made: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    seconds: float,
    device: str,
) -> list[dict[str, Any]]:
    matrices = [w for w in network.parameters() if w.dim() == 2]
    vectors = [w for w in network.parameters() if w.dim() == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(groups, RATE, betas=(0.9, 0.95), fused=device == "cuda")
    ran = torch.compile(network) if device == "cuda" else network
    history: list[dict[str, Any]] = []
    seen, started, waited = 0, time.monotonic(), 0.0
    for step in range(steps):
        asked = time.monotonic()
        tokens, said = next(made)
        waited += time.monotonic() - asked
        tokens, said = tokens.to(device, non_blocking=True), said.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        with torch.autocast(device, torch.bfloat16):
            loss, mine = losses(ran, tokens, said)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen += tokens.numel()
        over = time.monotonic() - started > seconds
        if step % 100 == 0 or over or step + 1 == steps:
            history.append({"step": step, "tokens": seen, "said_loss": round(mine.item(), 5)})
            spent = time.monotonic() - started
            print(f"{history[-1]} {spent:.0f} s, {waited:.0f} s of it waiting", flush=True)
        if over:
            break
    return history


@torch.no_grad()
def exact(network: Network, some: list[tuple[str, Sample]], device: str) -> dict[str, Any]:
    """How many conversations the model says to the letter, as greedy sampling would, by kind."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    wrong: dict[str, list[int]] = defaultdict(list)
    for number, (kind, (ids, mine)) in enumerate(some):
        tokens = torch.from_numpy(ids).long()[None].to(device)
        with torch.autocast(device, torch.bfloat16):
            guessed = network(tokens[:, :-1]).argmax(-1)[0].cpu().numpy()
        fine = bool((guessed == ids[1:])[mine[1:]].all())
        total[kind] += 1
        right[kind] += fine
        if not fine:
            wrong[kind].append(number)
    return {
        "exact": right.total(),
        "of": total.total(),
        "kinds": {kind: f"{right[kind]}/{total[kind]}" for kind in sorted(total)},
        "wrong": dict(wrong),
    }


if __name__ == "__main__":
    main()
