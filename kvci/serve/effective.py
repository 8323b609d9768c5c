"""Read the effective configuration of a server from the server's own log.

`/props` does not report the KV types, so the log is the only source. Different builds write the
same line in different forms; `read` knows these forms. If no line shows a value, the value is None
("not shown"). kvci never assumes a value.
"""

import re
from collections.abc import Iterable
from typing import Literal

from kvci.files import Document
from kvci.serve.server_log import lines_of
from kvci.spec import KV_BLOCK_ELEMENTS

KernelPath = Literal["compiled", "converted", "cpu", "not shown"]


class Effective(Document):
    kv_type: str | None
    context_per_slot: int | None
    slots: int | None
    cells: int | None
    """Cells in the cache of one slot. If a model has several caches, the largest one counts."""
    unified: bool | None
    flash_attention: Literal["on", "off"] | None
    kernel_path: KernelPath
    rotation: Literal["on", "off"] | None
    kv_mib: float | None
    kv_device: str | None
    gpu: bool | None
    """True if the build has a GPU backend, and the backend found a device."""
    graph_splits: int | None
    build: str | None
    weights_mib: float | None = None
    """Size of the weights on the GPUs; without a GPU, their size in the host's memory."""
    compute_mib: float | None = None
    """Size of the compute buffers on the GPUs; without a GPU, their size in the host's memory."""
    fa_pairs: tuple[str, ...] | None = None
    """The K-V pairs that flash attention was compiled for, if the build reports them."""
    warnings: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


CACHE = re.compile(
    r"llama_kv_cache\w*: size = +([\d.]+) MiB \( *(\d+) cells, +\d+ layers, +(\d+)/ ?(\d+) seqs\),"
    r" K \((\w+)\): +[\d.]+ MiB, V \((\w+)\)"
)
BUFFER = re.compile(r"llama_kv_cache\w*: +(\S+) KV buffer size = +([\d.]+) MiB")
WEIGHTS = re.compile(r"load_tensors: +(\S+) model buffer size = +([\d.]+) MiB")
COMPUTE = re.compile(r"(?:sched_reserve|llama_context): +(\S+) compute buffer size = +([\d.]+) MiB")
CONTEXT = re.compile(r"llama_context: n_ctx_seq += (\d+)")
SLOTS = re.compile(r"n_slots = (\d+)(?:, n_ctx_slot = (\d+))?(?:, kv_unified = '(\w+)')?")
UNIFIED = re.compile(r"llama_context: kv_unified += (true|false)")
FLASH = re.compile(r"llama_context: flash_attn += (\w+)")
ROTATION = re.compile(r"(?:n|attn)_rot_([kv]) = (\d+)")
SPLITS = re.compile(r"(?:splits = (?:\d+ / )?(\d+)\b|graph splits += (\d+))")
LAYERS = re.compile(r"print_info: n_layer += (\d+)")
QUANTS = re.compile(r"FA_QUANTS = ([\w,.-]+)")
QUANTS_ALL = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16")
"""The types that `all` means: every type as K with every type as V (ggml/cmake/common.cmake)."""
BUILD = re.compile(r"build_info: (\S+)|build(?::)? (\d+ \([^)]*\))")
NO_KERNEL = "no FlashAttention vector kernel compiled"
ON_CPU = re.compile(r"assigned to device CPU|Flash Attention not supported, set to disabled")
GPU_NAMES = re.compile(r"^(CUDA|ROCm|HIP|Vulkan|Metal|MTL|SYCL|MUSA|CANN)", re.IGNORECASE)


