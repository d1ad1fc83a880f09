"""The score of anomaly_map, and its gradient."""

import math
import re

import numpy as np
import pytest
import torch
from pyramids import DTYPES, LAYOUTS, SHAPES, STORED, deviation, doubled, pyramid
from torch.autograd import gradcheck

from fastad import ops
from fastad.ops import reference

# With pixels in whole groups and not, and shares of one pixel, few and all.
SIZES = [(32, 48), (37, 50), (1, 1), (5, 7)]
SHARES = [1e-6, 0.01, 0.06, 0.3, 1.0]


def mean_of_highest(anomaly_map, share):
    """Image by image, by numpy's order."""
    scores = []
    for image in anomaly_map:
        values = np.sort(image.detach().numpy(), axis=None)
        least = values[-max(round(share * values.size), 1)]
        count = max(round(share * values.size), 1)
        above = image[image > least]
        scores.append((above.sum() + (count - above.numel()) * float(least)) / count)
    return torch.stack(scores)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("aggregate", ["product", "sum"])
def test_values(aggregate, size, share):
    teacher, student = pyramid(SHAPES["odd"], 3), pyramid(SHAPES["odd"], 3)
    options = {"aggregate": aggregate}
    expected = ops.anomaly_map(teacher, student, size, **options)
    for grad in (False, True):
        student = [s.requires_grad_(grad) for s in student]
        found, score = ops.anomaly_map(teacher, student, size, score="maximum", **options)
        assert torch.equal(found, expected)
        assert torch.equal(score, expected.amax(dim=(1, 2)))
        assert score.requires_grad is grad
        options["score"] = "top_share"
        found, score = ops.anomaly_map(teacher, student, size, share=share, **options)
        del options["score"]
        assert torch.equal(found, expected)
        assert deviation(score, mean_of_highest(expected.double(), share)) < 1e-6
        assert score.requires_grad is grad
        assert deviation(reference.score(expected, "top_share", share), score.double()) < 1e-6


@pytest.mark.parametrize("layouts", [(a, b) for a in LAYOUTS for b in LAYOUTS], ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("score", "share"), [("maximum", 0.01), ("top_share", 0.02)])
def test_gradients(score, share, dtype, layouts):
    shapes = SHAPES["blocks"] + SHAPES["odd"]
    teacher = pyramid(shapes, dtype=dtype, layout=layouts[0], requires_grad=True)
    student = pyramid(shapes, dtype=dtype, layout=layouts[1], requires_grad=True)
    exact_teacher, exact_student = doubled(teacher), doubled(student)
    found, scores = ops.anomaly_map(teacher, student, (64, 48), score=score, share=share)
    exact = reference.anomaly_map(exact_teacher, exact_student, (64, 48))
    count = max(round(share * 64 * 48), 1) if score == "top_share" else 1
    # The pixels that the op has found: rounding decides which of nearly equal ones.
    highest = found.detach().flatten(1).topk(count).indices
    expected = exact.flatten(1).gather(1, highest).mean(dim=1)
    assert deviation(scores, expected) < 2e-5
    upstream = torch.randn_like(expected)
    grads = torch.autograd.grad(scores, [*teacher, *student], upstream.to(scores.dtype))
    exact = torch.autograd.grad(expected, [*exact_teacher, *exact_student], upstream)
    # A distance of 33 channels at one place is all that some levels have.
    assert max(map(deviation, grads, exact)) < 4 * STORED[dtype]


def test_equal_highest_pixels_share_the_gradient_of_the_maximum():
    teacher = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()]
    student = [torch.tensor([1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone()]
    student[0].requires_grad_()
    _, score = ops.anomaly_map(teacher, student, (2, 2), score="maximum")
    (grad,) = torch.autograd.grad(score.sum(), student)
    torch.testing.assert_close(grad, grad[..., :1, :1].expand_as(grad))
    assert (grad != 0).all()


def test_nan_is_the_score():
    teacher, student = pyramid([(8, 16, 16)]), pyramid([(8, 16, 16)])
    student[0][1, 3, 1, 2] = math.nan
    for score in reference.SCORES:
        _, found = ops.anomaly_map(teacher, student, (16, 16), score=score)
        assert found.isnan().tolist() == [False, True]


def test_empty_batch():
    teacher, student = pyramid(SHAPES["odd"], 0), pyramid(SHAPES["odd"], 0, requires_grad=True)
    for score in reference.SCORES:
        _, found = ops.anomaly_map(teacher, student, (16, 16), score=score)
        assert found.shape == (0,)
        assert torch.autograd.grad(found.sum(), student)[0].shape == student[0].shape


@pytest.mark.parametrize("score", reference.SCORES)
def test_gradcheck_and_gradients_of_gradients(score):
    shapes = [(5, 4, 3), (3, 2, 2)]
    teacher = pyramid(shapes, dtype=torch.float64)
    student = pyramid(shapes, dtype=torch.float64, requires_grad=True)

    def function(*s):
        return ops.anomaly_map(teacher, list(s), (8, 6), score=score, share=0.1)[1]

    assert gradcheck(function, student)
    grads = torch.autograd.grad(function(*student).sum(), student, create_graph=True)
    found = torch.autograd.grad(sum(g.square().sum() for g in grads), student)
    plain = reference.score(reference.anomaly_map(teacher, student, (8, 6)), score, 0.1)
    grads = torch.autograd.grad(plain.sum(), student, create_graph=True)
    expected = torch.autograd.grad(sum(g.square().sum() for g in grads), student)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_compile_and_export():
    class Scores(torch.nn.Module):
        def forward(self, teacher, student):
            scores = [
                ops.anomaly_map(teacher, student, (32, 16), score=score)[1]
                for score in reference.SCORES
            ]
            return torch.stack(scores)

    shapes = [(5, 4, 3), (3, 2, 2)]
    compiled = torch.compile(Scores(), backend="aot_eager", fullgraph=True, dynamic=True)
    batch = torch.export.Dim("batch")
    free = tuple([{0: batch}, {0: batch}] for _ in range(2))
    program = torch.export.export(Scores(), (pyramid(shapes), pyramid(shapes)), dynamic_shapes=free)
    for count in (2, 5):
        teacher, student = pyramid(shapes, count), pyramid(shapes, count, requires_grad=True)
        expected, found = Scores()(teacher, student), compiled(teacher, student)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(program.module()(teacher, student), expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), student), torch.autograd.grad(expected.sum(), student)
        )


X = torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"score": "mean"}, ValueError, "score must be None or one of ['maximum', 'top_share']"),
        ({"score": True}, ValueError, "score must be None or one of ['maximum', 'top_share']"),
        ({"score": "maximum", "return_maximum": True}, ValueError, "score and return_maximum"),
        ({"score": "top_share", "share": 0}, ValueError, "share must be above 0 and at most 1"),
        ({"score": "top_share", "share": 1.1}, ValueError, "share must be above 0 and at most 1"),
        ({"score": "top_share", "share": math.nan}, ValueError, "share must be above 0"),
        ({"score": "top_share", "share": "1"}, TypeError, "share must be a number"),
        ({"score": "top_share", "share": True}, TypeError, "share must be a number"),
    ],
)
def test_errors(options, error, match):
    with pytest.raises(error, match=re.escape(match)):
        ops.anomaly_map([X], [X], (8, 8), **options)
