"""Which epoch is kept: made-up sequences, and synthesised defects in a real training."""

import math

import numpy as np
import pytest
import torch
from toy import Toy, options

from fastad import models
from fastad.data import TrialDefects
from fastad.models import Prediction, Stage
from fastad.models.roi import RegionOfInterest
from fastad.training import (
    CheckpointError,
    StageRecord,
    Trainer,
    TrainingConfig,
    TrainingDivergedError,
    TrainingRecord,
)
from fastad.training.choice import MARGIN, reason, replaces
from fastad.training.trial import DEFECTS, KeptDefects, quality, spread, trial_defects


def kept(scores, qualities=()):
    """The epoch that is kept after each epoch."""
    best, found = None, []
    for epoch in range(1, len(scores) + 1):
        if replaces(best, scores[:epoch], list(qualities[:epoch])):
            best = epoch
        found.append(best)
    return found


@pytest.mark.parametrize(
    ("scores", "qualities", "expected"),
    [
        # Starts low, rises, falls: the late one, though its score never comes back to the first.
        ([0.1, 0.5, 0.4, 0.3], [0.5, 0.7, 0.9, 0.9], [1, 2, 3, 4]),
        # Equally good by defects: the lower score.
        ([0.3, 0.2, 0.25, 0.1], [0.9, 0.9, 0.9, 0.9], [1, 2, 2, 4]),
        # A better one within the margin does not outweigh a lower score.
        ([0.1, 0.2], [0.900, 0.909], [1, 1]),
        ([0.1, 0.2], [0.900, 0.911], [1, 2]),
        # A lower score does not outweigh defects that are no longer found.
        ([0.3, 0.2, 0.1], [0.9, 0.88, 0.5], [1, 1, 1]),
        # A little worse, much quieter; then a best beyond its margin.
        ([0.3, 0.1, 0.2], [0.900, 0.895, 0.906], [1, 2, 3]),
        # Small steps cannot creep down: the margin is from the best, not from the one kept.
        ([0.5, 0.4, 0.3], [0.900, 0.892, 0.884], [1, 2, 2]),
        ([3.0, 1.0, 2.0, 1.0], [], [1, 2, 2, 2]),
        ([1.0], [], [1]),
    ],
)
def test_made_up_trainings(scores, qualities, expected):
    assert kept(scores, qualities) == expected


def test_the_reason_names_the_numbers():
    assert reason(2, [0.3, 0.1234567], []) == "lowest error on held-out good images, 0.1235"
    assert reason(1, [0.25, 0.5], [0.9, 0.9051]) == (
        "AUROC 0.900 on synthesised defects (best 0.905), error on held-out good images 0.25"
    )


@pytest.mark.parametrize(
    ("epochs", "best", "is_early"),
    [(20, 4, True), (20, 5, False), (5, 1, True), (4, 1, False), (9, 2, False), (0, None, False)],
)
def test_an_early_epoch_is_one_of_the_first_fifth(epochs, best, is_early):
    assert StageRecord("x", 1, epochs=epochs, best_epoch=best).is_early is is_early


@pytest.mark.parametrize(
    ("qualities", "said"),
    [
        ([0.5, 0.6, 0.7], True),
        ([0.5, 0.6, 0.6 + MARGIN / 2], False),
        ([0.5] * 17 + [0.80, 0.806, 0.812], True),  # within the last two of twenty
        ([0.5] * 17 + [0.80, 0.804, 0.808], False),
    ],
)
def test_more_epochs_help_where_defects_are_told_apart_better(qualities, said):
    """However much the score still falls."""
    record = StageRecord("x", 1)
    for epoch, found in enumerate(qualities):
        assert record.end_epoch({}, 2.0**-epoch, found)
    assert record.still_improving is said


class Judged(Toy):
    """Whose answers on defects tell them from good images in epochs where ``sharp`` says so."""

    stages = (Stage(judged_by_defects=True),)
    training_defaults = {"epochs": 4}  # noqa: RUF012

    def __init__(self, scores, sharp):
        super().__init__(scores)
        self.sharp, self.epoch = sharp, 0
        self.register_buffer("calibrated", torch.zeros(()))
        self.unseen = []

    def calibrate_maps(self, unseen):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.unseen.append(torch.cat([batch["image"] for batch in unseen()]))
        self.calibrated += 1
        self.epoch += 1

    def answer(self, batch):
        assert not self.training
        images = batch["image"]
        right = self.sharp[self.epoch - 1]
        mask = batch.get("mask", torch.zeros(len(images), 32, 32, dtype=torch.bool))
        maps = mask.float() if right else torch.zeros(len(images), 32, 32)
        return Prediction(maps.amax((1, 2)), maps)


@pytest.fixture
def larger():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(60, 190, (30, 3, 32, 32), dtype=torch.uint8, generator=generator)


