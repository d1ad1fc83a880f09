"""Which images are kept, and that memory stays bounded."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fastad.data import Sample
from fastad.evaluation.report import gallery as report_gallery
from fastad.evaluation.report.gallery import MAP_SIDE, PER_TYPE, WORST, Gallery

MAP = np.ones((4, 4), np.float32)


def sample(number, label, kind):
    return Sample(Path(f"{kind}/{number}.png"), label, kind)


def filled(threshold, rows):
    gallery = Gallery(threshold)
    for number, (label, kind, score) in enumerate(rows):
        gallery.add(sample(number, label, kind), score, MAP, None)
    return gallery.groups()


def test_the_worst_are_kept_the_worst_first():
    rng = np.random.default_rng(0)
    kinds = [(0, "good"), (1, "hole"), (1, "crack")]
    rows = [(*kinds[rng.integers(3)], float(rng.integers(0, 60))) for _ in range(900)]
    groups = filled(30.0, rows)
    assert [g.kind for g in groups[:2]] == ["missed", "false alarm"]
    assert {(g.kind, g.name) for g in groups[2:]} == {
        ("defect", "hole"),
        ("defect", "crack"),
        ("good", "good"),
    }
    assert groups[-1].kind == "good"
    expected = {
        ("missed", ""): sorted(s for label, _, s in rows if label and s <= 30),
        ("false alarm", ""): sorted((s for label, _, s in rows if not label and s > 30))[::-1],
        ("good", "good"): sorted((s for label, _, s in rows if not label and s <= 30))[::-1],
    }
    for kind in ("hole", "crack"):
        expected["defect", kind] = sorted(s for _, k, s in rows if k == kind and s > 30)
    for group in groups:
        scores = expected[group.kind, group.name]
        room = WORST if group.name == "" else PER_TYPE
        assert [shown.score for shown in group.shown] == scores[:room]
        assert group.total == len(scores)


def test_of_equals_the_first_stay_in_their_order():
    [group] = filled(0.5, [(0, "good", 0.0)] * 40)
    assert [shown.sample.path.stem for shown in group.shown] == [str(i) for i in range(PER_TYPE)]


def test_a_score_equal_to_the_threshold_is_not_above_it():
    assert [g.kind for g in filled(0.5, [(1, "hole", 0.5), (0, "good", 0.5)])] == ["missed", "good"]


def test_without_a_threshold_nothing_is_wrong():
    groups = filled(None, [(1, "hole", 0.0), (0, "good", 9.0)])
    assert [(g.kind, g.name) for g in groups] == [("defect", "hole"), ("good", "good")]


def test_a_defect_type_may_be_named_like_the_good_images():
    groups = filled(0.5, [(0, "good", 0.0), (1, "good", 1.0)])
    assert [(g.kind, g.total) for g in groups] == [("defect", 1), ("good", 1)]


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30, -2.0])
def test_maps_are_copied_and_keep_their_values(factor):
    rng = np.random.default_rng(0)
    values = (rng.uniform(0.1, 1, (37, 20)) * factor).astype(np.float32)
    mask = values > np.median(values)
    before, mask_before = values.copy(), mask.copy()
    gallery = Gallery(None)
    gallery.add(sample(0, 1, "hole"), 1.0, values, mask)
    values[:], mask[:] = 0, False
    [shown] = gallery.groups()[0].shown
    np.testing.assert_allclose(shown.anomaly_map.astype(float) * shown.peak, before, rtol=1e-3)
    np.testing.assert_array_equal(shown.truth, mask_before)


def test_a_map_of_zeros():
    gallery = Gallery(None)
    gallery.add(sample(0, 0, "good"), 0.0, np.zeros((3, 5), np.float64), None)
    [shown] = gallery.groups()[0].shown
    assert not shown.anomaly_map.any()
    assert shown.truth is None


@pytest.mark.parametrize("shape", [(2048, 16), (700, 1400), (1, 3000)])
def test_large_maps_are_kept_smaller(shape):
    values = np.full(shape, 3.0, np.float32)
    gallery = Gallery(None)
    gallery.add(sample(0, 1, "hole"), 1.0, values, np.ones(shape, bool))
    [shown] = gallery.groups()[0].shown
    assert max(shown.anomaly_map.shape) == MAP_SIDE
    assert shown.truth.shape == shown.anomaly_map.shape
    assert shown.truth.all()
    np.testing.assert_allclose(shown.anomaly_map.astype(float) * shown.peak, 3.0, rtol=1e-3)


def test_memory_does_not_grow_with_the_images(monkeypatch):
    monkeypatch.setattr(report_gallery, "WORST", 3)
    monkeypatch.setattr(report_gallery, "PER_TYPE", 3)
    rng = np.random.default_rng(0)

    def peak(images):
        gallery = Gallery(0.5)
        tracemalloc.start()
        try:
            for i in range(images):
                maps = rng.random((64, 64), dtype=np.float32)
                gallery.add(sample(i, i % 2, "type"), float(rng.random()), maps, maps > 0.5)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(40)
    # The least of three: threads that other tests left behind are traced, too.
    more = min(peak(4000) for _ in range(3)) - peak(40)
    assert more < 2**16, "3960 more maps of 8 KiB are 31 MiB"
