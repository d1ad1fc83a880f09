"""The highest pixels and distances: however the values lie, as torch.topk finds them."""

import math

import pytest
import torch

SIZE = 70 * 100  # enough that a sample gives a bound


def values_of(kind: str, dtype: torch.dtype) -> torch.Tensor:
    """(2, 70, 100)."""
    x = torch.randn(2, SIZE, dtype=dtype)
    if kind == "sampled":  # every value that a sample looks at is among the highest
        x[:, :: SIZE // 1024 | 1] += 100
    elif kind == "equal":
        x = x.round()
    elif kind == "same":
        x.fill_(0.25)
    elif kind == "zeros":
        x = torch.where(x > 0, 0.0, -0.0).to(dtype)
    elif kind == "infinite":
        x[:, 5:900:7], x[:, 6::3] = math.inf, -math.inf
    elif kind == "nan":
        x[0, 17::50], x[1, 3] = math.nan, -math.nan
    return x.view(2, 70, 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 2, 70, 700, 874, 876, 5000, SIZE])
@pytest.mark.parametrize("kind", ["any", "sampled", "equal", "same", "zeros", "infinite", "nan"])
def test_top_share(kind, count, dtype):
    values = values_of(kind, dtype)
    scores, places = torch.ops.fastad.top_share(values, count)
    pixels = values.flatten(1)
    found = pixels.gather(1, places).sort(descending=True).values
    torch.testing.assert_close(found, pixels.topk(count).values, rtol=0, atol=0, equal_nan=True)
    assert all(len(set(row)) == count for row in places.tolist())
    torch.testing.assert_close(scores, found.double().mean(dim=1).to(dtype), equal_nan=True)


@pytest.mark.parametrize("hard", [0.0, 0.5, 0.87, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["any", "sampled", "equal", "same"])
def test_hard_loss(kind, hard):
    values = values_of(kind, torch.float32)
    loss, (grad,) = torch.ops.fastad.hard_loss([values], [1.0], hard, 0)
    quantile = values.flatten().sort().values[math.ceil(hard * (values.numel() - 1))]
    chosen = values >= quantile
    torch.testing.assert_close(loss.double(), values[chosen].double().mean(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad, chosen / chosen.sum())


def test_what_is_refused():
    x = torch.rand(2, 4, 5)
    for count in (0, 21):
        with pytest.raises(RuntimeError, match="count must be from 1 to the number of pixels"):
            torch.ops.fastad.top_share(x, count)
    with pytest.raises(RuntimeError, match="hard must be at least 0 and below 1, not 1"):
        torch.ops.fastad.hard_loss([x], [1.0], 1.0, 0)
    with pytest.raises(RuntimeError, match="spatial_weights must be finite and at least 0"):
        torch.ops.fastad.hard_loss([x], [1.0], 0.5, 0, [-x])
