"""Several candidates: which one is kept, what of them is stopped, and the check of each."""

import warnings

import numpy as np
import pytest

import fastad
from fastad import models
from fastad.commands.info import contents
from fastad.inference import fitting
from fastad.inference.candidates import better
from fastad.models.auto import AutoConfig
from fastad.training import CheckpointError, Trainer, TrainingDivergedError

GOOD = np.random.default_rng(0).integers(100, 156, (20, 32, 40, 3), dtype=np.uint8)
SHORT = {"epochs": 1, "batch_size": 4, "pseudo_anomalies": 4}


@pytest.fixture(autouse=True)
def few_images_are_no_news():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a false-positive rate of|stage .* of validation")
        yield


def auto(**options):
    settings = {"image_size": (32, 40), "device": "cpu", "precision": "float32"}
    rate = {"false_positive_rate": 0.4, "teacher_weights": "embedded"}
    return fastad.Detector(**settings, **rate, **options)


def row(model, auroc, aupro):
    return {"model": model, "image_auroc": auroc, "aupro": aupro}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 0.8, 0.1), ("b", 0.7, 0.9)], "b"),  # the mean of both decides
        ([("a", 0.7, 0.9), ("b", 0.8, 0.1)], "a"),
        ([("a", 0.8, 0.5), ("b", 0.81, 0.509)], "a"),  # alike: the first one
        ([("a", 0.8, 0.5), ("b", 0.81, 0.511)], "b"),
        ([("a", 0.8, 0.5), ("b", 0.82, 0.503), ("c", 0.82, 0.507)], "b"),
        ([("patchcore", None, None), ("rstpm", 0.9, 0.9), ("x", 0.9, 0.9)], "rstpm"),
        ([("a", None, None), ("b", None, None)], "b"),
    ],
)
def test_better(rows, expected):
    assert better([row(*values) for values in rows]) == expected


@pytest.fixture(scope="module")
def trained():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return auto().fit(GOOD, **SHORT)


def test_all_candidates_are_trained_and_the_better_is_kept(trained, tmp_path):
    assert fastad.Detector().model == "auto"
    training = trained.training_record_
    rows = training["candidates"]
    assert [r["model"] for r in rows] == list(models.candidates("auto")) == ["patchcore", "rstpm"]
    assert trained.model_.name == training["model"] == better(rows)
    # All were judged by the same images: those that none of them saw.
    assert {(r["images"], r["defects"]) for r in rows} == {(2, 150)}
    assert all(0 <= r["image_auroc"] <= 1 and 0 <= r["aupro"] <= 1 for r in rows)

    trained.save(tmp_path / "a.fastad")
    loaded = fastad.load(tmp_path / "a.fastad")
    assert loaded.model == trained.model_.name
    assert loaded.training_record_["candidates"] == rows
    lines = dict(contents(str(tmp_path / "a.fastad")))
    assert lines["kept of candidates"].endswith(
        ", ".join(f"{r['model']} {r['image_auroc']:.3f} and {r['aupro']:.3f}" for r in rows)
    )
    assert lines["self-check"] == training["self_check"]["summary"]


def test_what_is_better_is_kept(monkeypatch):
    for name in models.candidates("auto"):
        monkeypatch.setattr(fitting, "better", lambda rows, name=name: name)
        detector = auto().fit(GOOD, **SHORT)
        assert detector.model_.name == name
        alone = fastad.Detector(
            name,
            image_size=(32, 40),
            device="cpu",
            precision="float32",
            false_positive_rate=0.4,
            teacher_weights="embedded",
        ).fit(GOOD, **(SHORT if name == "rstpm" else {}))
        assert np.array_equal(detector.predict(GOOD).score, alone.predict(GOOD).score)
        assert detector.threshold_ == alone.threshold_


def test_a_self_check_is_the_check_of_the_held_out_images():
    detector = fastad.Detector(
        "subspace", image_size=(32, 40), teacher_weights="embedded", false_positive_rate=0.4
    ).fit(GOOD)
    held_out = GOOD[detector.training_record_["held_out"]]
    expected = detector.check(held_out, count=150, seed=0).to_dict()
    found = detector.training_record_["self_check"]
    for name in ("image_auroc", "pixel_auroc", "aupro", "found", "by_kind_and_size"):
        assert found[name] == expected[name], name
    assert found["false_alarms"]["held_out"] == expected["false_alarms"]["new"]
    assert "candidates" not in detector.training_record_


