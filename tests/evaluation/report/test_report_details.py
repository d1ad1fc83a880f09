"""Large images: places in full resolution."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from fastad.data import Sample
from fastad.evaluation.report.details import SIDE, details_of
from fastad.evaluation.report.gallery import Gallery
from fastad.evaluation.report.report import Report

SIZE = (900, 1300)


def a_map(*places):
    found = np.zeros(SIZE, np.float32)
    for row, column, value in places:
        found[row : row + 4, column : column + 4] = value
    return found


def test_the_highest_places_and_a_defect_that_is_missed():
    mask = np.zeros(SIZE, bool)
    mask[700:710, 100:120] = True
    found = a_map((10, 1200, 2.0), (14, 1190, 1.9), (500, 600, 1.5), (705, 110, 0.2))
    details = details_of(found, mask)
    assert [(d.top, d.left) for d in details] == [(0, 1300 - SIDE), (372, 472), (577, 0)]
    assert [bool(d.truth.any()) for d in details] == [False, False, True]
    for detail in details:
        part = found[detail.top : detail.top + SIDE, detail.left : detail.left + SIDE]
        np.testing.assert_allclose(detail.values * np.float32(detail.peak), part, atol=1e-3)
    assert details[0].box(SIZE, (1800, 1300)) == (0, 1300 - SIDE, 2 * SIDE, 1300)
    assert details_of(a_map(), None) == ()


def test_small_maps_have_none():
    gallery = Gallery(0.5)
    gallery.add(Sample(Path("a.png"), 1, "hole"), 1.0, np.ones((64, 64), np.float32), None)
    assert gallery.groups()[0].shown[0].details == ()


def test_the_page_shows_them(tmp_path):
    path, found = tmp_path / "scratch" / "0.png", a_map((600, 800, 1.0))
    path.parent.mkdir()
    pixels = np.kron((found * 255).astype(np.uint8), np.ones((2, 2), np.uint8))
    Image.fromarray(pixels).save(path)  # twice as large as the map
    report = Report(threshold=0.5, pixel_threshold=0.5)
    report.observe(Sample(path, 1, "scratch"), 1.0, found, found > 0)
    metrics = dict.fromkeys(
        ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max"), 1.0
    ) | {"aupro": 1.0, "per_defect": {}}
    page = report.write(tmp_path / "report", metrics, title="part", facts={}).read_text()
    with Image.open(tmp_path / "report/pictures/0001-part-1.jpg") as part:
        assert part.size == (2 * SIDE, 2 * SIDE)
        bright = np.argwhere(np.asarray(part.convert("L")) > 128)
    middle = [SIDE, SIDE]
    assert bright.min(axis=0).tolist() == middle
    assert (bright.max(axis=0) - middle).tolist() == [7, 7]
    assert "rows 944 to 1456, columns 1344 to 1856" in page
    paths = re.findall(r'<path id="(\w+)-1-1" d="M(\d+) (\d+)', page)
    assert [kind for kind, *_ in paths] == ["predicted", "truth"]
    assert all(1270 < int(x) < 1330 and 1270 < int(y) < 1330 for _, x, y in paths)