def read(log: str) -> Effective:
    """Return the effective configuration that a log shows. Its field `problems` is empty."""
    text = "\n".join(lines_of(log))
    caches = CACHE.findall(text)
    kinds = {f"{k}/{v}" for *_, k, v in caches}
    kv_type = " and ".join(sorted(kinds)) or None
    devices = sorted({device for device, mib in BUFFER.findall(text) if float(mib) > 0})
    slots = SLOTS.search(text)
    context = slots[2] if slots and slots[2] else _last(CONTEXT, text)
    shared = _last(UNIFIED, text) or (slots[3] if slots else None)
    streams = {int(stream) for _, _, _, stream, _, _ in caches}
    unified = None if shared is None else shared == "true"
    if slots and int(slots[1]) > 1 and streams and max(streams) == 1:
        unified = True
    gpu = _gpu(text, devices)
    flash = _flash(text)
    splits = [int(a or b) for a, b in SPLITS.findall(text)]
    build = BUILD.search(text)
    warnings = tuple(line for line in text.splitlines() if NO_KERNEL in line or ON_CPU.search(line))
    return Effective(
        kv_type=kv_type,
        context_per_slot=int(context) if context else None,
        slots=int(slots[1]) if slots else None,
        cells=max((int(cells) for _, cells, *_ in caches), default=None),
        unified=unified,
        flash_attention=flash,
        kernel_path=_kernel_path(text, kinds, gpu, flash, splits),
        rotation=_rotation(text, kinds),
        kv_mib=round(sum(float(mib) for mib, *_ in caches), 2) if caches else None,
        kv_device="+".join(devices) or None,
        fa_pairs=_pairs(text),
        gpu=gpu,
        graph_splits=max(splits, default=None),
        build=next(part for part in build.groups() if part) if build else None,
        weights_mib=_mib(WEIGHTS.findall(text), gpu),
        # If a device has several reservations, the last one counts.
        compute_mib=_mib(dict(COMPUTE.findall(text)).items(), gpu),
        warnings=warnings,
    )


def _mib(buffers: Iterable[tuple[str, str]], gpu: bool | None) -> float | None:
    """Return the sum over the buffers on GPUs; without a GPU, the sum over all buffers."""
    sizes = [float(mib) for device, mib in buffers if not gpu or _on_gpu(device)]
    return round(sum(sizes), 2) if sizes and gpu is not None else None


def _on_gpu(device: str) -> bool:
    return bool(GPU_NAMES.match(device)) and not device.endswith("_Host")


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return str(found[-1]) if found else None


def _gpu(text: str, devices: list[str]) -> bool | None:
    if any(GPU_NAMES.match(device) for device in devices):
        return True
    info = re.search(r"system_info: .*", text)
    if not info:
        return None
    return bool(re.search(r"\b(CUDA|ROCm|Vulkan|Metal|SYCL|MUSA|CANN) :", info[0]))


def _flash(text: str) -> Literal["on", "off"] | None:
    state = _last(FLASH, text)
    if state == "auto":
        if re.search(
            r"Flash Attention (not supported, set to disabled|was auto, set to dis)", text
        ):
            return "off"
        return "on" if re.search(r"Flash Attention (was auto, set to )?enabled", text) else None
    if state in {"enabled", "1"}:
        return "on"
    return "off" if state in {"disabled", "0"} else None


def _rotation(text: str, kinds: set[str]) -> Literal["on", "off"] | None:
    """Return "on" if every cache rotates every side (K or V) that is quantized.

    Return "off" if a quantized side is not rotated, or if no side is quantized. Return None if the
    log does not show the rotation.
    """
    if "attention rotation force disabled" in text:
        return "off"
    sizes = [(side, int(size)) for side, size in ROTATION.findall(text)]
    quantized = {
        side
        for kind in kinds
        for side, name in zip("kv", kind.split("/"), strict=True)
        if KV_BLOCK_ELEMENTS.get(name, 1) > 1
    }
    if not sizes or quantized - {side for side, _ in sizes}:
        return None
    return "on" if quantized and all(n for side, n in sizes if side in quantized) else "off"


def _kernel_path(
    text: str, kinds: set[str], gpu: bool | None, flash: str | None, splits: list[int]
) -> KernelPath:
    """Return where attention runs, and whether its kernel was compiled for the KV type.

    A GPU build that runs attention on the GPU has one or two graph splits. If attention runs on the
    CPU, each layer adds two splits. No other line of the log shows this (seen with iq4_nl on CUDA).
    """
    if gpu is False:
        return "cpu"
    layers = _last(LAYERS, text)
    if gpu is None or flash is None or not splits or not layers or not kinds:
        return "not shown"
    if ON_CPU.search(text) or max(splits) > 2 + int(layers):
        return "cpu"
    if NO_KERNEL in text:
        return "converted"
    built = _pairs(text)
    if built is None:
        return "not shown"
    asked = {kind.replace("/", "-") for kind in kinds}
    return "compiled" if asked <= {*built, "f16-f16"} else "not shown"


def _pairs(text: str) -> tuple[str, ...] | None:
    quants = _last(QUANTS, text)
    if quants == "all":
        return tuple(f"{k}-{v}" for k in QUANTS_ALL for v in QUANTS_ALL)
    return tuple(quants.split(",")) if quants else None
