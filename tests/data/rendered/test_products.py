"""Synthetic products: the same every time, ground truth where the defect is, MVTec layout."""

import numpy as np
import pytest

from fastad.data import read_image, read_mask, test_samples, training_images
from fastad.data.rendered import products
from fastad.data.rendered.products import PRODUCTS, Counts, plan_dataset, render, write_dataset

DEFECTS = [(product, defect) for product in PRODUCTS for defect in PRODUCTS[product].defects]


def test_three_products_with_three_types_of_defect():
    assert len(PRODUCTS) >= 3
    assert all(len(product.defects) >= 3 for product in PRODUCTS.values())


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_good_image(product):
    image, mask = render(product, seed=3)
    assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((256, 256), bool)
    assert not mask.any()
    assert image.std() > 20
    assert ((image > 0) & (image < 255)).mean() > 0.95  # hardly anything is cut off


@pytest.mark.parametrize(("product", "defect"), [(p, None) for p in PRODUCTS] + DEFECTS)
def test_a_seed_gives_the_same_image_and_another_seed_another(product, defect):
    image, mask = render(product, defect, seed=5)
    again, same_mask = render(product, defect, seed=(5,))
    other, _ = render(product, defect, seed=6)
    assert np.array_equal(image, again)
    assert np.array_equal(mask, same_mask)
    assert np.abs(image.astype(int) - other).mean() > 1


@pytest.mark.parametrize(("product", "defect"), DEFECTS)
@pytest.mark.parametrize("seed", range(4))
def test_the_ground_truth_is_where_the_defect_changes_the_image(product, defect, seed):
    clean, _ = render(product, seed=seed)
    image, mask = render(product, defect, seed)
    change = np.abs(image.astype(int) - clean).max(axis=2)
    assert change[~mask].max() <= products.VISIBLE
    assert (change[mask] > products.VISIBLE).mean() > 0.9
    # Everything but the surroundings of the one defect is the same to the last bit.
    assert 40 < mask.sum() < 0.1 * mask.size
    assert (change == 0).mean() > 0.8
    rows, columns = np.nonzero(mask)
    if defect != "misplaced part":  # which is missing elsewhere
        assert max(np.ptp(rows), np.ptp(columns)) < 130


@pytest.mark.parametrize(("product", "defect"), [("gear", None), ("flange", "hair")])
def test_unknown_names_are_refused_with_those_known(product, defect):
    with pytest.raises(ValueError, match=r"must be one of .*(blister|scratch).*; got "):
        render(product, defect)


def test_a_data_set_in_mvtec_layout(tmp_path):
    counts, calls = Counts(train=2, test_good=2, test_defect=1), []
    write_dataset(tmp_path, "denim", counts, seed=1, progress=lambda *call: calls.append(call))
    assert calls == [(n, 7) for n in range(1, 8)]
    assert "synthetic" in (tmp_path / "SYNTHETIC.txt").read_text()
    assert len(training_images(tmp_path).paths) == 2
    samples = test_samples(tmp_path)
    assert [s.defect_type for s in samples] == ["good", "good", *sorted(PRODUCTS["denim"].defects)]
    assert [len(s.mask_paths) for s in samples] == [0, 0, 1, 1, 1]
    items = {tmp_path / item.path: item for item in plan_dataset("denim", counts, seed=1)}
    for sample in samples:
        item = items[sample.path]
        image, mask = render("denim", item.defect, item.seed)
        assert np.array_equal(read_image(sample.path).permute(1, 2, 0).numpy(), image)
        for path in sample.mask_paths:
            assert np.array_equal(read_mask(path).numpy(), mask)
    files = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    planned = [p for i in items.values() for p in (i.path, i.mask_path) if p is not None]
    assert {str(f) for f in files} == {str(p) for p in planned} | {products.NOTE}


def test_no_image_of_a_data_set_is_there_twice(tmp_path):
    items = [i for p in PRODUCTS for i in plan_dataset(p, Counts(3, 2, 2))]
    images = {(i.seed, i.defect) for i in items}
    assert len({i.seed for i in plan_dataset("flange", Counts(3, 2, 2))}) == 3 + 2 + 3 * 2
    assert len(images) >= 3 + 2 + 9 * 2
    with pytest.raises(ValueError, match="product must be one of"):
        plan_dataset("gear")
