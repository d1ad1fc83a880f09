"""How maps are scaled and pooled: made-up maps in which one choice is the right one."""

import numpy as np
import pytest
import torch
from toy_maps import MadeUp, good_and_bad

from fastad.models.map_options import MapChoice
from fastad.training.map_choice import MARGIN, POOLINGS, best, choice_lines, choose, plainest

GOOD, BAD, SIDE = 24, 36, 32  # images, and pixels a side


@pytest.fixture
def noise():
    """Values (n, side, side) in [0, 1)."""
    generator = torch.Generator().manual_seed(0)
    return lambda n, side=SIDE: torch.rand(n, side, side, generator=generator)


def cellwise(noise, n):
    """Noise that is the same in squares of 4 x 4 pixels, as judged."""
    return noise(n, SIDE // 4).repeat_interleave(4, 1).repeat_interleave(4, 2)


def squares(rows, columns):
    """Masks of the bad images: a square that lies elsewhere in every image, in these ranges."""
    masks = torch.zeros(BAD, SIDE, SIDE, dtype=torch.bool)
    for i, mask in enumerate(masks):
        row, column = rows[i % len(rows)], columns[i % len(columns)]
        mask[row : row + 8, column : column + 8] = True
    return masks


def chosen(good, bad, masks, maps=1, pairs=1, **options):
    model = MadeUp(maps, pairs, **options)
    batches, defects = good_and_bad(good, bad, masks)
    model.calibrate_maps(lambda: iter(batches))
    record = choose(model, batches, defects)
    assert model.chosen == MapChoice(**record.chosen)
    assert (record.images, record.defects) == (GOOD, BAD)
    return model.choice(), record


def test_position_where_good_images_are_high_at_a_place(noise):
    good, bad = (1 + 0.1 * noise(n) for n in (GOOD, BAD))
    for maps in (good, bad):
        maps[:, :8] *= 10
    masks = squares(range(8, 24), range(24))
    bad[masks] += 3
    found, record = chosen([good], [bad], masks, scale_maps="auto", scale_score="auto")
    assert found == MapChoice("position", "position")
    aupros = {row["scale_maps"]: row["aupro"] for row in record.maps}
    assert set(aupros) == {"none", "position"}  # a level alone is only multiplied by a number
    assert aupros["position"] == pytest.approx(1)
    assert aupros["none"] < 0.5


def test_none_where_defects_are_where_good_images_are_high(noise):
    good, bad = (4 * cellwise(noise, n) ** 3 for n in (GOOD, BAD))
    for maps in (good, bad):
        maps[:, :, :8] = 3
    masks = squares(range(24), [0])
    bad[masks] = 5
    found, _ = chosen([good], [bad], masks, scale_maps="auto", scale_score="auto")
    assert found == MapChoice("none", "none")


def test_level_where_one_pair_is_noise_of_another_size(noise):
    good, bad = ([0.01 + 0.001 * noise(n), 2 * cellwise(noise, n)] for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[0][masks] *= 5
    options = {"scale_maps": "auto", "scale_score": "auto", "pair_weights": (1.0, 1.0)}
    found, record = chosen(good, bad, masks, maps=2, pairs=2, **options)
    assert found == MapChoice("level", "level", pair_weights=(1.0, 1.0))
    assert [row["scale_maps"] for row in record.maps] == ["none", "level", "position"]


def test_the_score_is_scaled_apart_from_the_map(noise):
    good, bad = (4 * cellwise(noise, n) ** 3 for n in (GOOD, BAD))
    for maps in (good, bad):
        maps[:, :, :8] = 2.5
        maps[:, 24:28, 24:28] = 10 * (1 + 0.1 * noise(len(maps), 1))
    # Most of a defect lies where its place is high on good images, too; a small part does not.
    masks = squares(range(24), [0])
    masks[:, 12:16, 16:20] = True
    bad[masks] = 5
    bad[:, 12:16, 16:20] = 8
    found, record = chosen([good], [bad], masks, scale_maps="auto", scale_score="auto")
    assert (found.scale_maps, found.scale_score) == ("none", "position")
    assert {row["scale_score"]: row["image_auroc"] for row in record.scores}["position"] == 1


def test_the_maximum_for_a_single_pixel(noise):
    good, bad = (0.5 * noise(n) for n in (GOOD, BAD))
    for maps in (good, bad):  # in any image some pixels are about as high
        for image, number in zip(maps, torch.arange(len(maps)) % 40, strict=True):
            image[2, : number.clamp(max=32)] = 0.99
    masks = torch.zeros(BAD, SIDE, SIDE, dtype=torch.bool)
    masks[:, 20, 20] = True
    bad[masks] = 1.02
    found, record = chosen([good], [bad], masks, pooling="auto")
    assert found.pooling == 0
    aurocs = {row["pooling"]: row["image_auroc"] for row in record.scores}
    assert tuple(aurocs) == POOLINGS
    assert aurocs[0.0] == 1
    assert max(aurocs[share] for share in POOLINGS[1:]) < 0.96


def test_a_share_for_large_faint_defects(noise):
    good, bad = (0.5 * noise(n) for n in (GOOD, BAD))
    for maps in (good, bad):  # single high pixels, without a defect
        maps[:, 3, ::7] = 0.9 + 4 * noise(len(maps))[:, 3, ::7]
    masks = squares(range(8, 24), range(24))
    bad[masks] = 0.9
    found, record = chosen([good], [bad], masks, pooling="auto")
    assert found.pooling == 0.03
    assert record.scores[-1]["image_auroc"] > 0.95 > record.scores[0]["image_auroc"]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)])
