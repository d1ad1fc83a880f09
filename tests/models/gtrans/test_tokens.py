"""Tokens against the authors' order of operations, in float64."""

import math

import pytest
import torch

from fastad.models.gtrans.tokens import Projector, TokenBlock, Tokenizer, channel_cosines

SHAPES = [(1, 3, 1, 1), (2, 5, 4, 7), (3, 8, 6, 2)]


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_tokenizer_sums_projected_positions(shape):
    tokenizer, x = Tokenizer(shape[1], 4, 6).double(), drawn(*shape)
    pixels = x.flatten(2)  # N C HW
    weights = tokenizer.attention.weight @ pixels / math.sqrt(shape[1])
    attention = weights.exp() / weights.exp().sum(dim=2, keepdim=True)
    values = tokenizer.values.weight @ pixels  # N width HW
    expected = torch.einsum("nwp,ntp->ntw", values, attention)
    torch.testing.assert_close(tokenizer(x), expected)
    assert [name for name, _ in tokenizer.named_parameters()] == [
        "attention.weight",
        "values.weight",
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_projector_asks_at_every_position(shape):
    projector, x, tokens = Projector(shape[1], 6).double(), drawn(*shape), drawn(shape[0], 4, 6)
    query = projector.query.weight @ x.flatten(2)  # N C HW
    key, value = projector.key(tokens), projector.value(tokens)  # N T C
    asked = torch.einsum("ncp,ntc->npt", query, key) / math.sqrt(shape[1])
    share = asked.exp() / asked.exp().sum(dim=2, keepdim=True)
    expected = x + torch.einsum("npt,ntc->ncp", share, value).view(shape)
    torch.testing.assert_close(projector(x, tokens), expected)


def test_block_attends_and_normalises_all_tokens_at_once():
    block, tokens, memory = TokenBlock(3, 6).double(), drawn(2, 3, 6), drawn(2, 5, 6)
    with torch.no_grad():
        block.norm.weight.uniform_(0.5, 2)
        block.norm.bias.normal_()
    query, key, value = block.query(tokens), block.key(memory), block.value(memory)
    share = (query @ key.mT / math.sqrt(6)).softmax(dim=2)

    def norm(x):
        mean = x.mean(dim=(1, 2), keepdim=True)
        deviation = (x.var(dim=(1, 2), keepdim=True, unbiased=False) + block.norm.eps).sqrt()
        return (x - mean) / deviation * block.norm.weight + block.norm.bias

    first = norm(tokens + share @ value)
    hidden = (first @ block.first.weight.mT).clamp_min(0)
    expected = norm(first + hidden @ block.second.weight.mT)
    torch.testing.assert_close(block(tokens, memory), expected)


def test_channel_cosines():
    first, second = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5)
    found = channel_cosines(first, second)
    for n in range(2):
        for c in range(3):
            a, b = first[n, c].flatten(), second[n, c].flatten()
            torch.testing.assert_close(found[n, c], a @ b / (a.norm() * b.norm()))