def one_batch(**changes):
    return options(batch_size=30, **changes)


def test_defects_choose_and_the_record_says_so(larger, tmp_path, caplog):
    caplog.set_level("INFO", "fastad")
    model = Judged([1.0, 5.0, 4.0, 3.0], [False, False, True, True])
    events = []
    record = Trainer(model, one_batch(), events.append).fit(larger, checkpoint=tmp_path / "a.ckpt")
    stage = record.stages[0]
    assert stage.qualities == [0.5, 0.5, 1.0, 1.0]
    assert record.best_epoch == 4
    assert (
        stage.reason
        == "AUROC 1.000 on synthesised defects (best 1.000), error on held-out good images 3"
    )
    assert f"kept epoch 4 of 4: {stage.reason}" in caplog.text
    ends = [e for e in events if e.validation_score is not None]
    assert [e.quality for e in ends] == stage.qualities
    assert [e.is_best for e in ends] == [True, False, True, True]
    # Before each epoch was judged, and of training images at the end, of the epoch that was kept.
    *before, last = model.unseen
    assert len(before) == 4
    held_out = larger[record.held_out].float() / 255
    assert all(torch.equal(unseen, held_out) for unseen in before)
    others = sorted(set(range(len(larger))) - set(record.held_out))
    assert torch.equal(last, larger[others].float() / 255)
    assert model.calibrated == 5


def test_the_first_epochs_of_a_stage_are_warned_of(larger):
    with pytest.warns(UserWarning, match="epoch 1 of 5 is kept: no later one was better"):
        Trainer(Toy(scores=[1.0, 2.0, 2.0, 2.0, 2.0]), one_batch(epochs=5)).fit(larger)


@pytest.mark.parametrize("held_out", [[], [3, 4, 5, 6]])
def test_too_few_images_do_not_judge(larger, held_out):
    model = Judged([1.0, 5.0, 4.0, 3.0], [True] * 4)
    record = Trainer(model, one_batch()).fit(larger, held_out=held_out)
    assert record.stages[0].qualities == []
    assert record.best_epoch == 1


@pytest.mark.parametrize(
    ("shape", "count"), [((3, 32, 32), 5), ((3, 31, 64), 0), ((3, 32, 32), 4), ((1, 32, 32), 5)]
)
def test_where_defects_can_be_drawn(shape, count):
    images = torch.full((6, *shape), 99, dtype=torch.uint8)
    found = trial_defects(images, torch.arange(max(count, 4)), 7)
    assert (found is not None) == (shape == (3, 32, 32) and count == 5)
    if found is not None:
        assert (len(found), found.seed) == (DEFECTS, 7)


def test_defects_are_drawn_once(larger):
    defects = TrialDefects(larger, range(6), count=15)
    kept_ones = KeptDefects(defects, seed=0)
    assert kept_ones.is_fixed
    assert len(kept_ones) == 15
    for index in (0, 7, 14):
        assert torch.equal(kept_ones[index]["image"], defects[index]["image"])
        assert torch.equal(kept_ones[index]["mask"], defects[index]["mask"])


def test_items_are_spread():
    assert spread(torch.arange(10), 60).tolist() == list(range(10))
    assert spread(torch.arange(10), 4).tolist() == [0, 2, 5, 7]


def rank_auroc(labels, scores):
    """Probability that a defect's score is above a good one's, ties one half, in float64."""
    positive, negative = scores[labels][:, None].double(), scores[~labels][None].double()
    return ((positive > negative).double() + 0.5 * (positive == negative).double()).mean().item()