def test_a_pair_that_only_adds_noise_is_left_out(noise, weights):
    good, bad = ([1 + 3 * (1 - w) * cellwise(noise, n) for w in weights] for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    which = torch.arange(BAD) % 2 if sum(weights) == 2 else torch.full((BAD,), weights.index(1.0))
    for pair, maps in enumerate(bad):  # each sees its own defects
        maps[masks & (which == pair)[:, None, None]] += 1
    unchosen = MapChoice(pair_weights=(1.0, 1.0))
    MadeUp.unchosen, before = unchosen, MadeUp.unchosen
    try:
        found, record = chosen(good, bad, masks, maps=2, pairs=2, pair_weights="auto")
    finally:
        MadeUp.unchosen = before
    assert found.pair_weights == weights
    assert [row["pair_weights"] for row in record.maps] == [[1, 1], [1, 0], [0, 1]]


def test_map_and_score_take_levels_of_their_own(noise):
    """The first level shows where defects are, the second one which images have one."""
    good, bad = ([1 + 0.1 * noise(n), 1 + 0.1 * noise(n)] for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[0][masks] += 0.3
    for first, second in (good, bad):  # one pixel is high in any image
        first[:, 4, 4] = 9 + noise(len(first))[:, 4, 4]
        first[:, 0, 0] = 0.01
        second += 2 * cellwise(noise, len(second)) ** 8
    bad[1][:, 0, 0] = 30
    names, MadeUp.level_names = MadeUp.level_names, ("first", "second")
    try:
        options = {"map_levels": "auto", "score_levels": "auto"}
        found, record = chosen(good, bad, masks, maps=2, **options)
        fixed, _ = chosen(good, bad, masks, maps=2, **(options | {"map_levels": ("second",)}))
    finally:
        MadeUp.level_names = names
    assert (found.map_levels, found.score_levels) == (("first",), ("second",))
    assert [row["map_levels"] for row in record.maps] == [[], ["first"], ["second"]]
    assert [row["score_levels"] for row in record.scores] == [[], ["first"], ["second"]]
    of_map, of_score = (line for _, line in choice_lines(vars(record)))
    assert of_map.startswith("not scaled, first: AUPRO ")
    assert of_score.startswith("not scaled, second, maximum: image AUROC ")
    assert (fixed.map_levels, fixed.score_levels) == (("second",), ("second",))


@pytest.mark.parametrize("helps", [True, False])
def test_the_subspace_is_multiplied_by_where_it_helps_and_dropped_otherwise(noise, helps):
    good, bad = ([1 + noise(n), 1 + (0 if helps else 3) * noise(n)] for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[0][masks] += 0.3 if helps else 3
    bad[1][masks] += 1.0 if helps else 0
    found, record = chosen(good, bad, masks, subspace="auto")
    assert found.subspace == helps
    assert [row["subspace"] for row in record.maps] == [False, True]
    model = MadeUp(subspace="auto")
    model.choose(found)
    assert (model.subspace is None) == (not helps)
    assert len(model.distance_means) == 1 + helps


def test_what_is_given_is_never_chosen(noise):
    """Where scaling by position and the maximum are right."""
    good, bad = (1 + 0.1 * noise(n) for n in (GOOD, BAD))
    for maps in (good, bad):
        maps[:, :8] *= 10
    masks = squares(range(8, 24), range(24))
    bad[masks] += 3
    maps = [good, 1 + 0 * good], [bad, 1 + 0 * bad]
    given = {"scale_maps": "none", "pooling": 0.01, "subspace": True}
    found, record = chosen(*maps, masks, scale_score="auto", **given)
    assert found == MapChoice("none", "position", 0.01, (), True)
    assert [row["scale_maps"] for row in record.maps] == ["none"]
    assert {row["pooling"] for row in record.scores} == {0.01}
    found, record = chosen(*maps, masks, scale_maps="level", scale_score="none", pooling="auto")
    assert (found.scale_maps, found.scale_score) == ("level", "none")
    assert {row["scale_score"] for row in record.scores} == {"none"}


def test_parts_are_judged_by_the_scales_that_may_be_taken(noise):
    """The subspace helps the map alone where it is scaled by position, which is not allowed."""
    good, bad = ([1 + 0.1 * noise(n), 1 + 0.1 * noise(n)] for n in (GOOD, BAD))
    masks = squares(range(12, 24), range(24))
    for maps in (good, bad):
        maps[1][:, :12] *= 3
    bad[1][masks] += 1.5
    bad[0][masks.cumsum(2).cumsum(1) == 1] = 30  # images are told apart by one pixel in any way
    options = {"scale_score": "auto", "subspace": "auto"}
    assert not chosen(good, bad, masks, scale_maps="none", **options)[0].subspace
    found, record = chosen(good, bad, masks, scale_maps="position", **options)
    assert found == MapChoice("position", "none", subspace=True)
    plain_first = ["none", "position"]
    assert [row["scale_score"] for row in record.scores] == 2 * plain_first


def test_maps_that_are_not_finite_are_never_chosen(noise):
    good, bad = (1 + 0.1 * noise(n) for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[masks] += 3
    bad[0, 0, 0] = torch.inf
    found, record = chosen(
        [good, 1 + good], [1 + bad.nan_to_num(posinf=3), bad], masks, subspace="auto"
    )
    assert not found.subspace
    assert [row["aupro"] for row in record.maps][1] == 0


def test_a_factor_of_the_score_counts(noise):
    class WithFactor(MadeUp):
        def evidence(self, batch):
            found = super().evidence(batch)
            return found._replace(score_factor=batch["factor"])

    good, bad = (1 + noise(n) for n in (GOOD, BAD))
    batches, defects = good_and_bad([good], [bad], squares(range(24), range(24)))
    batches[0]["factor"], defects[0]["factor"] = torch.ones(GOOD), torch.full((BAD,), 9.0)
    record = choose(WithFactor(pooling="auto"), batches, defects)
    assert {row["image_auroc"] for row in record.scores} == {1.0}


def test_the_plainest_within_the_margin():
    assert plainest({"a": 0.9, "b": 0.9 + 0.9 * MARGIN, "c": 0.1}) == "a"
    assert plainest({"a": 0.9, "b": 0.9 + 1.1 * MARGIN, "c": 0.9 + 1.2 * MARGIN}) == "b"


@pytest.mark.parametrize("helps", [False, True])
def test_the_score_goes_by_the_memory_where_that_finds_more(noise, helps):
    good, bad = (noise(n) for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[masks] += 0.02  # what the map shows
    of_good, of_bad = ([noise(n) for _ in range(2)] for n in (GOOD, BAD))
    if helps:
        for level in of_bad:
            level[masks] += 1
    model = MadeUp(1, score_by="auto")
    model.remember()
    batches, defects = good_and_bad([good], [bad], masks)
    batches[0]["memory"], defects[0]["memory"] = of_good, of_bad
    record = choose(model, batches, defects)
    assert [row["score_by"] for row in record.scores] == ["maps", "memory"]
    assert model.choice().score_by == ("memory" if helps else "maps")
    assert (model.memory is None) == (not helps)
    line = dict(choice_lines(vars(record)))["image score"]
    assert line.startswith("by the memory of normal images, maximum: ") == helps


def test_the_memory_needs_both_margins():
    parts, rest = ((), False), ((), "none", 0.0)

    def by(gain):
        scores = {(parts, "maps", *rest): 0.5, (parts, "memory", *rest): 0.5 + gain}
        return best({(parts, (), "none"): 0.5}, scores).score_by

    assert by(1.9 * MARGIN) == "maps"
    assert by(2.1 * MARGIN) == "memory"


def test_what_is_joined_needs_both_margins():
    plain, other = ((), False), ((), True)

    def taken(gain):
        maps = {(plain, (), "none"): 0.5, (other, (), "none"): 0.5 + gain}
        way = "maps", (), "none", 0.0
        scores = {(plain, *way): 0.5, (other, *way): 0.5 + gain}
        return best(maps, scores).subspace

    assert not taken(0.9 * MARGIN)
    assert taken(1.1 * MARGIN)


def test_the_lines_say_both_numbers(noise):
    good, bad = (1 + 0.1 * noise(n) for n in (GOOD, BAD))
    for maps in (good, bad):
        maps[:, :8] *= 10
    masks = squares(range(8, 24), range(24))
    bad[masks] += 3
    options = {"scale_maps": "auto", "scale_score": "none", "pooling": 0.003}
    _, record = chosen([good], [bad], masks, **options)
    (map_name, of_map), (score_name, of_score) = choice_lines(vars(record))
    assert (map_name, score_name) == ("anomaly map", "image score")
    plain = record.maps[0]["aupro"]
    on = f"on {BAD} synthesised defects and {GOOD} held-out good images"
    assert of_map == f"scaled by position: AUPRO 1.000 {on}, against {plain:.3f} not scaled"
    auroc = record.scores[0]["image_auroc"]
    assert of_score == f"not scaled, mean of the highest 0.3 %: image AUROC {auroc:.3f} {on}"
    assert choice_lines(None) == []


def test_the_lines_name_pairs_subspace_and_what_the_plain_way_is_compared_with():
    rows = [
        {"scale_maps": "none", "pair_weights": [1.0, 1.0], "subspace": False, "aupro": 0.8},
        {"scale_maps": "none", "pair_weights": [0.0, 1.0], "subspace": True, "aupro": 0.7},
    ]
    scores = [{**row, "scale_score": "none", "pooling": 0.0, "image_auroc": 0.9} for row in rows]
    for row in scores:
        del row["scale_maps"], row["aupro"]
    of = {"images": 9, "defects": 30, "maps": rows, "scores": scores}
    plain = {"scale_maps": "none", "scale_score": "none", "pooling": 0.0}
    first = {**plain, "pair_weights": [1.0, 1.0], "subspace": False}
    (_, line), _ = choice_lines({**of, "chosen": first})
    assert line.endswith("held-out good images, at most 0.700 in 1 other way")
    second = {**plain, "pair_weights": [0.0, 1.0], "subspace": True}
    (_, line), (_, score) = choice_lines({**of, "chosen": second})
    assert line.startswith("not scaled, pair 2 alone, times the subspace's map: AUPRO 0.700 on 30 ")
    assert score.endswith("against 0.900 not scaled, maximum")


def test_the_numbers_are_those_of_the_answers(noise):
    """AUROC and AUPRO anew, from what the model says in the end."""
    from fastad.evaluation import aupro, image_metrics

    good, bad = ([1 + noise(n), 1 + noise(n, 16)] for n in (GOOD, BAD))
    masks = squares(range(24), range(24))
    bad[0][masks] += 0.4
    options = {"scale_maps": "position", "scale_score": "none", "pooling": 0.01, "subspace": True}
    model = MadeUp(**options)
    batches, defects = good_and_bad(good, bad, masks)
    model.calibrate_maps(lambda: iter(batches))
    record = choose(model, batches, defects)
    answers = [model.answer(batch) for batch in (*batches, *defects)]
    maps, truth = torch.cat([a.anomaly_map for a in answers]), torch.zeros(GOOD + BAD, SIDE, SIDE)
    truth[GOOD:] = masks.float()
    cells = [m.view(-1, 8, 4, 8, 4).amax((2, 4)).numpy() for m in (truth, maps)]
    assert record.maps[0]["aupro"] == aupro(cells[0] > 0, cells[1])
    labels, scores = np.arange(GOOD + BAD) >= GOOD, torch.cat([a.score for a in answers]).numpy()
    assert record.scores[0]["image_auroc"] == image_metrics(labels, scores)["image_auroc"]


def test_a_region_of_interest_chooses_by_what_is_inside(noise):
    good, bad = (1 + 0.1 * noise(n) for n in (GOOD, BAD))
    masks = squares(range(8, 24), range(24))
    bad[masks] += 3
    records = []
    for outside in (0.0, 50.0):  # the upper rows vary, and are high in images of both kinds
        for maps in (good, bad):
            maps[:, :8] = outside * noise(len(maps))[:, :8]
        model = MadeUp(1, 1, scale_maps="auto", scale_score="auto", pooling="auto")
        inside = torch.ones(SIDE, SIDE, dtype=torch.bool)
        inside[:8] = False
        model.set_roi(inside)
        batches, defects = good_and_bad([good], [bad], masks)
        model.calibrate_maps(lambda batches=batches: iter(batches))
        records.append(choose(model, batches, defects))
    assert records[0] == records[1]
    assert max(row["image_auroc"] for row in records[0].scores) == 1.0
