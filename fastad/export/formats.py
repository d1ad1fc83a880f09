"""The formats of exported detectors: how each is written, and how its own runtime runs it.

Every file carries one JSON object, named ``fastad``, beside the graph; where a runtime gives it
back:

- onnx: ``session.get_modelmeta().custom_metadata_map["fastad"]``
- openvino: ``model.get_rt_info(["fastad"])``
- torch-export: ``files = {"fastad.json": ""}; torch.export.load(path, extra_files=files)``
- aotinductor: ``torch._inductor.aoti_load_package(path).get_metadata()["fastad"]``
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

INPUT = "images"
OUTPUTS = ("score", "anomaly_map")
METADATA = "fastad"

# Images (N, H, W, 3) uint8 -> score (N,) and anomaly map (N, h, w).
Runner = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        suffix: of the file.
        packages: what writing and verifying needs besides torch.
        keeps_ops: whether fastad's fused ops can stay in the graph.
        write: program, path, metadata as JSON -> the file (and files beside it).
        open: path -> a function that runs it in the format's own runtime, on the CPU, in float32.
    """

    suffix: str
    packages: tuple[str, ...]
    keeps_ops: bool
    write: Callable[[ExportedProgram, Path, str], None]
    open: Callable[[Path], Runner]


def check_packages(name: str) -> None:
    """ImportError where a package is missing that the format ``name`` needs."""
    packages = FORMATS[name].packages
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ImportError(
            f"the format {name} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )


def _write_onnx(program: ExportedProgram, path: Path, metadata: str) -> None:
    sizes = ({0: "batch", 1: "height", 2: "width"},)
    save_onnx(program, path, metadata, [INPUT], list(OUTPUTS), dynamic_shapes=sizes)


def save_onnx(
    program: ExportedProgram,
    path: Path,
    metadata: str,
    inputs: list[str],
    outputs: list[str],
    **options: Any,
) -> None:
    """Write a program with names and metadata; options are of `torch.onnx.export`."""
    with _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        converted = torch.onnx.export(
            program,
            input_names=inputs,
            output_names=outputs,
            dynamo=True,
            verbose=False,
            **options,
        )
    assert converted is not None  # with `dynamo` it is a program
    converted.model.metadata_props[METADATA] = metadata
    converted.save(path)


def open_session(path: Path) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """An ONNX file as a function of its inputs, in their order, that gives all its outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return lambda given: session.run(None, dict(zip(names, given, strict=True)))


def _open_onnx(path: Path) -> Runner:
    run = open_session(path)
    return lambda images: (lambda found: (found[0], found[1]))(run([images]))


def _write_openvino(program: ExportedProgram, path: Path, metadata: str) -> None:
    import openvino

    model = openvino.convert_model(program)
    model.input(0).set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    model.reshape({INPUT: [-1, -1, -1, 3]})  # the converter forgets that there are three channels
    model.set_rt_info(metadata, METADATA)
    openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path) -> Runner:
    import openvino

    # Processors with bfloat16 units would compute in that by default.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", options)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = model({INPUT: images})
        return tuple(result[name] for name in OUTPUTS)

    return run


def _write_torch_export(program: ExportedProgram, path: Path, metadata: str) -> None:
    torch.export.save(program, path, extra_files={f"{METADATA}.json": metadata})


def _open_torch_export(path: Path) -> Runner:
    return _torch_runner(torch.export.load(path).module())


def _write_aotinductor(program: ExportedProgram, path: Path, metadata: str) -> None:
    torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": {METADATA: metadata}},
    )


def _open_aotinductor(path: Path) -> Runner:
    return _torch_runner(torch._inductor.aoti_load_package(str(path)))


def _torch_runner(module: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Runner:
    @torch.inference_mode()
    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = module(torch.from_numpy(images))
        score, anomaly_map = (result[name].numpy() for name in OUTPUTS)
        return score, anomaly_map

    return run


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Only errors from converters that comment on each of their steps."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), False, _write_onnx, _open_onnx),
    "openvino": Format(".xml", ("openvino",), False, _write_openvino, _open_openvino),
    "torch-export": Format(".pt2", (), True, _write_torch_export, _open_torch_export),
    "aotinductor": Format(".aoti.pt2", (), True, _write_aotinductor, _open_aotinductor),
}
