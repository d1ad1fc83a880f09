"""What a training says of its phases while it runs: all of them, and the time of all."""

import logging
import math

import torch

from fastad import Detector, models
from fastad.training import Trainer, TrainingConfig
from fastad.training.agenda import EXAMINATION, SELF_CHECK, in_words, phases_of
from fastad.training.batches import split_indices, split_off
from fastad.training.map_choice import DEFECTS, LEAST_IMAGES
from fastad.training.stages import plan_stages

IMAGES = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)


def test_every_phase_of_a_fit_is_reported(caplog):
    events = []
    detector = Detector("stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2)
    with caplog.at_level(logging.INFO, "fastad"):
        detector.fit(IMAGES.permute(0, 2, 3, 1).numpy(), epochs=8, progress=events.append)
    phases = list(dict.fromkeys(event.phase for event in events))
    assert phases[0] == "reading images"
    assert phases[1:3] == ["teachers' features for training", ""]
    assert phases[-2:] == ["final examination", "self-check"]
    done = [(event.step, event.steps) for event in events if event.phase == "self-check"]
    assert done[0] == (0, 0)
    assert done[-1] == (154, 154)
    assert math.isnan(events[0].seconds_left)
    stage = [event for event in events if event.epochs]
    assert all(event.seconds_left > 0 for event in stage)  # more comes after its last step
    assert stage[0].seconds_left > stage[-1].seconds_left
    (plan,) = [message for message in caplog.messages if message.startswith("plan: ")]
    assert plan.startswith("plan: 16 images and 4 held out, ")
    # Too few images for a choice of maps.
    assert plan.endswith("training 8 epochs, final examination, self-check")


def test_the_phases_of_each_model(small_model):
    config = TrainingConfig.for_model(small_model)
    train, held_out = split_indices(20, 0.2, 0)
    plans = plan_stages(small_model, config, IMAGES, train, held_out)
    phases = phases_of(small_model, plans, [EXAMINATION, SELF_CHECK])
    assert all(work > 0 for work in phases.values())
    for plan in plans:
        assert plan.stage.name in phases
        passes = plan.config.epochs * len(plan.train_items) if plan.stage.trains else 16
        assert phases[plan.stage.name] >= passes
    words = in_words(phases, plans)
    assert all(plan.stage.name in words for plan in plans)
    assert words.endswith(", final examination, self-check")
    assert list(phases)[-2:] == ["final examination", "self-check"]
    assert "final examination" not in phases_of(small_model, plans)


def test_the_choice_of_maps_is_planned_where_there_is_one():
    def phases(held_out, name="subspace", **options):
        model = models.build(name, teacher_weights="embedded", **options)
        train, validation = split_off(20, range(held_out))
        config = TrainingConfig.for_model(model)
        return phases_of(
            model, plan_stages(model, config, IMAGES, train, validation), [EXAMINATION]
        )

    for name in ("subspace", "stpm"):
        found = phases(LEAST_IMAGES, name)
        assert list(found)[-2:] == ["choice of maps", "final examination"]
        assert found["choice of maps"] == LEAST_IMAGES + DEFECTS  # each is looked at once
        assert "choice of maps" not in phases(LEAST_IMAGES - 1, name)
    given = {"scale_maps": "none", "scale_score": "none", "pooling": "maximum"}
    assert "choice of maps" not in phases(LEAST_IMAGES, **given)


def test_the_last_step_of_a_training_alone_leaves_nothing(tiny_stpm):
    import copy

    events = []
    config = TrainingConfig.for_model(tiny_stpm, epochs=2)
    Trainer(copy.deepcopy(tiny_stpm), config, events.append).fit(IMAGES)
    last = [event for event in events if event.epochs][-1]
    assert last.seconds_left >= 0
    assert math.isfinite(last.seconds_left)
