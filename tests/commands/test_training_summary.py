"""What a training record says of its stages and of the choice after them."""

import numpy as np

import fastad
from fastad.commands import evaluate, info
from fastad.commands.training_summary import epochs_kept, has_stages, kept_by, stage_lines
from fastad.inference import Artifact, save


def stage(name, **others):
    config = {"epochs": 9, "optimizer": "adam", "learning_rate": 5e-3}
    return {"name": name, "n_train": 40, "config": config, "epochs": 9, "best_epoch": 7} | others


def test_one_stage_is_the_training():
    for training in (
        {"epochs": 12, "best_epoch": 9},
        {"epochs": 12, "best_epoch": 9, "stages": [stage("training", seconds=3.0)]},
    ):
        assert not has_stages(training)
        assert epochs_kept(training) == "9 of 12"
        assert stage_lines(training) == []


def test_several_stages_have_a_line_each():
    stages = [stage("pairs", seconds=61.4), stage("discriminator", seconds=8.6, best_epoch=3)]
    training = {"epochs": 18, "best_epoch": 3, "stages": stages}
    assert epochs_kept(training) == "pairs 7 of 9, discriminator 3 of 9"
    assert stage_lines(training) == [
        ("pairs", "epoch 7 of 9 kept, 40 images an epoch, adam at 0.005, 61 s"),
        ("discriminator", "epoch 3 of 9 kept, 40 images an epoch, adam at 0.005, 9 s"),
    ]


def test_why_an_epoch_was_kept_is_said():
    training = {"epochs": 12, "best_epoch": 9, "stages": [stage("training", reason="it is best")]}
    assert epochs_kept(training) == "9 of 12"
    assert kept_by(training) == [("epoch kept by", "it is best")]
    assert kept_by({"epochs": 12, "best_epoch": 9}) == []  # of an older file
    training["stages"] = [stage("pairs", seconds=61.4, reason="it is best")]
    [(_, line)] = stage_lines(training)
    assert line.startswith("epoch 7 of 9 kept, 40 images")
    assert line.endswith(", 61 s; kept by it is best")
    assert kept_by(training) == []


def test_an_interrupted_stage_says_what_it_was_to_have():
    stages = [stage("pairs", seconds=61.4, epochs=4, best_epoch=3)]
    training = {"epochs": 4, "best_epoch": 3, "stages": stages}
    assert has_stages(training)
    assert epochs_kept(training) == "pairs 3 of 9"
    [(name, line)] = stage_lines(training)
    assert name == "pairs"
    assert line.startswith("epoch 3 of 9 kept, stopped after 4, 40 images an epoch")


def test_a_stage_that_trains_nothing_has_no_epochs():
    alone = {"name": "training", "n_train": 8, "epochs": 0, "config": {"batch_size": 4}}
    assert epochs_kept({"epochs": 0, "best_epoch": None, "stages": [alone]}) == "none"
    first = {**alone, "name": "memory", "seconds": 2.4}
    second = {
        "name": "head",
        "n_train": 8,
        "epochs": 3,
        "best_epoch": 2,
        "config": {"epochs": 3, "optimizer": "adam", "learning_rate": 0.1},
        "seconds": 1.0,
    }
    training = {"epochs": 3, "stages": [first, second]}
    assert epochs_kept(training) == "head 2 of 3"
    lines = dict(stage_lines(training))
    assert lines["memory"] == "no epochs, 8 images, 2 s"
    assert lines["head"].startswith("epoch 2 of 3 kept")


def test_what_was_chosen_of_the_maps_is_in_info_and_report(tiny_stpm, tmp_path):
    plain = {"pair_weights": [], "subspace": False}
    ways = {"scale_maps": "position", "scale_score": "none", "pooling": 0.01}
    choice = {
        "chosen": {**ways, **plain},
        "images": 42,
        "defects": 225,
        "maps": [
            {"scale_maps": "none", **plain, "aupro": 0.66},
            {"scale_maps": "position", **plain, "aupro": 0.71},
        ],
        "scores": [{"scale_score": "none", "pooling": 0.01, **plain, "image_auroc": 0.9}],
    }
    path = tmp_path / "d.fastad"
    training = {"epochs": 1, "best_epoch": 1, "choice": choice}
    save(path, Artifact(tiny_stpm, (32, 32), np.empty(0), 0.01, None, training))
    counts = {"normal": 1, "defect": 1, "skipped": 0, "trained_on": 0}
    metrics = {"supervision": "", "counts": counts}
    on = "225 synthesised defects and 42 held-out good images"
    for shown in (
        dict(info.contents(str(path))),
        evaluate._facts(fastad.load(path), str(path), "data", metrics),
    ):
        assert (
            shown["anomaly map"]
            == f"scaled by position: AUPRO 0.710 on {on}, against 0.660 not scaled"
        )
        assert (
            shown["image score"]
            == f"not scaled, mean of the highest 1 %: image AUROC 0.900 on {on}"
        )
