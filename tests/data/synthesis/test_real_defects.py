"""Real defects: what is cut, how it changes, where it is pasted, and which items get one."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastad.data import ImageError, PseudoAnomalies
from fastad.data.synthesis import RealDefects, real_defects

SIZE = (64, 48)


@pytest.fixture
def folder(tmp_path):
    """Three types with 3, 2 and 1 images of a coloured patch on black, masks in ground_truth."""
    rng = np.random.default_rng(0)
    for kind, count in (("crack", 3), ("dent", 2), ("stain", 1)):
        for number in range(count):
            image, mask = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.uint8)
            top, left = rng.integers(5, 30, 2)
            image[top : top + 9, left : left + 12] = rng.integers(100, 256, 3)
            mask[top : top + 9, left : left + 12] = 255
            save(image, tmp_path / "defects" / kind / f"{number}.png")
            save(mask, tmp_path / "defects" / "ground_truth" / kind / f"{number}_mask.png")
    return tmp_path / "defects"


@pytest.fixture
def pasted(monkeypatch):
    """No image of a defect is taken as it is."""
    monkeypatch.setattr(real_defects, "WHOLE", 0)


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_types_take_turns(folder):
    every = RealDefects(folder)
    assert len(every.paths) == 6
    for seed in range(4):
        kinds = [path.parent.name for path in RealDefects(folder, 4, seed).paths]
        assert sorted(kinds[:3]) == ["crack", "dent", "stain"]
        assert kinds[3] in ("crack", "dent")
    chosen = {tuple(RealDefects(folder, 3, seed).paths) for seed in range(12)}
    assert len(chosen) > 2
    assert RealDefects(folder, 3, 1).paths == RealDefects(folder, 3, 1).paths


@pytest.mark.parametrize("size", [SIZE, (40, 70), (33, 32)])
def test_the_mask_is_where_the_image_changed(folder, size, pasted):
    defects = RealDefects(folder)
    image = np.full((*size, 3), 30, np.uint8)
    allowed = np.ones(size, bool)
    for seed in range(30):
        result, mask = defects(image, allowed, np.random.default_rng(seed))
        assert (result.shape, result.dtype, mask.shape) == (image.shape, np.uint8, size)
        assert mask.any()
        changed = (result != image).any(axis=2)
        assert not (changed & ~mask).any()
        assert changed.sum() > 0.5 * mask.sum()  # colours may come near the image's own
    assert (image == 30).all()


def test_a_defect_comes_to_lie_on_what_is_allowed(folder, pasted):
    defects = RealDefects(folder)
    image = np.zeros((*SIZE, 3), np.uint8)
    allowed = np.zeros(SIZE, bool)
    allowed[50, 40] = True
    for seed in range(20):
        _, mask = defects(image, allowed, np.random.default_rng(seed))
        assert np.array_equal(mask, allowed)
    # Only what lies on it is pasted: a larger place shows more of each defect.
    allowed[40:60, 30:50] = True
    sizes = []
    for seed in range(20):
        result, mask = defects(image, allowed, np.random.default_rng(seed))
        assert not (mask & ~allowed).any()
        assert not result[~mask].any()
        sizes.append(mask.sum())
    assert max(sizes) > 50


def test_half_stay_about_where_they_were(folder, pasted):
    defects = RealDefects(folder, 1)
    (cut,) = defects._at(SIZE)
    near = 0
    for seed in range(80):
        _, mask = defects(
            np.zeros((*SIZE, 3), np.uint8), np.ones(SIZE, bool), np.random.default_rng(seed)
        )
        middle = np.argwhere(mask).mean(axis=0)
        near += bool((np.abs(middle - cut.middle) < 7).all())
    assert 32 <= near <= 64


def test_a_quarter_are_the_images_themselves(folder):
    defects = RealDefects(folder)
    own = {path: np.asarray(Image.open(path)) for path in defects.paths}
    image, seen = np.full((*SIZE, 3), 30, np.uint8), set()
    for seed in range(200):
        result, mask = defects(image, np.ones(SIZE, bool), np.random.default_rng(seed))
        found = [path for path, pixels in own.items() if np.array_equal(result, pixels)]
        if found:
            assert np.array_equal(mask, own[found[0]].any(axis=2))
            seen.add((seed, found[0]))
            mask[:], result[:] = 0, 0  # nobody else sees that
    assert 30 <= len(seen) <= 70
    assert len({path for _, path in seen}) == 6


def test_which_items_get_one(folder, pasted):
    images = torch.randint(0, 256, (4, 3, *SIZE), generator=torch.Generator().manual_seed(0))
    source = images.to(torch.uint8)
    data = PseudoAnomalies(source, [i % 4 for i in range(400)], seed=2, defects=folder)
    clean = [i for i in range(400) if data.is_clean(i)]
    real = [i for i in range(400) if data.is_real(i)]
    assert abs(len(clean) - 200) <= 2
    assert abs(len(real) - 100) <= 2
    assert not set(clean) & set(real)
    for index in real[:6]:
        item, again = data[index], data[index]
        assert torch.equal(item["image"], again["image"])
        own, mask = source[index % 4], item["mask"]
        assert mask.any()
        assert torch.equal(item["image"][:, ~mask], own[:, ~mask])
    plain = PseudoAnomalies(source, [i % 4 for i in range(400)], seed=2)
    other = next(i for i in range(400) if not (data.is_real(i) or data.is_clean(i)))
    assert torch.equal(plain[other]["image"], data[other]["image"])
    assert not any(plain.is_real(i) for i in range(400))
    assert plain.fingerprint != data.fingerprint


def test_floating_images_get_the_same(folder):
    source = torch.randint(0, 256, (1, 3, *SIZE)).to(torch.uint8)
    exact = PseudoAnomalies(source, [0] * 40, defects=folder)
    floating = PseudoAnomalies(source.float() / 255, [0] * 40, defects=folder)
    index = next(i for i in range(40) if exact.is_real(i))
    one, other = exact[index], floating[index]
    assert torch.equal(one["mask"], other["mask"])
    torch.testing.assert_close(one["image"] / 255, other["image"])


def test_the_fingerprint_is_that_of_the_contents(folder, tmp_path):
    before = RealDefects(folder).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert RealDefects(moved).fingerprint == before
    mask = next((moved / "ground_truth").rglob("*.png"))
    save(np.uint8(np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 7 == 0) * 255, mask)
    assert RealDefects(moved).fingerprint != before


def test_a_relative_path_finds_masks_beside_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert RealDefects("crack").digests == RealDefects(folder / "crack").digests
    monkeypatch.chdir(folder / "crack")
    assert len(RealDefects(".").paths) == len(RealDefects("../crack").paths) == 3


def test_errors_name_the_folder(folder, tmp_path):
    with pytest.raises(ValueError, match=r"6 images with masks in .*, fewer than the 7 asked for"):
        RealDefects(folder, 7)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        RealDefects(tmp_path / "nowhere")
    save(np.zeros((*SIZE, 3), np.uint8), tmp_path / "bare" / "1.png")
    with pytest.raises(ValueError, match=r"no defects with masks in .*bare"):
        RealDefects(tmp_path / "bare")
    mask = next((folder / "ground_truth").rglob("*.png"))
    save(np.full((64, 20), 255, np.uint8), mask)
    with pytest.raises(ImageError, match=rf"{mask.name}: the mask of 64x20 pixels is not of the"):
        RealDefects(folder)
    save(np.full(SIZE, 255, np.uint8), mask)
    with pytest.raises(ValueError, match="marks the whole image"):
        RealDefects(folder)
    save(np.zeros(SIZE, np.uint8), mask)
    with pytest.raises(ValueError, match="marks no pixel"):
        RealDefects(folder)
    mask.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=mask.name):
        RealDefects(folder)
