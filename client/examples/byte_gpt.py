"""A small language model over bytes: two transformer blocks, 0.47 million parameters, on Python's own reference.

On one CPU core a step takes about a twentieth of a second; after 60 steps the loss has fallen from 5.7 (nothing known
about 256 byte values) to about 2.3.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tolsey.runtime.author import Job, adamw, cosine, text_file

CONTEXT = 64
WIDTH = 128
HEADS = 4
BLOCKS = 2


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each on a normalised copy of the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm_perceptron = nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        """[batch, time, width] -> the same."""
        batch, time, width = stream.shape
        projected = self.query_key_value(self.norm_attention(stream)).view(batch, time, 3, HEADS, width // HEADS)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        stream = stream + self.mix(seen.transpose(1, 2).reshape(batch, time, width))
        return stream + self.perceptron(self.norm_perceptron(stream))


class ByteGPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(256, WIDTH)
        self.place = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.logits = nn.Linear(WIDTH, 256, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.logits.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [batch, time] -> float32 [batch, time, 256]."""
        return self.logits(self.norm(self.blocks(self.token(tokens) + self.place)))


job = Job(
    name="byte-gpt",
    model=ByteGPT,
    data=text_file(context=CONTEXT),
    batch_size=16,
    steps=60,
    steps_per_segment=10,
    segments_per_window=3,
    optimiser=adamw(weight_decay="0.1"),
    lr="3e-3",
    schedule=cosine(warmup_steps=5, final_ratio="0.1"),
    clip_norm="1.0",
    seed=1,
)