@pytest.mark.parametrize(
    "options",
    [{"self_check": False}, {"validation_fraction": 0.0}],
    ids=["not asked for", "nothing held out"],
)
def test_no_self_check(options):
    detector = fastad.Detector("subspace", image_size=32, teacher_weights="embedded")
    assert detector.fit(GOOD, **options).training_record_.get("self_check") is None


def test_without_held_out_images_the_usual_one_is_kept():
    detector = auto().fit(GOOD, **SHORT, validation_fraction=0.0)
    assert detector.model_.name == "rstpm"


def test_auto_asks_for_the_self_check():
    with pytest.raises(ValueError, match="self_check"):
        auto().fit(GOOD, self_check=False)


def test_options_are_those_of_all_candidates():
    for name in AutoConfig.__dataclass_fields__:
        for candidate in models.candidates("auto"):
            assert name in models.config_class(candidate).__dataclass_fields__
    with pytest.raises(
        TypeError, match=r"'attention' of auto, which rstpm has; .*name a model for its own"
    ):
        auto(attention=False)
    with pytest.raises(ValueError, match="scale_maps"):
        auto(scale_maps="nothing").fit(GOOD)
    with pytest.raises(TypeError, match="unknown training option 'epoch'"):
        auto().fit(GOOD, epoch=3)
    with pytest.raises(ValueError, match=r"unknown model 'aut'.*did you mean auto"):
        fastad.Detector("aut").fit(GOOD)


def stopping(monkeypatch, error, epoch):
    """The trainer of rstpm raises an error at the end of an epoch of its first stage."""
    fit = Trainer.fit

    def fit_and_stop(self, *arguments, **options):
        if self.model.name == "rstpm":

            def progress(event):
                if event.validation_score is not None and event.epoch == epoch:
                    raise error

            self.progress = progress
        return fit(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "fit", fit_and_stop)


def test_a_candidate_that_diverges_is_left_out(monkeypatch):
    stopping(monkeypatch, TrainingDivergedError("the loss is NaN"), 1)
    with pytest.warns(UserWarning, match="patchcore is kept; candidate rstpm is missing"):
        detector = auto().fit(GOOD, **SHORT)
    training = detector.training_record_
    assert detector.model_.name == "patchcore"
    assert not training["interrupted"]
    assert "candidate rstpm is missing: the loss is NaN" in training["notes"]


def test_ctrl_c_in_a_later_candidate_keeps_what_is_ready(monkeypatch, tmp_path):
    stopping(monkeypatch, KeyboardInterrupt(), 2)
    checkpoint = tmp_path / "checkpoint"
    options = SHORT | {"epochs": 3}
    with pytest.warns(UserWarning, match="patchcore is kept; candidate rstpm is missing: it was"):
        detector = auto().fit(GOOD, **options, checkpoint=checkpoint)
    assert detector.model_.name == "patchcore"
    assert detector.training_record_["interrupted"]
    assert detector.training_record_["stopped_candidate"]["model"] == "rstpm"
    monkeypatch.undo()
    monkeypatch.setattr(fitting, "better", lambda rows: "rstpm")
    resumed = auto().fit(GOOD, **options, checkpoint=checkpoint, resume=True)
    whole = auto().fit(GOOD, **options)
    assert not resumed.training_record_["interrupted"]
    assert np.array_equal(resumed.predict(GOOD).score, whole.predict(GOOD).score)


def test_ctrl_c_in_the_self_check_loses_nothing(monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "check", interrupted)
    detector = fastad.Detector("subspace", image_size=32, teacher_weights="embedded").fit(GOOD)
    assert detector.threshold_ is not None
    assert detector.training_record_["self_check"] is None
    assert not detector.training_record_["interrupted"]


def test_a_changed_option_is_refused_before_a_candidate_is_trained(monkeypatch, tmp_path):
    stopping(monkeypatch, KeyboardInterrupt(), 1)
    checkpoint = tmp_path / "checkpoint"
    with pytest.warns(UserWarning, match="candidate rstpm is missing"):
        auto().fit(GOOD, **SHORT | {"epochs": 2}, checkpoint=checkpoint)
    monkeypatch.undo()
    trained = []
    monkeypatch.setattr(fitting, "fit_model", lambda model, *_, **__: trained.append(model.name))
    changed = SHORT | {"epochs": 2, "learning_rate": 0.1}
    with pytest.raises(CheckpointError, match=r"belongs to another training: .*learning_rate"):
        auto().fit(GOOD, **changed, checkpoint=checkpoint, resume=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        auto().fit(GOOD, **changed, checkpoint=tmp_path / "none", resume=True)
    assert trained == []
