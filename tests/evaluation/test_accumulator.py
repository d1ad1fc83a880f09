"""Evaluation batch by batch against the scores of everything at once."""

import math

import numpy as np
import pytest

from fastad.evaluation import Evaluation, image_auroc_interval, image_metrics, pixel_metrics


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    types = [None, "hole", None, "scratch", "hole", None, "scratch", "hole"]
    labels = np.array([name is not None for name in types]).astype(int)
    masks = (rng.random((8, 11, 13)) < 0.15) & (labels[:, None, None] == 1)
    maps = np.float32(rng.gamma(2, size=masks.shape) + masks)
    scores = rng.normal(size=8) + labels
    return {
        "masks": masks,
        "maps": maps,
        "labels": labels,
        "scores": scores,
        "defect_types": types,
    }


def collected(data, *, batch=3, **options):
    evaluation = Evaluation(**options)
    for i in range(0, len(data["labels"]), batch):
        evaluation.update(**{name: values[i : i + batch] for name, values in data.items()})
    return evaluation.compute()


def expected(data, rows):
    part = {name: np.array(values)[rows] for name, values in data.items() if name[:6] != "defect"}
    image = (part["labels"], part["scores"])
    return (
        image_metrics(*image)
        | {"image_auroc_interval": image_auroc_interval(*image)}
        | pixel_metrics(part["masks"], part["maps"])
    )


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_batches_give_the_scores_of_the_whole(data, batch):
    result = collected(data, batch=batch)
    types = np.array(data["defect_types"], dtype=object)
    whole = expected(data, np.arange(8))
    rows = {
        name: expected(data, (types == name) | (data["labels"] == 0))
        for name in ("hole", "scratch")
    }
    assert list(result["per_defect"]) == ["hole", "scratch"]
    for found, truth in [(result, whole), *((result["per_defect"][n], rows[n]) for n in rows)]:
        assert found["image_auroc_interval"] == truth.pop("image_auroc_interval")
        assert {name: found[name] for name in truth} == pytest.approx(truth, abs=1e-12)
    assert result["counts"] == {"normal": 3, "defect": 5, "defect_without_mask": 0}


def test_scores_on_disk_are_those_in_memory(data):
    assert collected(data, memory_bytes=500) == collected(data)


@pytest.mark.parametrize("types", [None, [None] * 8, [""] * 8])
def test_without_types_there_is_no_row_of_one(data, types):
    whole = collected(data)
    data["defect_types"] = types if types is not None else [None] * 8
    result = collected(data)
    assert result["per_defect"] == {}
    assert result["aupro"] == whole["aupro"]
    if types is None:
        del data["defect_types"]
        assert collected(data) == result


def test_defects_without_ground_truth_count_as_images_only(data):
    evaluation = Evaluation()
    data.pop("defect_types")
    first = {name: values[:4] for name, values in data.items()}
    evaluation.update(**first | {"masks": None})
    evaluation.update(**{name: values[4:] for name, values in data.items()})
    result = evaluation.compute()
    assert result["counts"] == {"normal": 3, "defect": 5, "defect_without_mask": 2}
    kept = [0, 2, 4, 5, 6, 7]  # normal images need no mask
    pixel = pixel_metrics(data["masks"][kept], data["maps"][kept])
    assert {name: result[name] for name in pixel} == pytest.approx(pixel, abs=1e-12)
    assert result["image_auroc"] == image_metrics(data["labels"], data["scores"])["image_auroc"]


def test_sizes_and_types_of_maps_may_differ(data):
    evaluation = Evaluation()
    data.pop("defect_types")
    parts = [{name: values[i::2] for name, values in data.items()} for i in range(2)]
    parts[1] |= {"masks": parts[1]["masks"][:, :7], "maps": parts[1]["maps"][:, :7].astype("f8")}
    for part in parts:
        evaluation.update(**part)
    flat = [np.concatenate([p[name].ravel() for p in parts]) for name in ("masks", "maps")]
    result = evaluation.compute()
    auroc = pixel_metrics(flat[0][None, None], flat[1][None, None])["pixel_auroc"]
    assert result["pixel_auroc"] == pytest.approx(auroc, abs=1e-12)


def test_one_class_alone_is_undefined(data):
    for label in (0, 1):
        rows = data["labels"] == label
        part = {
            n: np.array(v, dtype=object if n[:6] == "defect" else None)[rows]
            for n, v in data.items()
        }
        result = collected(part)
        assert math.isnan(result["image_auroc"])
        assert all(math.isnan(limit) for limit in result["image_auroc_interval"])
        assert math.isnan(result["aupro"]) is (label == 0)


def test_seed_moves_the_interval_alone():
    rng = np.random.default_rng(1)
    masks, labels = np.zeros((90, 1, 1), bool), np.arange(90) % 2
    data = {"masks": masks, "maps": masks + 0.0, "labels": labels, "scores": rng.random(90)}
    a, b = collected(data), collected(data, seed=1)
    assert a["image_auroc"] == b["image_auroc"]
    assert a["image_auroc_interval"] == collected(data)["image_auroc_interval"]
    assert a["image_auroc_interval"] != b["image_auroc_interval"]


def test_errors_name_what_is_wrong_and_add_nothing(data):
    evaluation = Evaluation()
    wrong = [
        ({"labels": np.zeros(8, int)}, r"labels\[1\] is 0 \(normal\), but masks\[1\] marks"),
        ({"labels": np.ones(7), "scores": np.ones(7)}, r"as many images, got 8, 7 and 8"),
        ({"scores": np.ones(7)}, r"\(8,\) and \(7,\)"),
        ({"defect_types": ["hole"]}, "got 8, 8 and 1"),
        ({"masks": data["masks"][:, :-1]}, "masks and maps must both be"),
        ({"masks": data["masks"].astype(np.uint8)}, "masks must be bool, got uint8"),
        ({"maps": np.where(data["masks"], np.nan, data["maps"])}, "maps must be finite, but"),
        ({"scores": np.full(8, np.inf)}, "scores must be finite, but 8 of 8"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            evaluation.update(**data | change)
    with pytest.raises(ValueError, match="no image to evaluate"):
        evaluation.compute()
