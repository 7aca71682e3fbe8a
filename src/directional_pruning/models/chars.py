"""A small causal transformer over characters."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CharTransformer", "chars_net"]


class _Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (B, T, 3 width) -> three of (B, heads, T, width / heads)
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharTransformer(nn.Module):
    """Characters ``(B, T)`` as int64, T at most ``window`` -> logits ``(B, classes, T)`` for each next character.

    Classes are dimension 1, as ``F.cross_entropy`` and ``argmax(1)`` expect.
    """

    def __init__(self, classes: int, window: int, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.position = nn.Embedding(window, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        # torch's N(0, 1) would be much larger than the terms that the blocks add to the residual stream.
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits for the next character at each position, from this position and those before it."""
        x = self.embedding(characters) + self.position.weight[: characters.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)).transpose(1, 2)


def chars_net(classes: int = 96, window: int = 64) -> CharTransformer:
    """Three layers of width 64 with four heads: 147,456 weights in attention and feed-forward, 19,104 elsewhere.

    Linear layers have torch's initialisation, embeddings N(0, 0.02^2); both use the global random generator.

    >>> import torch
    >>> logits = chars_net()(torch.zeros(2, 50, dtype=torch.int64))
    >>> logits.shape
    torch.Size([2, 96, 50])
    """
    return CharTransformer(classes, window, layers=3, width=64, heads=4)
