"""Pixel scores from sorted runs, in memory and on disk: those of all maps at once, bit for bit."""

import errno
import os
import sys
import tempfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fastad.commands.output import reason
from fastad.evaluation import curve, pixel_metrics, pixels
from fastad.evaluation.pixels import PixelScores
from fastad.evaluation.runs import Store

KINDS = {
    "shifted": lambda rng, masks: rng.normal(size=masks.shape) + masks,
    "ties": lambda rng, masks: np.round(rng.normal(size=masks.shape) + masks, 1),
    "few values": lambda rng, masks: rng.integers(-1, 2, masks.shape),
    "constant": lambda rng, masks: np.zeros(masks.shape),
    "zeros of both signs": lambda rng, masks: rng.choice([-0.0, 0.0, 1e-45], masks.shape),
    "all magnitudes": lambda rng, masks: (
        np.exp(rng.uniform(-95, 88, masks.shape)) * rng.choice([-1, 1], masks.shape)
    ),
}
NAMES = (None, "scratch", "hole", "")


def random_case(kind, seed, count, shape, density):
    """Types, masks and maps of images, normal ones without a mask."""
    rng = np.random.default_rng(seed)
    types = [NAMES[i] for i in rng.integers(0, len(NAMES), count)]
    masks = np.kron(rng.random((count, *shape)) < density, np.ones((1, 2, 2), bool)).astype(bool)
    masks[[name is None for name in types]] = False
    return types, masks, KINDS[kind](rng, masks).astype(np.float32)


def collected(types, masks, maps, **options):
    scores = PixelScores(**options)
    for image in zip(types, masks, maps, strict=True):
        scores.update(*image)
    return scores


def expected(types, masks, maps, names, inside=None):
    rows = [i for i, name in enumerate(types) if name in names]
    return pixel_metrics(masks[rows], maps[rows], inside=inside)


@pytest.fixture
def small_blocks(monkeypatch):
    """Reads and sums of few rows."""
    monkeypatch.setattr(pixels, "LEAST_BLOCK", 3)
    monkeypatch.setattr(curve, "BLOCK", 16)


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the same for all examples
)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 2**31),
    count=st.integers(1, 20),
    shape=st.sampled_from([(1, 1), (3, 5), (7, 1), (8, 9)]),
    density=st.sampled_from([0.03, 0.3, 1.0]),
    memory_bytes=st.sampled_from([0, 2000, 20_000, 2**30]),
    inside=st.booleans(),
    wide=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_runs_join_to_the_bits_of_the_whole(
    small_blocks, kind, seed, count, shape, density, memory_bytes, inside, wide
):
    types, masks, maps = random_case(kind, seed, count, shape, density)
    rng = np.random.default_rng(seed)
    chosen = rng.random(masks.shape[1:]) < 0.7 if inside else None
    all_maps = maps.astype(np.float64)
    of_types = [m.astype("f8") * 1.1 if rng.random() < wide else m for m in maps]
    for i, values in enumerate(of_types):
        all_maps[i] = values
    found = collected(types, masks, of_types, memory_bytes=memory_bytes, inside=chosen)
    choices = [list(dict.fromkeys(types)), [None, "hole"], ["scratch"], [None]]
    for names, scores in zip(choices, found.compute(choices), strict=True):
        if not set(names) & set(types):
            assert np.isnan(list(scores.values())).all()
            continue
        truth = expected(types, masks, all_maps, names, chosen)
        np.testing.assert_array_equal(list(scores.values()), list(truth.values()))
        assert list(scores) == list(truth)


def test_scores_on_disk_are_those_of_scikit_learn(small_blocks):
    types, masks, maps = random_case("ties", 3, 20, (8, 9), 0.2)
    scores = collected(types, masks, maps, memory_bytes=1000)
    assert scores._store.on_disk
    [found] = scores.compute([NAMES])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()))
    truth = average_precision_score(masks.ravel(), maps.ravel())
    assert found["pixel_ap"] == pytest.approx(truth, rel=1e-12)


