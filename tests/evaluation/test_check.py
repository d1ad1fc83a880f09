"""Synthesised defects on good images: what is counted, how surely, and what is said of it."""

import json
import math
from itertools import chain, product

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from fastad.data import TrialDefects
from fastad.data.synthesis.trial import KINDS, SIZES
from fastad.evaluation import CheckResult, ExactShare, aupro, check, exact_interval, pixel_auroc
from fastad.evaluation.check import ALARMS, CHANCE, UNCERTAIN

COUNT = 60
IMAGES = torch.randint(
    100, 140, (8, 3, 96, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (0, 43), (1, 43), (38, 150), (43, 43)])
def test_interval_is_scipys(hits, total):
    expected = stats.binomtest(hits, total).proportion_ci(0.95, method="exact")
    assert exact_interval(hits, total) == pytest.approx(tuple(expected), abs=1e-12)


def test_interval_of_none_and_all_has_a_closed_form():
    assert exact_interval(0, 20, 0.9) == pytest.approx((0, 1 - 0.05 ** (1 / 20)), abs=1e-14)
    assert exact_interval(20, 20, 0.9) == pytest.approx((0.05 ** (1 / 20), 1), abs=1e-14)


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (0, 0), (1, 5, 0.0), (1, 5, 1.0)])
def test_interval_refuses_what_is_no_share(arguments):
    with pytest.raises(ValueError, match="must be"):
        exact_interval(*arguments)


def test_shares_without_images_have_no_rate():
    empty = ExactShare(0, 0)
    assert empty.to_dict() == {"hits": 0, "total": 0, "rate": None, "interval": None}
    assert empty + ExactShare(2, 3) == ExactShare(2, 3)


def test_other_conditions_are_counted_on_the_same_images():
    def predict(batch):
        means = batch.double().mean((1, 2, 3)).numpy()
        return means, np.zeros(batch[:, 0].shape, np.float32)

    means = np.sort(IMAGES.double().mean((1, 2, 3)).numpy())
    threshold = means[-2:].mean()  # one of the eight is above it
    names = ("light -20 %", "light +20 %", "shift -5 px")
    done = []
    result = check(
        predict,
        IMAGES,
        threshold=threshold,
        count=15,
        batch_size=3,
        disturbances=names,
        progress=lambda *numbers: done.append(numbers),
    )
    assert list(result.disturbed) == ["undisturbed", *names]
    assert result.disturbed["undisturbed"] == ExactShare(1, 8)
    assert result.disturbed["light -20 %"] == ExactShare(0, 8)
    assert result.disturbed["light +20 %"] == ExactShare(8, 8)
    assert done[-1] == (8 + 15 + 3 * 8,) * 2
    of_json = result.to_dict()["false_alarms_under_other_conditions"]
    assert of_json["light +20 %"]["rate"] == 1
    without = check(predict, IMAGES, threshold=threshold, count=15)
    assert without.disturbed == {}
    assert without.new_alarms == result.new_alarms == ExactShare(1, 8)


