"""A training that goes on from a detector: weights, images, history, and what it refuses."""

import random
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fastad
from fastad import inference, models
from fastad._estimator import NotFittedError
from fastad.data.training_set import file_digests
from fastad.inference.holding_out import chosen_to_hold_out
from fastad.inference.known_images import given_to_training, trained_and_apart
from fastad.inference.starting import LEAST_HELD_OUT, Start, lineage
from fastad.training import CheckpointError, TrainingConfig
from fastad.training.config import GOING_ON

TINY = {"layers": ("layer1",), "teacher_weights": "embedded"}
OF_SPEED = {"image_size": 32, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def few_images_are_no_news():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a false-positive rate of|stage .* of validation")
        warnings.filterwarnings("ignore", "epoch . of . is kept")
        yield


def drawn(count, seed, low=100, high=156):
    return np.random.default_rng(seed).integers(low, high, (count, 32, 32, 3), dtype=np.uint8)


def write(folder, images, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{prefix}{i:03}.png")
    return folder


def tiny(**options):
    return fastad.Detector("stpm", **OF_SPEED, **TINY, **options, false_positive_rate=0.2)


def going_on(**options):
    return fastad.Detector(**OF_SPEED, false_positive_rate=0.2, **options)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A folder, a detector of it, and its file."""
    root = tmp_path_factory.mktemp("old")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = tiny().fit(write(root / "old", drawn(30, 0)), epochs=2, self_check=False)
    detector.save(root / "old.fastad")
    return root / "old", detector, root / "old.fastad"


def held_out_digests(record):
    return {record["image_digests"][i] for i in record["held_out"]}


def trained_digests(record):
    return {*record["image_digests"]} - held_out_digests(record)


def test_what_was_trained_on_is_never_held_out():
    for seed in range(300):
        rng = random.Random(seed)
        ids = [f"{rng.randrange(60):02}" for _ in range(rng.randrange(1, 80))]  # some are copies
        trained = {f"{i:02}" for i in range(60) if rng.random() < 0.4}
        apart = {f"{i:02}" for i in range(60) if rng.random() < 0.2} - trained
        share = rng.choice([0.1, 0.2, 0.5])
        chosen = chosen_to_hold_out(ids, trained, apart, share, seed)
        new = {*ids} - trained - apart
        assert not chosen & trained
        assert chosen & apart == {*ids} & apart  # held out again
        expected = min(max(1, round(share * len(new))), len(new) - 1) if new else 0
        assert len(chosen & new) == expected
        assert chosen == chosen_to_hold_out(ids, trained, apart, share, seed)
        assert chosen_to_hold_out(ids, trained, apart, 0, seed) == set()
        layout = {i for i in ids if rng.random() < 0.3}
        assert chosen_to_hold_out(ids, trained, apart, share, seed, layout) == layout - trained


def test_other_seeds_hold_out_other_new_images():
    ids = [str(i) for i in range(40)]
    assert len({frozenset(chosen_to_hold_out(ids, set(), set(), 0.2, s)) for s in range(9)}) == 9


@pytest.mark.parametrize("seed", range(2))
def test_no_training_of_a_chain_saw_what_the_last_one_holds_out(tmp_path, seed):
    """Random folders, with copies under other names; digests are taken from the files."""
    rng = np.random.default_rng(seed)
    pool = sorted(write(tmp_path / "pool", drawn(80, 100 + seed)).iterdir())
    trained, last, records = set(), None, []
    for number in range(3):
        folder = tmp_path / f"given{number}"
        folder.mkdir()
        for index in rng.choice(80, 45, replace=False):
            shutil.copy(pool[index], folder / f"{rng.integers(10**9)}_{index}.png")
        twice = rng.choice(sorted(folder.iterdir()))
        shutil.copy(twice, folder / "copy.png")
        detector = tiny(seed=number) if last is None else going_on(seed=number)
        last = detector.fit(folder, epochs=1, self_check=False, start_from=last)
        record = last.training_record_
        assert sorted(record["image_digests"]) == sorted(file_digests(folder.iterdir()))
        if number:
            assert not held_out_digests(record) & trained
            assert not held_out_digests(record) & trained_digests(record)
            assert held_out_digests(records[-1]) & {*record["image_digests"]} - trained <= (
                held_out_digests(record)
            )
            assert len(record["held_out"]) == record["n_validation"] >= LEAST_HELD_OUT
            assert len(last.calibration_scores_) == record["n_validation"]
        trained |= trained_digests(record)
        records.append(record)
    last.save(tmp_path / "last.fastad")
    artifact = inference.load(tmp_path / "last.fastad")
    assert trained_and_apart(artifact)[0] == trained
    assert given_to_training(artifact) == {d for r in records for d in r["image_digests"]}
    assert [line[:22] for line in lineage(artifact.training)] == ["a detector in memory: "] * 2
    only_first = {*records[0]["image_digests"]} - {*records[1]["image_digests"]}
    only_first -= {*records[2]["image_digests"]}
    paths = [path for path in pool if file_digests([path])[0] in only_first]
    with pytest.raises(ValueError, match=f"training of the detector read {len(paths)} of the"):
        last.calibrate(paths)


def test_it_goes_on_from_the_students_weights(old):
    folder, start, file = old
    images = [*sorted(folder.iterdir()), *drawn(25, 1)]
    detector = going_on().fit(
        np.stack([np.asarray(Image.open(p)) for p in images[:30]] + images[30:]),
        start_from=file,
        epochs=1,
        learning_rate=1e-12,
        weight_decay=0.0,
    )
    before, after = start.model_.student.state_dict(), detector.model_.student.state_dict()
    parameters = [name for name, _ in start.model_.student.named_parameters()]
    assert parameters
    assert all(torch.allclose(before[n], after[n], rtol=1e-6, atol=1e-8) for n in parameters)
    assert detector.model_.started_from is not None
    assert start.model_.started_from is None  # it stays as it was
    assert detector.training_record_["teachers"] == {"teacher": "embedded"}
    # The old training was given files: of arrays nobody knows what they were.
    assert "trained on before is not known" in detector.training_record_["notes"][0]


def test_images_in_memory_are_known_by_their_pixels():
    good, new = drawn(30, 0), drawn(25, 1)
    start = tiny().fit(good, epochs=1, self_check=False)
    again = torch.from_numpy(np.concatenate([good, new])).permute(0, 3, 1, 2)
    detector = going_on().fit(again, start_from=start, epochs=1, self_check=False)
    record, before = detector.training_record_, start.training_record_
    assert record["held_out"][:6] == before["held_out"]
    assert len(record["held_out"]) == 6 + 5
    assert "of 55 images 24 were trained on before, 6 held out, 25 are new" in record["notes"][0]


def test_the_record_has_the_history(old, tmp_path):
    folder, _, file = old
    both = write(tmp_path / "both", drawn(25, 1), "new")
    for path in folder.iterdir():
        shutil.copy(path, both)
    detector = going_on().fit(both, start_from=file, epochs=1)
    kept = detector.training_record_["start_from"]
    assert (kept["file"], kept["model"], kept["n_train"]) == ("old.fastad", "stpm", 24)
    assert kept["digest"] == file_digests([file])[0]
    assert kept["date"].endswith("+00:00")
    assert kept["epochs"] == {"training": 2}
    assert kept["start_from"] is None
    detector.save(tmp_path / "new.fastad")
    loaded = fastad.load(tmp_path / "new.fastad")
    assert loaded.training_record_ == detector.training_record_
    assert lineage(loaded.training_record_) == [
        f"old.fastad of {kept['date']}, digest {kept['digest']}: epochs training 2, "
        "24 images trained on"
    ]
    # A check leaves out what any training was trained on.
    assert loaded.check(both, count=15).trained_on == loaded.training_record_["n_train"]


@pytest.mark.parametrize("given", ["new alone", "some old ones", "all"])
def test_what_is_missing_of_the_old_images_is_said(old, tmp_path, given, caplog):
    folder, start, _ = old
    both = write(tmp_path / "both", drawn(25, 1), "new")
    for path in sorted(folder.iterdir())[: {"new alone": 0, "some old ones": 10, "all": 30}[given]]:
        shutil.copy(path, both)
    with caplog.at_level("INFO", "fastad"):
        detector = going_on().fit(both, start_from=start, epochs=1, self_check=False)
    said = {
        "new alone": "none of the 30 images of the training before are given: .* Give old and new",
        "some old ones": "20 of the 30 images of the training before are not given",
        "all": None,
    }[given]
    notes = " ".join(detector.training_record_["notes"])
    assert ("forgotten" in notes) == ("forgotten" in caplog.text) == (said is not None)
    assert re.search(said or "", notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "rstpm"}, "model: 'rstpm' contradicts start_from: old.fastad has 'stpm'"),
        ({"image_size": 64}, r"image_size: 64 contradicts .* has \(32, 32\)"),
        ({"bit_depth": 12}, "bit_depth: 12 contradicts .* has 16"),
        (
            {"model": "stpm", "layers": ("layer2",)},
            r"layers: \('layer2',\) contradicts .* has \('layer1',\)",
        ),
        ({"pooling": "maximum"}, "pooling: 'maximum' contradicts .* has 'auto'"),
    ],
)
def test_options_that_contradict_it_are_refused(old, options, said):
    detector = fastad.Detector(**{"device": "cpu"} | options)
    with pytest.raises(ValueError, match=said):
        detector.fit(old[0], start_from=old[2])


def test_its_own_options_contradict_nothing(old):
    loaded = fastad.load(old[2], device="cpu")
    assert loaded._start(old[2]).artifact.model.name == "stpm"
    assert tiny()._start(old[1]).artifact is old[1]._artifact
    assert fastad.Detector(image_size="32x32")._start(old[1]).file is None


def test_too_few_images_to_hold_out_are_refused(old, tmp_path):
    folder, start, _ = old
    record, paths = start.training_record_, sorted(folder.iterdir())
    trained = [path for i, path in enumerate(paths) if i not in record["held_out"]]
    held_out = [path for i, path in enumerate(paths) if i in record["held_out"]]
    with pytest.raises(
        ValueError, match=r"0 of 24 may be held out.*at least 5.*24 of them were tr"
    ):
        going_on().fit(trained, start_from=start)
    few = sorted(write(tmp_path / "few", drawn(12, 2)).iterdir())
    with pytest.raises(ValueError, match=r"2 of 12 may .* 12 are new\. Give 23 new ones, or all"):
        going_on().fit(few, start_from=start)
    with pytest.raises(ValueError, match=r"4 of 14 may be held out.*Give 13 new ones"):
        going_on().fit([*few, *held_out[:2]], start_from=start)
    with pytest.raises(ValueError, match=r"old\.fastad held out all 6, none is left"):
        going_on().fit(held_out, start_from=old[2])
    enough = sorted(write(tmp_path / "enough", drawn(23, 2)).iterdir())
    detector = going_on().fit(enough, start_from=start, epochs=1, self_check=False)
    assert len(detector.training_record_["held_out"]) == 5
    none = going_on().fit(trained, start_from=start, epochs=1, validation_fraction=0.0)
    assert none.threshold_ is None


@pytest.mark.parametrize(
    ("start", "error", "said"),
    [
        (7, TypeError, "start_from must be a Detector or its file; got 7"),
        ("missing.fastad", FileNotFoundError, "no detector file missing.fastad"),
        (fastad.Detector(), NotFittedError, "not trained yet"),
    ],
)
def test_what_is_no_detector_is_refused(start, error, said):
    with pytest.raises(error, match=said):
        going_on().fit(drawn(20, 0), start_from=start)


def test_a_model_without_training_is_refused():
    start = fastad.Detector("subspace", **OF_SPEED, teacher_weights="embedded").fit(drawn(20, 0))
    with pytest.raises(
        ValueError, match=r"subspace trains nothing.*without start_from, on old and"
    ):
        going_on().fit(drawn(30, 1), start_from=start)


def test_a_real_defect_is_no_good_image(old):
    artifact = inference.load(old[2])
    path = sorted(old[0].iterdir())[3]
    artifact.training["defects"] = file_digests([path])
    start = Start(artifact)
    source = fastad.data.training_set.read_training_set(old[0], 32)
    with pytest.raises(ValueError, match=r"003\.png is a real defect"):
        start.prepared(source, TrainingConfig.for_model(start.model()))
    training = {"defects": ["ff"], "notes": ["a"], "supervision": "normal images only"}
    start.enter(training, ["b"])
    assert training["defects"] == sorted([*artifact.training["defects"], "ff"])
    assert training["supervision"] == "supervised, 2 images of real defects"
    assert training["notes"] == ["b", "a"]


def test_the_share_held_out_is_the_old_one(old):
    start = Start(inference.load(old[2]))
    start.artifact.training["config"]["validation_fraction"] = 0.5
    given, config = going_on()._prepared("stpm", None, {}, None, start)
    assert config.validation_fraction == 0.5
    assert given.started_from is not None
    source = fastad.data.training_set.read_training_set(drawn(8, 1), 32)
    assert len(start.prepared(source, config)[0].held_out) == 4


def test_every_model_goes_on(tiny_model):
    """Whatever `auto` kept: from its weights, with a quarter of the epochs."""
    with torch.random.fork_rng():
        model = models.build(tiny_model.name, **tiny_model.options)
    given = np.concatenate([drawn(12, 10), drawn(8, 11)])
    source = fastad.data.training_set.read_training_set(given, 32)
    digests = fastad.data.training_set.image_digests(source.dataset)
    record = {"image_digests": digests[:12], "held_out": [0, 3, 5, 6], "stages": [], "n_train": 8}
    artifact = inference.Artifact(model, (32, 32), np.empty(0), 0.2, None, record)
    start = fastad.Detector()
    start._set_artifact(artifact, artifact.predictor(device="cpu", precision="float32"))
    detector = going_on()  # "auto"
    if not tiny_model.trains:
        with pytest.raises(ValueError, match=f"start_from: {tiny_model.name} trains nothing"):
            detector.fit(given, start_from=start)
        return
    usual, short = (TrainingConfig.for_model(m) for m in (model, Start(artifact).model()))
    assert short.epochs == -(-usual.epochs // GOING_ON)
    assert short.min_steps == -(-usual.min_steps // GOING_ON)
    for stage in model.stages:
        of_usual, of_short = (c.for_stage(model, stage).epochs for c in (usual, short))
        assert 1 <= of_short <= of_usual / GOING_ON + 1
    assert TrainingConfig.for_model(Start(artifact).model(), epochs=7).epochs == 7

    training = {"batch_size": 4, **tiny_model.training}
    detector.fit(given, start_from=start, epochs=1, self_check=False, **training)
    assert detector.model_.name == tiny_model.name
    held_out = held_out_digests(detector.training_record_)
    assert held_out
    assert not held_out & trained_and_apart(artifact)[0]


class StoppedError(Exception):
    pass


def test_it_is_resumed_to_the_same_bytes(old, tmp_path):
    file = old[2]
    both = write(tmp_path / "both", drawn(25, 1), "new")
    options = {"start_from": file, "epochs": 3, "self_check": False}
    whole = going_on().fit(both, **options)

    def stop(event):
        if event.epoch == 1 and event.validation_score is not None:
            raise StoppedError

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(StoppedError):
        going_on().fit(both, **options, checkpoint=checkpoint, progress=stop)
    for other in (None, whole):
        with pytest.raises(CheckpointError, match="start_from "):
            tiny().fit(
                both,
                **options | {"start_from": other},
                checkpoint=checkpoint,
                resume=True,
                min_steps=0,
            )
    resumed = going_on().fit(both, **options, checkpoint=checkpoint, resume=True)
    expected = whole.model_.state_dict()
    found = resumed.model_.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert resumed.threshold_ == whole.threshold_
    assert resumed.training_record_["start_from"] == whole.training_record_["start_from"]


def test_ctrl_c_keeps_the_best_epoch(old, tmp_path):
    def stop(event):
        if event.epoch == 2 and event.validation_score is not None:
            raise KeyboardInterrupt

    both = write(tmp_path / "both", drawn(25, 1), "new")
    with pytest.warns(UserWarning, match="stopped after epoch 2 of 3"):
        detector = going_on().fit(both, start_from=old[2], epochs=3, progress=stop)
    assert detector.training_record_["interrupted"]
    assert detector.training_record_["start_from"]["file"] == "old.fastad"


def stripes(count, seed, vertical):
    """Good parts of a striped material, at any phase, with some noise."""
    rng = np.random.default_rng(seed)
    place = np.arange(32)
    waves = np.sin(place[None] * 2 * np.pi / 8 + rng.uniform(0, 6.3, (count, 1)))
    images = np.repeat(128 + 60 * waves[:, None, :], 32, axis=1)
    images = images if vertical else images.transpose(0, 2, 1)
    images = images[..., None] + rng.normal(0, 6, (count, 32, 32, 3))
    return images.clip(0, 255).astype(np.uint8)


def with_scratch(images, seed):
    """Each with a short bright line."""
    rng, images = np.random.default_rng(seed), images.copy()
    for image in images:
        y, x = rng.integers(4, 20, 2)
        for step in range(8):
            image[y + step, x + step] = 255 if rng.random() < 0.5 else 0
    return images


def test_it_recovers_where_calibration_is_not_enough():
    """Stripes of another direction: the old student errs on them everywhere."""
    plain = {"scale_maps": "none", "scale_score": "none", "pooling": "maximum", "subspace": False}
    settings = OF_SPEED | {"false_positive_rate": 0.05}
    start = fastad.Detector(
        "stpm", layers=("layer1", "layer2"), teacher_weights="embedded", **plain, **settings
    )
    old, new = stripes(60, 0, vertical=True), stripes(60, 1, vertical=False)
    training = {"batch_size": 12, "self_check": False}
    start.fit(old, epochs=12, **training)

    def found_and_alarms(detector, vertical):
        good = stripes(60, 2, vertical)
        defects = with_scratch(good, 5)
        return [detector.predict(x).is_anomalous.mean() for x in (defects, good)]

    assert found_and_alarms(start, vertical=True)[0] >= 0.95
    assert found_and_alarms(start, vertical=False)[1] >= 0.9  # nearly all good parts stop
    going = fastad.Detector(**settings).fit(
        np.concatenate([old, new]), start_from=start, epochs=4, **training
    )
    for vertical in (True, False):  # the old material is not forgotten
        found, alarms = found_and_alarms(going, vertical)
        assert found >= 0.95
        assert alarms <= 0.1
    start.calibrate(stripes(60, 4, vertical=False))
    for vertical in (True, False):
        found, alarms = found_and_alarms(start, vertical)
        assert alarms <= 0.1
        assert found <= 0.8
