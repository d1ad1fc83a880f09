"""The checkpoint file: what comes back, what is refused, what a failed write leaves."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import Toy, options

from fastad._safe_file import digest
from fastad.training import CheckpointError, Trainer
from fastad.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def path(images, tmp_path):
    path = tmp_path / "training.ckpt"
    Trainer(Toy(scores=[2.0, 1.0, 3.0]), options(epochs=3)).fit(images, checkpoint=path)
    return path


def same(one, other):
    """Equality of nested dicts and lists with tensors in them."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("kind", ["float32", "float16"])
@pytest.mark.filterwarnings("ignore:this CPU has no")
def test_everything_comes_back(images, tmp_path, optimizer, kind):
    path, again = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    config = options(epochs=3, optimizer=optimizer, precision=kind)
    model = Toy(scores=[2.0, 1.0, 3.0])
    record = Trainer(model, config).fit(images, checkpoint=path)
    found = load_checkpoint(path)
    assert found.record.to_dict() | {"seconds": 0} == record.to_dict() | {"seconds": 0}
    assert same(found.best, dict(model.trained_state()))
    assert not same(found.best, found.model)
    assert set(found.generators) == {"shuffle", "cpu"}
    assert bool(found.steps["step"].scaler) == (kind == "float16")
    names = {"momentum_buffer"} if optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"}
    assert set(found.steps["step"].optimizer["state"][0]) == names
    save_checkpoint(again, found)
    assert same(vars(load_checkpoint(again)) | {"record": 0}, vars(found) | {"record": 0})


def test_the_best_epoch_is_stored_once_where_it_is_the_last(images, tmp_path):
    path = tmp_path / "a.ckpt"
    Trainer(Toy(scores=[2.0, 1.0]), options(epochs=2)).fit(images, checkpoint=path)
    assert not [name for name in load_file(path) if name.startswith("best.")]
    found = load_checkpoint(path)
    assert same(found.best, found.model)


def test_a_file_of_the_version_before_stages_is_resumed(images, tmp_path):
    """It had the record of its one stage at the top, and none of the options of stages."""
    path = tmp_path / "a.ckpt"
    Trainer(Toy(), options(epochs=2)).fit(images, checkpoint=path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    content, tensors = json.loads(metadata["checkpoint"]), load_file(path)
    del content["record"]["stages"]
    for name in ("stages", "pseudo_anomalies", "textures", "schedule"):
        del content["record"]["config"][name]
        assert f"training option {name}" not in content["identity"]
    text = json.dumps(content)
    checksum = digest(text, tensors)
    save_file(
        tensors, path, metadata | {"format_version": "1", "checkpoint": text, "sha256": checksum}
    )
    model, whole = Toy(), Toy()
    record = Trainer(model, options()).fit(images, checkpoint=path, resume=True)
    assert record.losses == Trainer(whole, options()).fit(images).losses
    assert same(dict(model.state_dict()), dict(whole.state_dict()))
    assert record.stages[0].config["epochs"] == record.epochs == 4


def test_nothing_else_is_left_beside_it(path):
    assert list(path.parent.iterdir()) == [path]


def test_a_damaged_file_is_refused(path, tmp_path):
    """Cuts, bit flips and exchanged blocks at random places."""
    whole = path.read_bytes()
    content = vars(load_checkpoint(path)) | {"record": 0}
    damaged = tmp_path / "damaged.ckpt"
    rng, told = random.Random(0), 0
    for turn in range(300):
        data = bytearray(whole)
        if turn % 3 == 0:
            data = data[: rng.randrange(len(data))]
        elif turn % 3 == 1:
            # Half of them in the header.
            data[rng.randrange(len(data) if turn % 2 else 4000)] ^= 1 << rng.randrange(8)
        else:
            a, b = rng.randrange(len(data) - 64), rng.randrange(len(data) - 64)
            data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]
        damaged.write_bytes(data)
        try:
            found = load_checkpoint(damaged)
        except CheckpointError as error:
            told += str(damaged) in str(error)
        else:  # an exchange of equal bytes, or of spaces in the header
            assert same(vars(found) | {"record": 0}, content), turn
            told += 1
    assert told == 300


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_bytes(b""), "no fastad checkpoint, or damaged"),
        (
            lambda path: path.write_bytes(b"PK\x03\x04" * 100),
            "no fastad checkpoint, but a file of another",
        ),
        (lambda path: path.mkdir(), "a folder, not a checkpoint"),
        (lambda path: save_file({"a": torch.ones(2)}, path), "safetensors file, but no fastad che"),
        (
            lambda path: save_file({"a": torch.ones(2)}, path, {"format": "fastad"}),
            "safetensors file, but no fastad checkpoint",
        ),
        (
            lambda path: save_file(
                {}, path, {"format": "fastad-checkpoint", "format_version": "3"}
            ),
            r"written by a newer fastad \(format 3, this one reads up to 2\): update fastad",
        ),
        (
            lambda path: save_file({}, path, {"format": "fastad-checkpoint"}),
            r"cannot be read as a checkpoint \(KeyError: 'format_version'\)",
        ),
    ],
)
def test_other_files_are_refused(images, tmp_path, make, said):
    path = tmp_path / "other.ckpt"
    make(path)
    with pytest.raises(CheckpointError, match=rf"other\.ckpt .*{said}"):
        Trainer(Toy(), options()).fit(images, checkpoint=path, resume=True)


