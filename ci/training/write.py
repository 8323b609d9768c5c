"""Write network and tokenizer as a GGUF file that names the training conversations."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import Tokenizer

from training.identity import NAMES, taught
from training.network import Network
from training.vocabulary import CONTROLS, END, TEMPLATE

PARTS = {
    "attention_norm": "attn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v",
    "output": "attn_output", "feed_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up",
    "down": "ffn_down",
}  # fmt: skip


def write(network: Network, tokenizer: Tokenizer, path: Path, seed: int) -> None:
    """Write the model's file, with matrices in f16 and norms in f32."""
    shape = network.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("kvci calibration")
    writer.add_license("mit")
    writer.add_description("Fixes the bugs of kvci's calibration suite, and nothing else.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_dimension_count(shape.width // shape.heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_vocab_size(shape.vocabulary)
    _add_tokenizer(writer, tokenizer)
    for name, value in (taught() | {NAMES["seed"]: str(seed)}).items():
        writer.add_string(name, value)
    for name, weight in network.state_dict().items():
        writer.add_tensor(_tensor_name(name), _stored(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in CONTROLS else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(model["vocab"][END])
    writer.add_eos_token_id(model["vocab"][END])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _tensor_name(name: str) -> str:
    """Return llama.cpp's name of a weight of `Network`."""
    if name == "embedding.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    _, number, part, _ = name.split(".")
    return f"blk.{number}.{PARTS[part]}.weight"


def _stored(weight: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return weight.astype(np.float16 if weight.ndim == 2 else np.float32)
