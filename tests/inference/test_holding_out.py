"""Copies of an image lie on one side of the split."""

import numpy as np
import pytest
from PIL import Image

from fastad import Detector
from fastad.data.training_set import read_training_set
from fastad.inference.holding_out import copies_together
from fastad.training import TrainingConfig


def images_with_copies(rng, different, copies):
    images = rng.integers(0, 256, (different, 32, 32, 3), dtype=np.uint8)
    which = rng.permutation([*range(different), *rng.integers(0, different, copies)])
    return images[which], which


@pytest.mark.parametrize("layout", [False, True])
def test_all_copies_lie_on_one_side(layout):
    rng = np.random.default_rng()
    for seed in range(20):
        images, which = images_with_copies(rng, 20, int(rng.integers(1, 30)))
        source = read_training_set(images, 32)
        if layout:
            source.held_out = [int(i) for i in rng.choice(len(images), 5, replace=False)]
        found = copies_together(source, TrainingConfig(seed=seed, validation_fraction=0.2))
        held_out = {*found.held_out}
        sides = [{i in held_out for i in np.flatnonzero(which == w)} for w in range(20)]
        assert all(len(side) == 1 for side in sides)
        assert held_out >= {*(source.held_out or ())}
        assert layout or sides.count({True}) == 4
        assert found.copies == len(images) - 20
        again = copies_together(found, TrainingConfig(seed=seed + 1))
        assert again.held_out == found.held_out


def test_without_copies_nothing_changes():
    images, _ = images_with_copies(np.random.default_rng(), 20, 0)
    source = read_training_set(images, 32)
    assert copies_together(source, TrainingConfig()) is source
    alike = read_training_set(np.repeat(images[:1], 9, axis=0), 32)
    assert copies_together(alike, TrainingConfig()) is alike
    twice = read_training_set(np.concatenate([images, images]), 32)
    nothing = copies_together(twice, TrainingConfig(validation_fraction=0))
    assert nothing.held_out is None


def test_a_detector_holds_out_all_copies_and_says_so(tmp_path):
    images, which = images_with_copies(np.random.default_rng(), 12, 12)
    for folder, part in (
        ("files", images),
        ("train/good", images[:4]),
        ("validation/good", images),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for i, image in enumerate(part):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
    for given in (images, tmp_path / "files"):
        detector = Detector("subspace", image_size=32, teacher_weights="embedded")
        detector.fit(given, self_check=False)
        held_out = {*detector.training_record_["held_out"]}
        assert {*which[[*held_out]]}.isdisjoint(which[[i for i in range(24) if i not in held_out]])
        assert any(
            "12 of 24 images are exact copies" in n for n in detector.training_record_["notes"]
        )
    with pytest.raises(ValueError, match="each image to train on is also among those"):
        Detector("subspace", image_size=32).fit(tmp_path)