def test_scores_can_be_computed_in_between():
    types, masks, maps = random_case("ties", 1, 20, (8, 9), 0.2)
    scores = PixelScores(memory_bytes=3000)
    for i, image in enumerate(zip(types, masks, maps, strict=True)):
        scores.update(*image)
        if i in (7, 8, 19):
            part = types[: i + 1], masks[: i + 1], maps[: i + 1]
            assert scores.compute([NAMES]) == [expected(*part, NAMES)]


def test_a_buffer_may_be_used_again():
    types, masks, maps = random_case("shifted", 2, 6, (8, 9), 0.2)
    scores, buffer = PixelScores(), np.empty(maps.shape[1:], np.float32)
    for name, mask, values in zip(types, masks, maps, strict=True):
        buffer[:] = values
        scores.update(name, mask, buffer)
    assert scores.compute([NAMES]) == [expected(types, masks, maps, NAMES)]


def test_more_pairs_than_64_bits_count():
    """Half a million images of 256x256: 2 P N is above 2^64."""
    number = 2**35
    rows = curve.Rows(*(np.array([n]) for n in (1.0, number, 8.0, number // 2, number // 4)))
    scores = curve.Scores(number, number, 8)
    scores.add(rows)
    assert scores.auroc() == 1 - (0.5 + 0.125)


def test_memory_does_not_grow_with_the_maps():
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    mask[10:50, 10:50] = True

    def peak(count):
        tracemalloc.start()
        try:
            scores = PixelScores(memory_bytes=2**20)
            for _ in range(count):
                scores.update("hole", mask, rng.random(mask.shape, np.float32))
            scores.compute([["hole"]])
            return tracemalloc.get_traced_memory()[1], scores._store.nbytes
        finally:
            tracemalloc.stop()

    (few, _), (many, on_disk) = peak(10), peak(40)
    assert many - few < 2**20, "30 more maps are 7.5 MiB"
    assert on_disk <= 40 * (256**2 * 4 + 40**2 * 8)  # a row of 12 bytes for equal defect pixels


def many_maps(scores):
    for _ in range(20):
        scores.update(None, np.zeros((64, 64), bool), np.zeros((64, 64), np.float32))


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_one_error(tmp_path, monkeypatch):
    import resource

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            many_maps(PixelScores(memory_bytes=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert reason(caught.value) == (
        f"{tmp_path}: File too large: sorted pixels take 4 bytes a pixel of float32 maps here, and "
        "there is no room beyond 0 MiB. Name another folder by TMPDIR in the environment"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="a file there goes when its process ends")
def test_the_file_has_no_name_that_could_be_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scores = PixelScores(memory_bytes=100_000)
    many_maps(scores)
    assert scores._store.on_disk
    assert os.fstat(scores._store._file.fileno()).st_size > 200_000
    assert not list(tmp_path.iterdir())


def test_after_a_full_disk_nothing_is_computed(monkeypatch):
    class Full:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

        def write(self, data):
            if Full.file.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return Full.file.write(data[:700])  # a part, as of a file system

        def __getattr__(self, name):
            return getattr(Full.file, name)

    monkeypatch.setattr("fastad.evaluation.runs.tempfile.TemporaryFile", lambda **_: Full())
    store = Store(memory_bytes=500)
    first, second = np.arange(100.0), np.arange(25.0)
    kept = store.put(second), store.put(first)
    np.testing.assert_array_equal(store.get(kept[0]), second)
    np.testing.assert_array_equal(store.get(kept[1]), first)
    with pytest.raises(OSError, match="No space left on device: sorted pixels") as caught:
        store.put(first)
    assert reason(caught.value).startswith(tempfile.gettempdir())
    with pytest.raises(ValueError, match="closed"):
        store.get(kept[0])


def test_a_file_that_was_cut_off_is_an_error():
    store = Store(memory_bytes=0)
    kept = store.put(np.arange(100.0))
    store._file.truncate(80)
    with pytest.raises(OSError, match="is cut off"):
        store.get(kept)
