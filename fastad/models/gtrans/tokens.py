"""Feature maps as a few tokens, tokens that learn from one another, and back into feature maps.

The parts of GTrans (Yan et al., Applied Intelligence 2024, arXiv 2305.14880), after visual
transformers (Wu et al., arXiv 2006.03677). Tokens are (N, T, D): T of them, D numbers each.
"""

import math

import torch
from torch import Tensor, nn


class Tokenizer(nn.Module):
    """Sums a feature map over its positions with as many learned attentions as there are tokens.

    (N, C, H, W) -> (N, tokens, width). The authors project all positions and then sum them; summing
    first is the same and takes 1 / width of the operations.
    """

    def __init__(self, channels: int, tokens: int, width: int):
        super().__init__()
        self.attention = nn.Linear(channels, tokens, bias=False)
        self.values = nn.Linear(channels, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).mT  # N HW C
        attention = (self.attention(pixels) / math.sqrt(x.shape[1])).softmax(dim=1)
        return self.values(attention.to(pixels.dtype).mT @ pixels)


class TokenBlock(nn.Module):
    """Attention of tokens to a memory, and a perceptron; each with its residual, one norm for both.

    Queries (N, T, D) and memory (N, M, D) -> (N, T, D). The norm is over all tokens at once.
    """

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.first, self.second = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.norm = nn.LayerNorm((tokens, width))

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        # Written out: ONNX has no fused attention of three dimensions, and 24 tokens need none.
        asked = self.query(tokens) @ self.key(memory).mT / math.sqrt(tokens.shape[2])
        attended = asked.softmax(dim=2).to(tokens.dtype) @ self.value(memory).to(tokens.dtype)
        tokens = self.norm(tokens + attended)
        return self.norm(tokens + self.second(self.first(tokens).relu()))


class Projector(nn.Module):
    """A feature map to which every position adds what it asks of the tokens.

    (N, C, H, W) and (N, T, width) -> (N, C, H, W). The authors project every position's query;
    projecting the few keys instead is the same.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key, self.value = (nn.Linear(width, channels, bias=False) for _ in range(2))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pixels = x.flatten(2).mT  # N HW C
        keys = self.key(tokens) @ self.query.weight.to(tokens.dtype)  # N T C
        asked = pixels @ keys.to(pixels.dtype).mT / math.sqrt(x.shape[1])
        added = asked.softmax(dim=2).to(pixels.dtype) @ self.value(tokens).to(pixels.dtype)
        return x + added.mT.unflatten(2, x.shape[2:])


def channel_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each channel's map in two (N, C, H, W), flattened: (N, C)."""
    return torch.cosine_similarity(first.flatten(2), second.flatten(2), dim=2)
