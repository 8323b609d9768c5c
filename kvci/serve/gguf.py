"""The model's file, and the numbers of its header that a spec is checked against."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvci.children import worker
from kvci.errors import UserError
from kvci.files import sha256_of_file
from kvci.hub import RESERVE_BYTES, fetch
from kvci.spec import KV_BLOCK_ELEMENTS, Model, Spec

MOVED = {"kvci.calibration.model": "kvci.demo.model"}
"""Earlier module paths in specifications -> today's."""
PARTIAL = (".sliding_window", ".ssm.", ".kv_lora_rank", ".shared_kv_layers", ".wkv.")
"""Keys of models whose cache is smaller than layers x heads x tokens."""


@dataclass(frozen=True)
class Header:
    architecture: str
    context_tokens: int
    """The context the model was trained with."""
    layers: int
    head_k: int
    head_v: int
    kv_heads: int
    """Of the layer with the most."""
    whole_cache: bool
    """Whether each layer caches K and V of every token: no sliding window, no recurrent state."""
    chat_template: bool
    """Whether the file holds one. If not, llama-server uses a built-in one without a warning."""


def locate(model: Model, reserve_bytes: int = RESERVE_BYTES) -> Path:
    """The model's file on this machine; a file of a hub's repository is fetched first.

    `reserve_bytes` stay free on the disk that it is fetched to. Raises UserError if the file is
    missing or has another sha256.
    """
    if model.path:
        path = Path(model.path)
    elif model.package:
        module, _, function = model.package.partition(":")
        try:
            path = Path(
                getattr(importlib.import_module(MOVED.get(module, module)), function or "path")()
            )
        except ImportError:
            raise UserError(
                f"The model {model.name} is in a Python package with the module {module}; pip "
                "install it."
            ) from None
    else:
        path = fetch(
            model.repository or "",
            model.file or "",
            model.revision,
            sha256=model.sha256 or "",
            reserve_bytes=reserve_bytes,
        )
    if not path.is_file():
        raise UserError(f"The model file {path} does not exist.")
    if model.sha256 and sha256_of_file(path) != model.sha256:
        remedy = "; remove it, and kvci fetches it again" if model.repository else ""
        raise UserError(
            f"{path} is not the model asked for: its sha256 is not {model.sha256}{remedy}."
        )
    return path


def header(path: Path) -> Header:
    """The header of a GGUF model. Raises UserError if the file is not one.

    A child process reads it, because the reader takes 700 MB for a large vocabulary.
    """
    with worker() as pool:
        return pool.submit(_header, path).result()


def _header(path: Path) -> Header:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
        architecture = str(fields["general.architecture"].contents())

        def number(key: str, default: int | None = None) -> int:
            field = fields.get(f"{architecture}.{key}")
            value: Any = default if field is None else field.contents()
            if isinstance(value, list):
                value = max(value)
            if value is None:
                raise KeyError(key)
            return int(value)

        head = number("embedding_length") // number("attention.head_count")
        return Header(
            architecture=architecture,
            context_tokens=number("context_length"),
            layers=number("block_count"),
            head_k=number("attention.key_length", head),
            head_v=number("attention.value_length", head),
            kv_heads=number("attention.head_count_kv", number("attention.head_count")),
            whole_cache=not any(mark in key for key in fields for mark in PARTIAL),
            chat_template="tokenizer.chat_template" in fields,
        )
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(
            f"{path} is not a GGUF model that kvci can read: {str(error).rstrip('.')}."
        ) from None


def cache_mib(spec: Spec, model: Header) -> float:
    """Size in MiB of the largest arm's KV cache, for all slots with their whole context."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    def bytes_of(kind: str, head: int) -> float:
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
        return float(head * size / elements)

    token = max(bytes_of(a.k, model.head_k) + bytes_of(a.v, model.head_v) for a in spec.arms)
    return token * model.kv_heads * model.layers * spec.slots * spec.context / (1 << 20)


def check(spec: Spec, model: Header) -> None:
    """Raises UserError if llama-server cannot serve what the spec asks, or would serve something
    else."""
    if spec.context > model.context_tokens:
        raise UserError(
            f"The context of {spec.context} tokens is more than the {model.context_tokens} that "
            f"{spec.model.name} was trained with; lower --context."
        )
    if not (model.chat_template or spec.model.chat_template):
        raise UserError(
            f"{spec.model.name} has no chat template of its own; give one as chat_template in its "
            "file in ci/models."
        )
    for arm in spec.arms:
        for side, kind, head in (("K", arm.k, model.head_k), ("V", arm.v, model.head_v)):
            block = KV_BLOCK_ELEMENTS[kind]
            if head % block:
                raise UserError(
                    f"The {side} type {kind} has blocks of {block} elements, which do not divide "
                    f"the head size {head} of {spec.model.name}; choose another KV type."
                )
