"""Random folders of images, made from a plan: no image has two roles, and no mask is an image."""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad.data import describe, find_images

TREES = 300
NORMAL = ["good", "ok", "normal", "0_normal", "ok_front", "gut", "pass", "no_defect", "normal_dir"]
DEFECT = ["bad", "NG", "nok", "def_front", "1_abnormal", "schlecht", "not_good", "scratch", "fail"]
MASKS = ["mask", "masks", "gt", "ground_truth", "labels", "Annotation", "mask_dir"]
UNKNOWN = ["hollow", "foo", "negative", "a", "1", "0", "type2"]
GROUPS = ["monday", "line 2", "img", "images", "cam1", "part", "data"]
PARTS = ["train", "test", "validation", "Training", "test_public", "val", "test_private"]
SUFFIXES = ["_mask", "_mask_1", "_GT", "-mask", ".mask", "_label", "_gt"]
ENDINGS = [".png", ".PNG", ".jpg", ".bmp", ".tif"]


def encoded(*values: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array([values], np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


BLACK, WHITE, PHOTOGRAPH = encoded(0), encoded(255), encoded(1, 2, 3)


class Plan:
    """A random tree below ``root``, and for every image file what it truly is."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.rng, self.truth = root, random.Random(seed), {}
        root.mkdir(parents=True)
        shape = self.rng.choice(["parts", "classes", "flat", "anything"])
        for _ in range(self.rng.randint(1, 5)):
            names = {
                "parts": [PARTS, self._class()],
                "classes": [self._class()],
                "flat": [GROUPS] if self.rng.random() < 0.5 else [],
                "anything": [
                    self.rng.choice([PARTS, GROUPS, NORMAL, DEFECT, MASKS, UNKNOWN])
                    for _ in range(self.rng.randint(0, 3))
                ],
            }[shape]
            if self.rng.random() < 0.2:
                names.insert(self.rng.randint(0, len(names)), GROUPS)
            self._fill([(self._spelled(self.rng.choice(own)), own) for own in names])
        if self.rng.random() < 0.2:
            (root / ".thumbnails").mkdir(exist_ok=True)
            (root / ".thumbnails" / "1.png").write_bytes(BLACK)
        if self.rng.random() < 0.2:
            os.symlink("..", root / "up")
        if self.rng.random() < 0.2 and not (root / "linked").exists():
            os.symlink(
                self.rng.choice(
                    [p for p in root.iterdir() if p.is_dir() and p.name[0] != "."] or [root]
                ),
                root / "linked",
            )

    def _class(self) -> list[str]:
        return self.rng.choice([NORMAL, DEFECT, UNKNOWN, MASKS, NORMAL, DEFECT])

    def _spelled(self, name: str) -> str:
        return self.rng.choice([name, name, name.upper(), name.capitalize()])

    def _fill(self, folders: list[tuple[str, list[str]]]) -> None:
        folder = self.root.joinpath(*(name for name, _ in folders))
        folder.mkdir(parents=True, exist_ok=True)
        inner = [own for _, own in folders if own in (NORMAL, DEFECT)]
        truth = "mask" if any(own is MASKS for _, own in folders) else "unknown"
        if truth != "mask" and inner:
            truth = "normal" if inner[-1] is NORMAL else "defect"
        beside = truth != "mask" and self.rng.random() < 0.3
        for _ in range(self.rng.randint(1, 3)):
            name = str(self.rng.randint(0, 20))
            own = truth
            if any(path.stem == name for path in folder.iterdir()):
                continue
            if beside and self.rng.random() < 0.8:
                white = truth == "defect" or (truth == "unknown" and self.rng.random() < 0.5)
                if truth == "unknown":
                    own = "defect" if white else "normal"
                mask = folder / f"{name}{self.rng.choice(SUFFIXES)}.png"
                mask.write_bytes(WHITE if white else BLACK)
                self.truth[mask] = "mask"
            path = folder / (name + self.rng.choice(ENDINGS))
            path.write_bytes(PHOTOGRAPH)
            self.truth[path] = own


def check(root: Path, seed: int) -> tuple[bool, bool]:
    """Whether it can be trained on, and measured on."""
    plan = Plan(root, seed)

    def truth(path: Path) -> str:
        real = {Path(os.path.realpath(p)): t for p, t in plan.truth.items()}
        return real[Path(os.path.realpath(path))]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*the mask marks")  # the plan has white masks
        found = describe(root)
    paths = [file.path for file in found.files]
    assert len(set(paths)) == len(paths)
    real = {os.path.realpath(path) for path in paths}
    roles = {(os.path.realpath(f.path), f.role) for f in found.files if f.role != "passed over"}
    assert len({path for path, _ in roles}) == len(roles)
    assert real == {os.path.realpath(path) for path in find_images(root)}
    used = [file for file in found.files if file.role in ("normal", "defect", "unlabelled")]
    assert [f.path for f in used if truth(f.path) == "mask"] == []
    masks = [mask for file in used for mask in file.masks]
    assert [mask for mask in masks if truth(mask) != "mask"] == []
    assert {file.path for file in found.files if file.role == "mask"} >= set(masks)
    if found.cannot_train is None:
        learned = [*found.training, *found.held_out]
        assert found.training
        assert [f.path for f in learned if truth(f.path) == "defect"] == []
    if found.cannot_evaluate is None:
        assert found.test
        wrong = {"normal": "defect", "defect": "normal"}
        # The evaluation refuses a defect whose mask is black.
        used = [f for f in found.test if not any(m.read_bytes() == BLACK for m in f.masks)]
        assert [f.path for f in used if truth(f.path) == wrong[f.role]] == []
    return found.cannot_train is None, found.cannot_evaluate is None


@pytest.mark.parametrize("first", range(0, TREES, 50))
def test_no_image_has_two_roles_and_no_mask_is_an_image(tmp_path, first):
    results = [check(tmp_path / str(seed), seed) for seed in range(first, first + 50)]
    trained, measured = (sum(can) for can in zip(*results, strict=True))
    assert trained >= 10  # not everything is refused
    assert measured >= 5
