"""Training options: what is refused, and what "auto" comes to."""

import dataclasses

import pytest
import torch

from fastad.models import STPM
from fastad.training import TrainingConfig, precision, resolve_device, resolve_precision


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", 0, "an integer of at least 1"),
        ("epochs", 1.5, "an integer of at least 1"),
        ("batch_size", True, "an integer of at least 1"),
        ("seed", -1, "an integer of at least 0"),
        ("seed", 2**63, r"below 2\*\*63"),
        ("workers", -1, "'auto' or an integer of at least 0"),
        ("workers", "many", "'auto' or an integer of at least 0"),
        ("optimizer", "lbfgs", "one of sgd, adam, adamw"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("learning_rate", "0.1", "above 0"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("betas", (0.9,), "two numbers"),
        ("betas", (0.9, 1.0), "two numbers"),
        ("weight_decay", -1e-4, "at least 0"),
        ("validation_fraction", 1, r"in \[0, 1\)"),
        ("precision", "int8", "one of auto, float32, bfloat16, float16"),
        ("channels_last", 1, "True or False"),
        ("pseudo_anomalies", 0, "an integer of at least 1"),
        ("textures", 3, "a folder or None"),
        ("defects", "", "a folder or None"),
        ("defect_images", 0, "an integer of at least 1, or None"),
        ("defect_images", 3, "None without defects"),
        ("own_patches", 1.5, "from 0 to 1"),
        ("on_foreground", 1, "True or False"),
        ("stages", ["head"], "a dict like"),
        ("stages", {"head": 3}, "a dict like"),
    ],
)
def test_a_refusal_names_the_field(field, value, said):
    with pytest.raises(ValueError, match=rf"^{field} must be {said}.*; got "):
        TrainingConfig(**{field: value})


def test_overrides_go_over_the_models_defaults():
    config = TrainingConfig.for_model(STPM, epochs=3, betas=[0.5, 0.999])
    assert config.epochs == 3
    assert config.learning_rate == 0.4
    assert config.betas == (0.5, 0.999)
    with pytest.raises(TypeError, match="unknown training option 'lr'; there are: epochs, batch_s"):
        TrainingConfig.for_model(STPM, lr=1)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"head": {"epochs": 0}}, r"of 'head', epochs must be an integer of at least 1; got 0"),
        ({"head": {"betas": 1}}, r"of 'head', betas must be two numbers"),
        (
            {"head": {"lr": 1}},
            r"lr of 'head' is no option; a stage can have: epochs, batch_size, o",
        ),
        *[
            ({"head": {name: value}}, rf"{name} of 'head' is the same for the whole training; a st")
            for name, value in (
                ("seed", 1),
                ("device", "cpu"),
                ("validation_fraction", 0.1),
                ("precision", "float32"),
                ("stages", {}),
            )
        ],
    ],
)
def test_options_of_stages_are_checked(stages, said):
    with pytest.raises(ValueError, match=f"^stages: {said}"):
        TrainingConfig(stages=stages)


def test_a_stage_that_is_not_there_is_named():
    config = TrainingConfig(stages={"head": {"epochs": 3}})
    for make in (
        lambda: TrainingConfig.for_model(STPM, stages={"head": {"epochs": 3}}),
        lambda: config.check_stages(STPM),
    ):
        with pytest.raises(ValueError, match="stages: stpm has no stage 'head'; there are: train"):
            make()
    own = TrainingConfig.for_model(STPM, stages={"training": {"epochs": 3}})
    assert own.for_stage(STPM, STPM.stages[0]).epochs == 3
    assert own.for_stage(STPM, STPM.stages[0]).learning_rate == 0.4


def test_a_config_comes_back_from_its_dict():
    config = TrainingConfig(epochs=2, betas=(0.5, 0.9), stages={"head": {"epochs": 1}})
    assert TrainingConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize("device", ["tpu", "meta", 3.5])
def test_devices_that_mean_nothing_are_refused(device):
    with pytest.raises(ValueError, match=r"device must be 'auto', 'cpu', 'cuda' or 'cuda:N'; got"):
        resolve_device(device)


def test_a_device_that_is_not_there_is_refused():
    count = torch.cuda.device_count()
    with pytest.raises(
        ValueError, match=rf"device 'cuda:{count}' is not there: .* sees {count} CUDA"
    ):
        resolve_device(f"cuda:{count}")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True}, torch.float32),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True, "amx_tile": True}, torch.bfloat16),
    ],
)
def test_auto_on_a_cpu_is_what_it_multiplies_in(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(precision, "_cpu_capabilities", lambda: capabilities)
    assert resolve_precision("auto", torch.device("cpu")) == dtype


def test_a_slow_precision_is_given_with_one_warning(monkeypatch):
    monkeypatch.setattr(precision, "_cpu_capabilities", dict)
    with pytest.warns(UserWarning, match="no bfloat16 units: bfloat16 will be slower") as caught:
        assert resolve_precision("bfloat16", torch.device("cpu")) == torch.bfloat16
    assert len(caught) == 1
    with pytest.raises(ValueError, match="precision must be one of auto, float32"):
        resolve_precision("fp16", torch.device("cpu"))


def test_older_torch_is_asked_one_question_at_a_time(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_fp16_supported", raising=False)
    assert precision.cpu_multiplies_in(torch.bfloat16)
    assert not precision.cpu_multiplies_in(torch.float16)
