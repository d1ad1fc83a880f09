"""The numbers of a report, against scipy and against the thresholds they speak of."""

import html
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fastad._html import template
from fastad.evaluation.report.numbers import (
    decisions,
    defect_rows,
    image_auroc_interval,
    number,
    percent,
    promised,
    wilson,
)
from fastad.inference import conformal_threshold


def block(name, **values):
    """A block of the page, alone."""
    page = template("fastad.evaluation.report", "page.html")
    context = page.new_context(values | {"number": number, "percent": percent})
    return "".join(page.blocks[name](context))


def verdict(metrics, labels, scores, calibration, threshold):
    text = block(
        "verdict",
        metrics=metrics,
        decisions=decisions(labels, scores, calibration, threshold, None),
        image_auroc_interval=image_auroc_interval(metrics),
    )
    return html.unescape(text)


def threshold_table(labels, scores, calibration, threshold, asked):
    decided = decisions(labels, scores, calibration, threshold, asked)
    return html.unescape(block("threshold", decisions=decided))


def defect_table(*arguments):
    return block("types", rows=defect_rows(*arguments))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.000"),
        (1 - 1e-15, "1.000"),
        (0.99996, ">0.999"),
        (0.9994, "0.999"),
        (0.5, "0.500"),
        (math.nan, "-"),
        (None, "-"),
    ],
)
def test_what_is_not_perfect_never_looks_perfect(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0%"), (0.01, "1.0%"), (0.0234, "2.3%"), (0.0999, "10%"), (1, "100%")]
)
def test_percent(rate, text):
    assert percent(rate) == text


@given(st.integers(1, 3000), st.floats(0, 1))
def test_the_interval_is_wilsons(total, part):
    hits = round(part * total)
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson(hits, total) == pytest.approx((interval.low, interval.high), abs=1e-6)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=300, unique=True),
    st.sampled_from([0.001, 0.01, 0.05, 0.1, 0.3]),
)
def test_the_promise_is_that_of_the_conformal_threshold(calibration, rate):
    calibration = np.array(calibration)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = promised(calibration, conformal_threshold(calibration, rate))
    n = len(calibration)
    if rate * (n + 1) >= 1:
        assert rate - 1 / (n + 1) < kept <= rate + 1e-9
    else:
        assert kept == 1 / (n + 1)


LABELS = np.array([0, 0, 0, 0, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.5, 0.6, 0.5, 0.9, 0.8])
TYPES = ["good"] * 4 + ["<hole>", "<hole>", "crack"]
ROW = dict.fromkeys(
    ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max"), 0.75
) | {"aupro": math.nan}
METRICS = ROW | {"per_defect": {"<hole>": ROW, "crack": ROW}}


def test_the_verdict_counts_what_is_above_the_threshold():
    text = verdict(METRICS, LABELS, SCORES, np.linspace(0, 0.5, 9), 0.5)
    assert "finds 2 of 3 defective images and calls 1 of 4 good ones defective" in text
    assert "promised: at most 10%" in text
    assert "of whole images" in text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((0.71234, 0.99999), "95% interval 0.712 to >0.999"),
        ([0.5, 0.6], "95% interval 0.500 to 0.600"),
        ((math.nan, math.nan), "of whole images"),
        (None, "of whole images"),
    ],
)
def test_the_interval_of_the_auroc_is_shown_where_there_is_one(interval, text):
    metrics = METRICS | {"image_auroc_interval": interval}
    assert text in verdict(metrics, LABELS, SCORES, np.empty(0), None)


def test_without_a_threshold_nothing_is_promised():
    text = verdict(METRICS, LABELS, SCORES, np.empty(0), None)
    assert "has no threshold" in text
    assert "False alarms" not in text
    assert "nothing to promise" in threshold_table(LABELS, SCORES, np.empty(0), None, 0.01)
    assert "promises nothing" in threshold_table(LABELS, SCORES, np.empty(0), 0.5, 0.01)


def test_a_rate_that_cannot_be_kept_is_said():
    calibration = np.linspace(0, 0.5, 42)
    text = threshold_table(LABELS, SCORES, calibration, 0.5, 0.01)
    assert "42 held-out images cannot keep 1.0%: that takes 99" in text
    assert "at most 2.3%" in text
    assert "25%, 1 of 4" in text
    assert "cannot keep" not in threshold_table(LABELS, SCORES, calibration, 0.5, 0.03)


def test_images_of_one_class_only():
    assert "finds 2 of 3 defective images." in verdict(
        METRICS, LABELS[4:], SCORES[4:], np.empty(0), 0.5
    )
    assert "calls 1 of 4 good ones defective." in verdict(
        METRICS, LABELS[:4], SCORES[:4], np.empty(0), 0.5
    )


def test_a_row_for_every_type():
    text = defect_table(METRICS, LABELS, SCORES, TYPES, 0.5)
    rows = [row.split("<td")[:4] for row in text.split("<tr")[2:]]
    cells = [[cell.split(">")[-2].split("<")[0] for cell in row] for row in rows]
    assert cells == [
        ["all defects", "3", "2", "0.8"],
        ["&lt;hole&gt;", "2", "1", "0.7"],
        ["crack", "1", "1", "0.8"],
    ]
    assert "<hole>" not in text
    assert text.count('class="oracle"') == 6
