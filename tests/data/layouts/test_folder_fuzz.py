"""Random folders of images, made from a plan: no image has two roles, and no mask is an image."""

import contextlib
import io
import json
import os
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastad.data import DataDescription, describe, find_images

TREES = 300
NORMAL = ["good", "ok", "normal", "0_normal", "ok_front", "gut", "pass", "no_defect", "normal_dir"]
DEFECT = ["bad", "NG", "nok", "def_front", "1_abnormal", "schlecht", "not_good", "scratch", "fail"]
MASKS = ["mask", "masks", "gt", "ground_truth", "labels", "Annotation", "mask_dir"]
UNKNOWN = ["hollow", "foo", "negative", "a", "1", "0", "type2"]
GROUPS = ["monday", "line 2", "img", "images", "cam1", "part", "data"]
PARTS = ["train", "test", "validation", "Training", "test_public", "val", "test_private"]
UNJUDGED = ["todo", "repaired", "review", "Unsorted"]
NESTED = ["kratzer", "beule", "2024-01-02/kratzer"]
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
        if self.rng.random() < 0.3:
            self._nest()
        if self.rng.random() < 0.3:
            self._predict()
        if shape == "classes" and self.rng.random() < 0.3:
            self._add(root / self.rng.choice(UNJUDGED) / "1.png", "unjudged")
        if self.rng.random() < 0.2:
            (root / ".thumbnails").mkdir(exist_ok=True)
            (root / ".thumbnails" / "1.png").write_bytes(BLACK)
        if self.rng.random() < 0.2:
            os.symlink("..", root / "up")
        if self.rng.random() < 0.2 and not (root / "linked").exists():
            os.symlink(
                self.rng.choice(
                    [p for p in sorted(root.iterdir()) if p.is_dir() and p.name[0] != "."] or [root]
                ),
                root / "linked",
            )

    def _add(self, path: Path, truth: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PHOTOGRAPH)
        self.truth[path] = truth

    def _nest(self) -> None:
        """Defects in a folder among good images, which does not say so."""
        good = [p.parent for p, truth in self.truth.items() if truth == "normal"]
        if good:
            self._add(self.rng.choice(good) / self.rng.choice(NESTED) / "77.png", "defect")

    def _predict(self) -> None:
        """Heat maps by class, as of ``fastad predict --output``."""
        folder = self.root / "heat"
        names = [f"{self.rng.choice(NORMAL + DEFECT)}/{i}.png" for i in range(3)]
        for name in names:
            self._add(folder / name, "picture")
        (folder / "fastad-pictures.json").write_text(json.dumps({"files": names}))

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
        verify(found, truth)
        for name in plan.rng.sample([*NORMAL[:3], ".", "linked", "kratzer", "heat"], 2):
            with contextlib.suppress(FileNotFoundError, ValueError):  # there is none, or several
                verify(describe(root, good=[name]), truth, named=name)
    real = {os.path.realpath(path) for path in (file.path for file in found.files)}
    assert real == {os.path.realpath(path) for path in find_images(root)}
    return found.cannot_train is None, found.cannot_evaluate is None


def verify(found: DataDescription, truth: Callable[[Path], str], named: str = "") -> None:
    """No image has two roles, no mask is an image, and nothing is trained on that is not good."""
    paths = [file.path for file in found.files]
    assert len(set(paths)) == len(paths)
    roles = {(os.path.realpath(f.path), f.role) for f in found.files if f.role != "passed over"}
    assert len({path for path, _ in roles}) == len(roles)
    used = [file for file in found.files if file.role in ("normal", "defect", "unlabelled")]
    never = {"mask", "picture"} if named else {"mask", "picture", "unjudged"}
    never -= {"mask"} if named == "linked" else set()  # a user may call masks good by a link
    assert [f.path for f in used if truth(f.path) in never] == []
    masks = [mask for file in used for mask in file.masks]
    assert [mask for mask in masks if truth(mask) != "mask"] == []
    assert {file.path for file in found.files if file.role == "mask"} >= set(masks)
    if found.cannot_train is None:
        learned = [*found.training, *found.held_out]
        assert found.training
        tests = {"test", "test_public", "test_private", "validation", "val"}
        files = [os.path.realpath(f.path) for f in found.training]
        root = os.path.realpath(found.folder)
        below = [set(os.path.relpath(f, root).lower().split(os.sep)) for f in files]
        assert not any(parts & tests for parts in below)
        assert len(set(files)) == len(files)
        if not named:  # the user's word is taken
            assert [f.path for f in learned if truth(f.path) == "defect"] == []
    if found.cannot_evaluate is None and not named:
        assert found.test
        wrong = {"normal": "defect", "defect": "normal"}
        # The evaluation refuses a defect whose mask is black.
        used = [f for f in found.test if not any(m.read_bytes() == BLACK for m in f.masks)]
        assert [f.path for f in used if truth(f.path) == wrong[f.role]] == []


@pytest.mark.parametrize("first", range(0, TREES, 50))
def test_no_image_has_two_roles_and_no_mask_is_an_image(tmp_path, first):
    results = [check(tmp_path / str(seed), seed) for seed in range(first, first + 50)]
    trained, measured = (sum(can) for can in zip(*results, strict=True))
    assert trained >= 10  # not everything is refused
    assert measured >= 5
