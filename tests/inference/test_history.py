"""Numbers that are kept, and what memory they take."""

import numpy as np
import pytest

from fastad.inference import history
from fastad.inference.history import History


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17, 100, 1000])
def test_every_so_manyth_number_is_kept(count, monkeypatch):
    monkeypatch.setattr(history, "MOST", 8)
    kept = History()
    for number in range(count):
        kept.add(float(number))
    assert kept.count == count
    np.testing.assert_array_equal(kept.values(), np.arange(0, count, kept.step))
    assert len(kept.values()) <= 8
    assert kept.step == 1 or len(kept.values()) > 4


def test_few_numbers_are_all_kept():
    kept = History()
    for number in range(500):
        kept.add(float(number))
    np.testing.assert_array_equal(kept.values(), np.arange(500.0))
