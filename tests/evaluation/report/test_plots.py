"""Plots: valid vector graphics in one style, the same every time."""

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from fastad.evaluation.report.plots import (
    BINS,
    Line,
    _edges,
    _thinned,
    curve_plot,
    epochs_plot,
    score_plot,
)

SVG = "{http://www.w3.org/2000/svg}"
RNG = np.random.default_rng(0)
NORMAL, DEFECTIVE, HELD_OUT = RNG.lognormal(-4, 0.4, (3, 30)) * [[1], [8], [1]]


def texts(svg):
    return ["".join(t.itertext()).strip() for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def curve(points=5000):
    return np.linspace(0, 1, points), np.sqrt(np.linspace(0, 1, points))


def test_histograms_say_how_many_and_how_many_above():
    found = texts(score_plot(NORMAL, DEFECTIVE, HELD_OUT, 0.03))
    for name, values in (
        ("held-out good images", HELD_OUT),
        ("good test images", NORMAL),
        ("defective test images", DEFECTIVE),
    ):
        assert f"{name}: {len(values)}" in found
        assert f"{(values > 0.03).sum()} above the threshold" in found


@pytest.mark.parametrize(
    "scores",
    [
        (NORMAL, DEFECTIVE, np.empty(0)),
        (NORMAL, np.empty(0), np.empty(0)),
        (np.array([0.5]), np.array([0.5]), np.array([0.5])),
        (NORMAL - 5, DEFECTIVE * 1e6, HELD_OUT),
        (NORMAL * 1e-30, DEFECTIVE, HELD_OUT),
    ],
)
@pytest.mark.parametrize("threshold", [None, 0.5, 1e-8])
def test_any_scores_can_be_drawn(scores, threshold):
    found = texts(score_plot(*scores, threshold))
    assert sum("images: " in text for text in found) == sum(len(s) > 0 for s in scores)


def test_epochs_have_a_panel_for_what_there_is():
    losses = [{"pair1": 3.0, "pair2": 2.0}, {"pair1": 1.5, "pair2": float("nan")}]
    found = texts(epochs_plot(losses, [0.5, 0.25], [0.8, 0.9], 2))
    assert {"losses", "error on held-out good images", "AUROC on synthesised defects"} <= set(found)
    assert {"pair1", "pair2"} <= set(found)
    found = texts(epochs_plot([{"loss": 1.0}] * 40, [0.5] * 40, [], None))
    assert "AUROC on synthesised defects" not in found
    assert "loss" not in found  # one line needs no name
    assert texts(epochs_plot([], [0.5], [], 1)).count("epoch") == 1


@pytest.mark.parametrize("logarithmic", [False, True])
def test_no_bar_is_on_both_sides_of_the_threshold(logarithmic):
    values = np.concatenate([NORMAL, DEFECTIVE])
    threshold = float(NORMAL[3])  # exactly a score, which is not above it
    edges = _edges(values, threshold, logarithmic)
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= BINS + 5
    counts = np.histogram(values, edges)[0]
    assert counts.sum() == len(values)
    assert counts[edges[1:] > np.nextafter(threshold, 2)].sum() == (values > threshold).sum()


def test_curves_are_named_and_marked():
    lines = [Line("image AUROC 0.9", curve(), False, (0.1, 0.8)), Line("pixels", curve(), True)]
    found = texts(curve_plot("ROC", "x", "y", lines))
    assert {"ROC", "x", "y", "image AUROC 0.9", "pixels", "at the threshold"} <= set(found)


def test_a_limit_ends_the_axis():
    found = texts(curve_plot("PRO", "x", "y", [Line("AUPRO", curve(), True)], x_limit=0.3))
    assert "0.30" in found
    assert "1.00" not in found


def test_drawn_points_stay_on_the_curve_and_are_few():
    x, y = curve(200_000)
    thin_x, thin_y = _thinned(x, y, 1.0)
    assert len(thin_x) < 2000
    np.testing.assert_allclose(np.interp(x, thin_x, thin_y), y, atol=0.005)
    assert (thin_x[0], thin_x[-1]) == (0, 1)


def test_a_step_stays_steep():
    x, y = np.linspace(0, 1, 1001), np.zeros(1001)
    y[500:] = 1
    thin_x, thin_y = _thinned(x, y, 1.0)
    at = np.flatnonzero(np.diff(thin_y))
    assert (thin_x[at], thin_x[at + 1]) == (x[499], x[500])


def test_plots_are_the_same_every_time_whatever_the_users_settings(monkeypatch):
    first = curve_plot("ROC", "x", "y", [Line("a", curve(), False)])
    with matplotlib.rc_context({"lines.linewidth": 9, "text.usetex": True, "font.size": 30}):
        assert curve_plot("ROC", "x", "y", [Line("a", curve(), False)]) == first
        assert matplotlib.rcParams["font.size"] == 30
    assert b"<dc:date>" not in first


def test_text_is_text_in_the_readers_font():
    svg = score_plot(NORMAL, DEFECTIVE, HELD_OUT, 0.03).decode()
    families = set(re.findall(r"font-family: ([^;]*);", svg))
    assert len(families) == 1
    assert families.pop().startswith("system-ui")
    assert "DejaVu" not in svg
