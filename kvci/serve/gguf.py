"""Find the model's file, read its header, and check a specification against the header."""

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
"""Module path in earlier specifications -> module path of today."""
PARTIAL = (".sliding_window", ".ssm.", ".kv_lora_rank", ".shared_kv_layers", ".wkv.")
"""Parts of header keys that show a cache smaller than layers x heads x tokens."""


@dataclass(frozen=True)
class Header:
    architecture: str
    context_tokens: int
    """The context that the model was trained with."""
    layers: int
    head_k: int
    head_v: int
    kv_heads: int
    """The number of KV heads in the layer that has the most."""
    whole_cache: bool
    """True if every layer caches K and V of every token: no sliding window, no recurrent state."""
    chat_template: bool
    """True if the file contains a chat template.

    If not, llama-server uses a built-in template without a warning.
    """


def locate(model: Model, reserve_bytes: int = RESERVE_BYTES) -> Path:
    """Return the path of the model's file on this machine.

    A file of a repository on the hub is downloaded first. The download leaves `reserve_bytes` free
    on the disk. Raises UserError if the file is missing or has another sha256.
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
                f"The model {model.name} is in the Python module {module}, which is not installed; "
                "install its package with pip."
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
        raise UserError(f"The model file {path} does not exist; give the path of a GGUF file.")
    if model.sha256 and sha256_of_file(path) != model.sha256:
        remedy = (
            "remove the file, and kvci downloads it again"
            if model.repository
            else "give the file that has this sha256"
        )
        raise UserError(
            f"{path} is not the requested model: its sha256 is not {model.sha256}; {remedy}."
        )
    return path


def header(path: Path) -> Header:
    """Return the header of a GGUF model. Raises UserError if the file is not a GGUF model.

    A child process reads the header, because this needs 700 MB for a large vocabulary.
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
            f"{path} is not a GGUF model that kvci can read ({str(error).rstrip('.')}); "
            "give another file."
        ) from None


def cache_mib(spec: Spec, model: Header) -> float:
    """Return the size in MiB of the largest KV cache that an arm needs.

    The size covers all slots, and the whole context of each slot.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    def bytes_of(kind: str, head: int) -> float:
        elements, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
        return float(head * size / elements)

    token = max(bytes_of(a.k, model.head_k) + bytes_of(a.v, model.head_v) for a in spec.arms)
    return token * model.kv_heads * model.layers * spec.slots * spec.context / (1 << 20)


def check(spec: Spec, model: Header) -> None:
    """Check that llama-server can serve this model as the specification asks.

    Raises UserError if llama-server cannot, or if it would serve something else.
    """
    if spec.context > model.context_tokens:
        raise UserError(
            f"The context of {spec.context} tokens is longer than the {model.context_tokens} that "
            f"{spec.model.name} was trained with; lower --context."
        )
    if not (model.chat_template or spec.model.chat_template):
        raise UserError(
            f"{spec.model.name} has no chat template of its own; set chat_template in the model's "
            "TOML file in ci/models."
        )
    for arm in spec.arms:
        for side, kind, head in (("K", arm.k, model.head_k), ("V", arm.v, model.head_v)):
            block = KV_BLOCK_ELEMENTS[kind]
            if head % block:
                raise UserError(
                    f"The {side} type {kind} has blocks of {block} elements, which do not divide "
                    f"the head size {head} of {spec.model.name}; choose another KV type."
                )
