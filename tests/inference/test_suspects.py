"""Defects among the good images of a training are found, and good ones are not accused."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import fastad
from fastad import models
from fastad.data import training_images
from fastad.data.rendered.products import DEMONSTRATED, PRODUCTS, render
from fastad.inference import suspects as module
from fastad.inference.suspects import scores_of, standing_out, suspects, tail_shares
from fastad.models.residual import SubspaceResidual, patch_features


@pytest.fixture(scope="module")
def model():
    return models.build("subspace", teacher_weights="embedded").eval()


def rendered(product, good, bad, seed):
    """uint8 (N, 3, 128, 128): good images, then such with a defect of each kind in turn."""
    kinds = PRODUCTS[product].defects
    drawn = [render(product, None, [seed, i])[0] for i in range(good)]
    drawn += [render(product, kinds[i % len(kinds)], [seed, good + i])[0] for i in range(bad)]
    pixels = [np.asarray(Image.fromarray(image).resize((128, 128))) for image in drawn]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("product", DEMONSTRATED)
def test_one_image_in_twenty_with_a_defect_is_found(model, product):
    images = rendered(product, 57, 3, seed=11)
    found = suspects(model, images)
    listed = found.first(10).tolist()
    assert sum(i in listed for i in (57, 58, 59)) >= 0.8 * 3
    assert found.standing_out >= 2
    assert found.anomaly_map.shape[0] == 60


@pytest.mark.slow
def test_of_many_defects_four_in_five_are_listed(model):
    hits = total = 0
    for seed in range(3):
        for product in DEMONSTRATED:
            listed = suspects(model, rendered(product, 76, 4, seed)).first(10)
            hits += int((listed >= 76).sum())
            total += 4
    assert hits >= 0.8 * total


def test_no_image_is_compared_with_itself(model):
    """The same numbers from parts that are fitted one by one, on the other parts alone."""
    images = rendered("denim", 23, 1, seed=3)
    found = suspects(model, images, batch_size=7, seed=5)
    part_of = np.random.default_rng(5).permutation(24) % module.PARTS
    with torch.inference_mode():
        levels = model.teacher(model.normalize(images / 255))
        features = patch_features(levels[-2:])
    for part in range(module.PARTS):
        own = part_of == part
        residual = SubspaceResidual(features.shape[1])
        residual.fit([features[~own]])
        distances = residual(features[own])
        expected = torch.nn.functional.avg_pool2d(
            distances[:, None], 3, 1, 1, count_include_pad=False
        )[:, 0]
        np.testing.assert_allclose(found.anomaly_map[own], expected.numpy(), rtol=2e-3, atol=1e-4)
    again = suspects(model, images, batch_size=24, seed=5)
    np.testing.assert_allclose(found.score, again.score, rtol=1e-3)
    assert not np.array_equal(suspects(model, images, seed=6).score, again.score)


def test_every_model_has_a_teacher_to_compare_by(small_model):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(90, 130, (12, 3, 64, 64), dtype=np.uint8))
    images[4, :, 10:40, 10:40] = 0
    done = []
    found = suspects(small_model, images, progress=lambda *of: done.append(of), batch_size=5)
    assert found.order[0] == 4
    assert done == [(n, 24) for n in (5, 10, 12, 17, 22, 24)]


def test_p_values_are_those_of_a_log_normal_distribution():
    rng = np.random.default_rng(1)
    scores = np.exp(rng.normal(2, 0.3, 20000))
    true = stats.norm.sf(np.log(scores), 2, 0.3)
    np.testing.assert_allclose(tail_shares(scores), true, rtol=0.15, atol=0.02)
    dirty = np.concatenate([scores[:950], np.full(50, 100.0)])  # they hardly move the median
    assert tail_shares(dirty)[-1] < 1e-9
    assert tail_shares(np.full(5, 2.0)).tolist() == [0.5] * 5


def test_how_many_stand_out_is_scipys_count():
    rng = np.random.default_rng(2)
    for bad in (0, 1, 5, 20):
        p = np.concatenate([rng.random(100), rng.random(bad) * 1e-3])
        expected = (stats.false_discovery_control(p) <= module.FALSE_SHARE + 1e-12).sum()
        assert standing_out(p) == expected
    assert standing_out(np.array([0.5, 0.9])) == 0


def test_clean_sets_are_seldom_accused():
    rng = np.random.default_rng(3)
    runs = 2000
    accused = [standing_out(tail_shares(np.exp(rng.normal(size=n)))) > 0 for n in [60] * runs]
    assert np.mean(accused) <= 0.1 + 3 * np.sqrt(0.09 / runs)


def test_a_map_is_judged_by_the_others_at_its_place():
    maps = np.ones((3, 2, 2))
    maps[:, 0, 0] = 4.0  # an edge, high in all images
    maps[1, 1, 1] = 2.0
    scores = scores_of(maps)
    assert np.argmax(scores) == 1
    assert scores[1] == pytest.approx(2.0 / maps.mean())
    assert scores[0] == scores[2] == pytest.approx(1.0)


def test_a_detector_names_the_files(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(100, 140, (48, 48, 3), dtype=np.uint8)
        if i == 17:
            pixels[10:25, 20:30] = 250
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    detector = fastad.Detector(
        "subspace", image_size=48, teacher_weights="embedded", false_positive_rate=0.25
    ).fit(tmp_path)
    found = detector.suspects(tmp_path)
    assert [path.name for path in found.paths] == [f"{i:02}.png" for i in range(24)]
    assert found.paths[found.order[0]].name == "17.png"
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(fastad.data.ImageError, match=r"bad\.png"):
        detector.suspects(tmp_path)
    assert len(detector.suspects(tmp_path, skip_bad=True)) == 24
    with pytest.raises(ValueError, match="9 images are too few"):
        detector.suspects(rng.integers(0, 255, (9, 48, 48, 3), dtype=np.uint8))
    assert detector.suspects(rng.integers(0, 255, (12, 48, 48, 3), dtype=np.uint8)).paths is None


def test_a_model_without_a_teacher_is_refused():
    class Bare(models.base.AnomalyModel):
        name = "bare"

    @dataclasses.dataclass
    class Config:
        pass

    with pytest.raises(ValueError, match="bare has no frozen teacher"):
        suspects(Bare(Config()), torch.zeros(12, 3, 32, 32, dtype=torch.uint8))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def parts(tmp_path):
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/3.png"):
        path = tmp_path / "parts" / "good" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(path)
    return tmp_path / "parts"


def test_a_list_names_images_by_path_or_by_its_end(parts, tmp_path):
    whole = parts / "good" / "a" / "1.png"
    text = f"# left out\n\n{whole}\n  b/3.png  \n2.png\n2.png\n"
    found = training_images(parts, good=["good"], exclude=write(tmp_path / "x.txt", text))
    assert [path.relative_to(parts).as_posix() for path in found.paths] == ["good/b/1.png"]
    assert sorted(path.name for path in found.excluded) == ["1.png", "2.png", "3.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/2.png\n4.png", r"x\.txt, line 2: 4\.png is none of the 4 images"),
        ("1.png", r"line 1: 1\.png may be .*a/1\.png or .*b/1\.png: give more of its path"),
        ("ng", r"line 1: ng is none"),
        ("a/1.png\na/2.png\nb/1.png\nb/3.png", "leaves no image"),
    ],
)
def test_a_list_that_cannot_be_is_refused(parts, tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        training_images(parts, good=["good"], exclude=write(tmp_path / "x.txt", text))


def test_a_list_that_is_not_there(parts, tmp_path):
    with pytest.raises(FileNotFoundError, match="exclude: there is no file"):
        training_images(parts, good=["good"], exclude=tmp_path / "none.txt")


def test_a_list_that_is_no_text_is_named(parts, tmp_path):
    (tmp_path / "x.txt").write_bytes("zz \xfc.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"x\.txt, line 1 is no UTF-8 text"):
        training_images(parts, good=["good"], exclude=tmp_path / "x.txt")