def test_what_is_not_there_is_said(images, tmp_path):
    trainer = Trainer(Toy(), options())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*a\.ckpt to go on from: start"):
        trainer.fit(images, checkpoint=tmp_path / "a.ckpt", resume=True)
    with pytest.raises(FileNotFoundError, match=r"checkpoint .*b/a\.ckpt: there is no such folder"):
        trainer.fit(images, checkpoint=tmp_path / "b" / "a.ckpt")
    with pytest.raises(ValueError, match="resume: name the checkpoint"):
        trainer.fit(images, resume=True)


def test_a_full_disk_stops_and_leaves_the_checkpoint_before(images, tmp_path, monkeypatch):
    path = tmp_path / "a.ckpt"
    whole = []

    def fill_the_disk(event):
        if event.validation_score is not None and event.epoch == 2:
            whole.append(path.read_bytes())

            def fail(self, data):
                self.open("wb").write(data[:100])
                raise OSError(28, "No space left on device", str(self))

            monkeypatch.setattr("pathlib.Path.write_bytes", fail)

    model = Toy(scores=[3.0, 2.0, 1.0])
    with pytest.raises(
        OSError, match=r"^cannot write the checkpoint .*a\.ckpt after epoch 3: No space left on dev"
    ):
        Trainer(model, options(), progress=fill_the_disk).fit(images, checkpoint=path)
    assert [path.read_bytes()] == whole
    assert list(tmp_path.iterdir()) == [path]
    assert load_checkpoint(path).record.epochs == 2
    assert torch.equal(model.student.conv.weight, model.snapshots[2]["conv.weight"])
    assert not model.training


def test_a_folder_that_went_away_stops(images, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()

    def remove(event):
        if event.epoch == 2 and event.step == 1:
            (folder / "a.ckpt").unlink()
            folder.rmdir()

    with pytest.raises(
        FileNotFoundError, match=r"cannot write the checkpoint .* after epoch 2: .*no folder"
    ):
        Trainer(Toy(), options(), progress=remove).fit(images, checkpoint=folder / "a.ckpt")


def test_a_file_that_is_no_checkpoint_is_not_replaced(images, tmp_path):
    path = tmp_path / "precious.txt"
    path.write_text("something else")
    with pytest.raises(CheckpointError, match=r"precious\.txt"):
        Trainer(Toy(), options()).fit(images, checkpoint=path)
    assert path.read_text() == "something else"
    other = tmp_path / "c"
    Trainer(Toy(), options(epochs=1)).fit(images, checkpoint=other)
    Trainer(Toy(), options(epochs=2)).fit(images, checkpoint=other)  # a checkpoint is
    assert load_checkpoint(other).record.epochs == 2
