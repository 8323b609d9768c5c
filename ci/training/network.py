"""The model in torch: a small network of llama.cpp's architecture `llama`."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; `vocabulary` and `context` are in tokens."""

    vocabulary: int
    layers: int = 8
    width: int = 256
    heads: int = 4
    hidden: int = 768
    context: int = 4096
    rope_base: float = 10_000.0
    epsilon: float = 1e-5


class Layer(nn.Module):
    """An attention part and a feed-forward part.

    Each part has a norm before it and a residual connection.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, hidden = shape.width, shape.hidden
        self.heads = shape.heads
        self.attention_norm = nn.RMSNorm(width, shape.epsilon)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width, shape.epsilon)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, rotations: Tensor) -> Tensor:
        """Return the layer's output.

        `x` has the shape (batch, tokens, width), and `rotations` comes from `rope`.
        """
        batch, tokens, width = x.shape
        normed = self.attention_norm(x)
        split = (batch, tokens, self.heads, width // self.heads)
        query, key, value = (
            part(normed).view(split).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        query, key = rotate(query, rotations), rotate(key, rotations)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, tokens, width))
        normed = self.feed_norm(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


class Network(nn.Module):
    """The whole model, with tied embeddings.

    The first weights have a normal distribution with standard deviation 0.02. The deviation is
    smaller for matrices that write to the residual stream, and depends on the depth, as in GPT-2.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)
        rotations = rope(shape.context, shape.width // shape.heads, shape.rope_base)
        self.register_buffer("rotations", rotations, persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("output.weight", "down.weight"))
                std = 0.02 / (2 * shape.layers) ** 0.5 if residual else 0.02
                nn.init.normal_(weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (batch, tokens, vocabulary) for tokens (batch, tokens)."""
        x = self.embedding(tokens)
        rotations = self.rotations[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, rotations)
        return functional.linear(self.norm(x), self.embedding.weight)


def rope(tokens: int, size: int, base: float) -> Tensor:
    """Return cosine and sine for each position and pair of dimensions: (tokens, size / 2, 2)."""
    rates = base ** (-torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(tokens), rates)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate pairs of neighbouring dimensions of (..., tokens, size), as llama.cpp does."""
    pairs = x.unflatten(-1, (-1, 2))
    cos, sin = rotations[..., 0].to(x.dtype), rotations[..., 1].to(x.dtype)
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