@pytest.mark.parametrize("size", [(32, 32), (33, 47)])
def test_the_quality_is_the_mean_of_two_aurocs(size):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(13, 3, *size, generator=generator)
    masks = torch.rand(8, *size, generator=generator) > 0.995
    images[:8] += 0.3 * masks[:, None]

    def answer(batch):
        maps = batch["image"].mean(1)
        return Prediction(maps.amax((1, 2)), maps)

    clean = [{"image": images[8:10]}, {"image": images[10:]}]
    defective = [
        {"image": images[:5], "mask": masks[:5]},
        {"image": images[5:8], "mask": masks[5:]},
    ]
    found = quality(answer, clean, defective)

    def cells(x):
        rows = [range(i, min(i + 4, size[0])) for i in range(0, size[0], 4)]
        columns = [range(i, min(i + 4, size[1])) for i in range(0, size[1], 4)]
        return torch.tensor(
            [[float(max(x[r, c] for r in rs for c in cs)) for cs in columns] for rs in rows]
        )

    all_masks = torch.cat([masks, torch.zeros(5, *size, dtype=torch.bool)])
    maps = images.mean(1)
    pooled = torch.stack([cells(x) for x in maps]).flatten()
    truth = torch.stack([cells(x) for x in all_masks.float()]).flatten() > 0
    labels = torch.tensor([True] * 8 + [False] * 5)
    expected = (rank_auroc(labels, maps.amax((1, 2))) + rank_auroc(truth, pooled)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert 0.5 < expected < 1


@pytest.mark.parametrize("where", ["score", "anomaly_map"])
def test_answers_that_are_not_finite_stop_the_training(larger, where):
    class Diverging(Judged):
        def answer(self, batch):
            found = super().answer(batch)
            getattr(found, where)[0] = math.nan
            return found

    with pytest.raises(TrainingDivergedError, match="anomaly score became nan in epoch 1"):
        Trainer(Diverging([1.0] * 4, [True] * 4), options()).fit(larger)


@pytest.mark.parametrize("name", ["stpm", "gtrans", "rstpm"])
@pytest.mark.parametrize("gib", [4.0, 0.0])
def test_models_are_judged_and_resume_to_the_same_bytes(name, gib, larger, tmp_path):
    small = {
        "stpm": {"layers": ("layer1", "layer2")},
        "gtrans": {"backbone": "resnet18", "token_width": 16},
        "rstpm": {"teacher2": "resnet18", "bottleneck": "learned", "discriminator_width": 4},
    }[name]
    more = {"pseudo_anomalies": 8, "workers": 0} if name == "rstpm" else {}

    def fit(path=None, stop=None, resume=False):
        torch.manual_seed(0)
        model = models.build(name, **small, **models.without_weights(name))
        config = TrainingConfig.for_model(
            model,
            epochs=4,
            batch_size=12,
            device="cpu",
            precision="float32",
            feature_cache_gib=gib,
            **more,
        )

        def progress(event):
            if stop and event.validation_score is not None and event.epoch == stop:
                raise KeyboardInterrupt

        record = Trainer(model, config, progress).fit(larger, checkpoint=path, resume=resume)
        return model, record

    path = tmp_path / "a.ckpt"
    model, record = fit()
    fit(path, stop=2)
    again, resumed = fit(path, resume=True)
    first, resumed_first = record.stages[0], resumed.stages[0]
    assert len(first.qualities) == 4
    assert first.qualities == resumed_first.qualities
    assert first.validation_scores == resumed_first.validation_scores
    assert (first.best_epoch, first.reason) == (resumed_first.best_epoch, resumed_first.reason)
    for (key, value), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), key
    assert [stage.qualities for stage in record.stages[1:]] == [[]] * (len(record.stages) - 1)


def test_a_record_without_qualities_is_read(larger):
    """As it was before epochs were chosen by defects."""
    record = Trainer(Toy(scores=[1.0, 0.5]), one_batch(epochs=2)).fit(larger)
    content = record.to_dict()
    for name in ("qualities", "reason"):
        del content["stages"][0][name]
    stage = TrainingRecord.from_dict(content).stages[0]
    assert (stage.best_epoch, stage.qualities, stage.reason) == (2, [], "")


def test_a_training_chosen_otherwise_is_not_resumed(larger, tmp_path):
    path, model = tmp_path / "a.ckpt", Judged([1.0] * 4, [True] * 4)
    Trainer(Toy(scores=[1.0] * 2), one_batch(epochs=2)).fit(larger, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"epoch chosen by null in the file, .60 synth"):
        Trainer(model, one_batch()).fit(larger, checkpoint=path, resume=True)


def test_qualities_are_plain_numbers(larger):
    model = Judged([1.0] * 4, [True] * 4)
    record = Trainer(model, one_batch()).fit(larger)
    found = record.to_dict()["stages"][0]
    assert found["qualities"] == [1.0] * 4
    assert not any(isinstance(value, np.generic) for value in found["qualities"])


def test_the_quality_goes_by_the_pixels_inside():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(6, 24, 20, generator=generator), torch.zeros(6, 24, 20) > 0
    masks[3:, 8:16, 4:12] = True
    inside = torch.zeros(24, 20) > 0
    inside[4:20, 4:16] = True  # whole cells
    maps = maps * inside

    def answer(batch):
        return Prediction(batch["maps"].amax(dim=(1, 2)), batch["maps"])

    clean = [{"maps": maps[:3]}]
    found = quality(
        answer, clean, [{"maps": maps[3:], "mask": masks[3:]}], RegionOfInterest(inside)
    )
    cropped = [m[:, 4:20, 4:16] for m in (maps, masks)]
    defective = [{"maps": cropped[0][3:], "mask": cropped[1][3:]}]
    assert found == quality(answer, [{"maps": cropped[0][:3]}], defective)
    assert found != quality(answer, clean, [{"maps": maps[3:], "mask": masks[3:]}])