def test_of_many_images_a_hundred_are_disturbed():
    images = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 32, 32)

    def predict(batch):
        return batch[:, 0, 0, 0].double().numpy(), np.zeros(batch[:, 0].shape, np.float32)

    result = check(predict, images, threshold=124.5, count=15, disturbances=["light +20 %"])
    # Brightness 0, 2 or 3, 5, ...: those from 125 on, and 1.2 times as bright from 104 on.
    shown = [index * 250 // 100 for index in range(100)]
    assert result.disturbed["undisturbed"] == ExactShare(sum(n > 124.5 for n in shown), 100)
    assert result.disturbed["light +20 %"] == ExactShare(sum(1.2 * n > 124.5 for n in shown), 100)


class Oracle:
    """Knows the defects: scores images by a function of the mask, maps by the mask itself."""

    def __init__(self, score, images=IMAGES, alarms=()):
        self.known = {image.numpy().tobytes(): n for n, image in enumerate(images)}
        self.images, self.score, self.alarms = images, score, alarms
        self.batches = []

    def __call__(self, batch):
        self.batches.append(len(batch))
        scores, maps = [], []
        for image in batch:
            n = self.known.get(image.numpy().tobytes())
            change = (self.images.short() - image.short()).abs().amax(1)  # (n, H, W)
            changed = change[change.sum((1, 2)).argmin()] if n is None else torch.zeros(96, 80)
            scores.append(float(n in self.alarms) if n is not None else self.score(changed))
            maps.append(changed.numpy().astype(np.float32))
        return np.array(scores), np.stack(maps)


def is_large(changed):
    return float((changed > 0).float().mean() > 0.006)


def test_a_detector_that_finds_exactly_the_large_ones():
    seen = []
    check(Oracle(is_large), IMAGES, threshold=0.5, count=COUNT, observe=seen.append)
    large = {t.image.tobytes() for t in seen if t.size == "large"}
    assert len(large) == COUNT // 3

    def predict(batch):
        known = [image.permute(1, 2, 0).numpy().tobytes() in large for image in batch]
        return np.array(known, dtype=float), np.zeros(batch[:, 0].shape, np.float32)

    result = check(predict, IMAGES, threshold=0.5, count=COUNT)
    each = COUNT // 15
    for kind in KINDS:
        assert result.found[kind] == {
            "small": ExactShare(0, each),
            "medium": ExactShare(0, each),
            "large": ExactShare(each, each),
        }
    assert result.by_kind["dent"] == ExactShare(each, 3 * each)
    assert result.by_size["large"] == ExactShare(COUNT // 3, COUNT // 3)
    assert result.total == ExactShare(COUNT // 3, COUNT)
    assert result.new_alarms == ExactShare(0, 8)
    assert result.image_auroc == pytest.approx(1 / 3 + 2 / 3 / 2)  # the others tie
    assert result.verdict == "weak"


def test_a_detector_that_finds_what_covers_much():
    seen = []
    result = check(Oracle(is_large), IMAGES, threshold=0.5, count=COUNT, observe=seen.append)
    for kind, size in product(KINDS, SIZES):
        own = [t for t in seen if (t.kind, t.size) == (kind, size)]
        hits = sum((t.anomaly_map > 0).mean() > 0.006 for t in own)
        assert result.found[kind][size] == ExactShare(hits, COUNT // 15)
    assert [result.found["spot"][size].hits for size in SIZES][::2] == [0, COUNT // 15]


def test_scores_are_those_of_the_same_images():
    seen = []
    noise = np.random.default_rng(3)
    oracle = Oracle(lambda changed: float(changed.float().mean()) + noise.normal(0, 0.3))
    result = check(oracle, IMAGES, threshold=0.5, count=COUNT, seed=2, observe=seen.append)
    labels = [0] * len(IMAGES) + [1] * COUNT
    scores = [0.0] * len(IMAGES) + [t.score for t in seen]
    assert 0.5 < result.image_auroc < 1
    assert result.image_auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    clean = np.zeros(IMAGES[:, 0].shape)
    masks = np.concatenate([clean.astype(bool), [t.mask for t in seen]])
    maps = np.concatenate([clean, [t.anomaly_map for t in seen]]).astype(np.float32)
    assert result.pixel_auroc == pytest.approx(pixel_auroc(masks, maps), abs=1e-12)
    assert result.aupro == pytest.approx(aupro(masks, maps), abs=1e-12)
    own = [t.score for t in seen if t.kind == "dent"]
    expected = roc_auc_score([0] * 8 + [1] * len(own), scores[:8] + own)
    assert result.per_kind["dent"]["image_auroc"] == pytest.approx(expected, abs=1e-12)


def test_alarms_of_held_out_images_are_counted_apart():
    oracle = Oracle(is_large, alarms=(1, 2, 6))
    result = check(oracle, IMAGES, [0, 1, 2, 6, 7], threshold=0.5, held_out={0, 1}, count=15)
    assert (result.held_out_alarms, result.new_alarms) == (ExactShare(1, 2), ExactShare(2, 3))
    assert result.alarms == ExactShare(2, 3)
    assert "2 false alarms in 3 new good images" in result.summary
    alone = check(oracle, IMAGES, [0, 1], threshold=0.5, held_out={0, 1}, count=15)
    assert alone.alarms == ExactShare(1, 2)
    assert "1 false alarm in 2 held-out good images" in alone.summary


def test_every_detector_gets_the_same_defects_on_images_used_as_often():
    def tried(seed, batch_size):
        seen = []
        oracle = Oracle(is_large)
        check(
            oracle,
            IMAGES,
            threshold=0.5,
            count=45,
            seed=seed,
            batch_size=batch_size,
            observe=lambda t: seen.append((t.kind, t.size, t.image.tobytes(), t.mask.tobytes())),
        )
        assert max(oracle.batches) == batch_size
        return seen

    assert tried(0, 4) == tried(0, 7)
    assert tried(0, 4) != tried(1, 4)


def test_no_kind_is_bound_to_an_image():
    images = IMAGES[:5]  # five kinds in turn on five images in turn would be pairs
    seen = {}

    def observe(tried):
        change = np.abs(images.numpy().astype(int) - tried.image.transpose(2, 0, 1)).sum((1, 2, 3))
        seen.setdefault(tried.kind, []).append(int(change.argmin()))

    check(Oracle(is_large, images), images, threshold=0.5, count=75, observe=observe)
    assert all(len(set(places)) >= 3 for places in seen.values())
    assert [[*chain(*seen.values())].count(n) for n in range(5)] == [15] * 5


def test_of_many_images_the_defects_are_spread_over_all():
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    places = []

    class Watched:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            places.append(index)
            return {"image": images[index]}

    def predict(batch):
        return np.zeros(len(batch)), np.zeros((len(batch), 32, 32), np.float32)

    check(predict, Watched(), threshold=0.5, count=10)
    assert places[:40] == list(range(40))
    assert sorted(places[40:]) == np.linspace(0, 39, 10).round().astype(int).tolist()


def test_a_score_at_the_threshold_is_not_above_it():
    def predict(batch):
        return np.full(len(batch), 0.5), np.zeros(batch[:, 0].shape, np.float32)

    result = check(predict, IMAGES, threshold=0.5, count=15)
    assert (result.total.hits, result.new_alarms.hits) == (0, 0)
    result = check(predict, IMAGES, threshold=np.nextafter(0.5, 0), count=15)
    assert (result.total.hits, result.new_alarms.hits) == (15, 8)


def result_of(found, alarms, promised=0.01, interval=(0.9, 1.0)):
    cells = {kind: {size: ExactShare(*found) for size in SIZES} for kind in KINDS}
    return CheckResult(
        threshold=0.5,
        promised=promised,
        found=cells,
        new_alarms=ExactShare(*alarms),
        held_out_alarms=ExactShare(0, 20),
        image_auroc=0.95,
        image_auroc_interval=interval,
        pixel_auroc=0.9,
        aupro=0.8,
        per_kind={},
        seed=0,
    )


@pytest.mark.parametrize(
    ("found", "alarms", "interval", "verdict"),
    [
        ((8, 10), (0, 50), (0.9, 1.0), "strong"),
        ((79, 100), (0, 50), (0.9, 1.0), "fair"),
        ((5, 10), (0, 50), (0.9, 1.0), "fair"),
        ((49, 100), (0, 50), (0.9, 1.0), "weak"),
        ((0, 10), (0, 50), (0.9, 1.0), "weak"),
        ((10, 10), (1, 50), (0.9, 1.0), "strong"),  # 0.05 % to 10.6 %: 1 % may be kept
        ((10, 10), (10, 50), (0.9, 1.0), ALARMS),
        ((10, 10), (1, 5), (0.9, 1.0), UNCERTAIN),  # 0.5 % to 72 %
        ((10, 10), (0, 1), (0.9, 1.0), "strong"),
        ((10, 10), (0, 50), (0.5, 0.6), CHANCE),
    ],
)
def test_words_have_limits(found, alarms, interval, verdict):
    result = result_of(found, alarms, interval=interval)
    assert result.verdict == verdict
    assert result.summary.endswith(f": {verdict}")


def test_without_a_promise_most_images_are_still_too_many():
    assert result_of((10, 10), (45, 50), promised=None).verdict == ALARMS
    assert result_of((10, 10), (10, 50), promised=None).verdict == "strong"


def test_the_summary_says_it_in_a_line():
    assert result_of((3, 10), (1, 43)).summary == (
        "finds 45 of 150 synthesised defects (small 30 %, medium 30 %, large 30 %) at 1 false "
        "alarm in 43 new good images: weak"
    )


def test_json_holds_all_of_it():
    result = check(Oracle(is_large), IMAGES, threshold=0.5, promised=0.1, count=15, seed=4)
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert content["found"]["hits"] == result.total.hits
    assert content["found"]["interval"] == list(exact_interval(result.total.hits, 15))
    assert content["by_kind_and_size"]["scratch"]["small"]["total"] == 1
    assert content["by_kind"]["scratch"]["image_auroc"] == result.per_kind["scratch"]["image_auroc"]
    assert content["false_alarms"]["new"]["total"] == 8
    assert content["promised_false_positive_rate"] == 0.1
    assert content["seed"] == 4
    assert content["verdict"] == result.verdict


def test_few_defects_leave_cells_empty():
    result = check(Oracle(is_large), IMAGES, threshold=0.5, count=3)
    assert result.found["stain"]["large"] == ExactShare(0, 0)
    assert result.by_size["large"].rate is None
    assert "large" not in result.summary
    json.dumps(result.to_dict(), allow_nan=False)


def test_floating_images_and_progress():
    done = []
    result = check(
        lambda b: (b.amax((1, 2, 3)).numpy(), b.mean(1).numpy()),
        IMAGES.float() / 255,
        threshold=0.6,
        count=20,
        batch_size=6,
        progress=lambda *step: done.append(step),
    )
    assert result.total.total == 20
    assert done == [(6, 28), (8, 28), (14, 28), (20, 28), (26, 28), (28, 28)]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"indices": []}, "no image to put a defect into"),
        ({"count": 0}, "count must be"),
        ({"seed": -1}, "seed one from 0"),
        ({"predict": lambda b: (np.zeros(len(b)), np.zeros((len(b), 8, 8)))}, "predict must give"),
        ({"predict": lambda b: (np.zeros(1), np.zeros((len(b), 96, 80)))}, "predict must give"),
        ({"predict": lambda b: (np.zeros(len(b)), np.full((len(b), 96, 80), np.nan))}, "finite"),
    ],
)
def test_what_cannot_be_checked_is_refused(options, match):
    options = {"predict": Oracle(is_large), "indices": None} | options
    with pytest.raises(ValueError, match=match):
        check(options.pop("predict"), IMAGES, options.pop("indices"), threshold=0.5, **options)


def test_the_defects_are_those_of_the_data_set():
    seen = []
    check(Oracle(is_large), IMAGES, threshold=0.5, count=15, seed=1, observe=seen.append)
    defects = TrialDefects(IMAGES, range(8), count=15, seed=1)
    assert [(t.kind, t.size) for t in seen] == [
        (defects.kind(i), defects.size(i)) for i in range(15)
    ]
    assert all(t.mask.any() and math.isfinite(t.score) for t in seen)
