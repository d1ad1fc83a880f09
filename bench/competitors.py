"""One detector in every engine that `engines.py` compares, each at its best.

All take images (N, 3, H, W) uint8 at the size of the networks and give scores (N,). Their graphs
hold no resize. OpenVINO and ONNX Runtime get a graph of their own for each number of images. What
is slow to make, the graphs and their 8-bit forms, is kept in a folder by the weights' digest.
"""

import contextlib
import importlib.util
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stfpm import stfpm
from torch import Tensor
from torch._inductor import config as inductor

from fastad import _extension
from fastad._files import write_atomically
from fastad.engine import runtimes
from fastad.inference import Predictor
from fastad.models import AnomalyModel
from fastad.training.identity import weights_digest
from fastad.training.precision import cpu_multiplies_in

# OpenVINO's operations of the distances between features.
DISTANCE = ("MatMul", "Subtract", "Divide", "ReduceL2", "Power", "ReduceSum", "Interpolate")
PRECISE = "eager, float32"  # what the others' scores are compared with
Scores = Callable[[Tensor], np.ndarray]


def is_there(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


class Competitors:
    """A model at one size.

    Args:
        model: is not changed.
        size: (height, width) of images.
        good: (n, 3, height, width) uint8, good images to calibrate 8-bit networks on.
        folder: where what is slow to make is kept.
    """

    def __init__(
        self, model: AnomalyModel, size: tuple[int, int], good: Tensor, folder: Path
    ) -> None:
        self.model, self.size, self.good = runtimes.copy_to_trace(model), size, good
        height, width = size
        name = f"{model.name}-{height}x{width}-{weights_digest(model)[:16]}"
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._program: Any = None

    def at(self, batch: int, threads: int, *, int8: bool, compiled: bool) -> dict[str, Scores]:
        """Those that are installed, for so many images at once, by name and precision.

        Args:
            int8: also those in 8-bit integers.
            compiled: also torch.compile, which takes a minute.
        """
        torch.set_num_threads(threads)
        found: dict[str, Scores] = {}
        half = cpu_multiplies_in(torch.bfloat16)
        kinds = ["int16"] * _extension.cpu_int16 + ["bfloat16"] * half + ["float32"]
        for kind in kinds:
            found[f"fastad, {kind}"] = self._fastad(kind)
        with quiet():
            if is_there("openvino"):
                models = {"float32": (self.openvino(), torch.float32)}
                if half:
                    models["bfloat16"] = (self.openvino(), None)  # its default then
                if int8 and is_there("nncf"):
                    models["int8"] = (self.openvino_int8(), None)
                for kind, (model, dtype) in models.items():
                    model.reshape([batch, *self.size, 3])
                    run = runtimes.compiled_openvino(model, dtype, threads)
                    found[f"openvino, {kind}"] = _over_arrays(run)
            if is_there("onnxruntime", "onnx", "onnxscript"):
                files = {"float32": self.onnx()}
                if int8:
                    files["int8"] = self.onnx_int8()
                for kind, path in files.items():
                    run = runtimes.onnx_session(path.read_bytes(), threads, batch)
                    found[f"onnxruntime, {kind}"] = _over_arrays(run)
            if compiled:
                name = f"torch.compile, {'bfloat16' if half else 'float32'}"
                found[name] = self._compiled(half, batch)
        found[PRECISE] = self._eager()
        if compiled and self.model.name == "stpm":
            found["anomalib, float32"] = self._anomalib()
        return found

    def _fastad(self, precision: str) -> Scores:
        model = runtimes.copy_to_trace(self.model)
        predictor = Predictor(model, self.size, device="cpu", precision=precision)
        return lambda images: predictor.predict_batch(images).score

    def _eager(self) -> Scores:
        model = self._of_torch()

        @torch.inference_mode()
        def run(images: Tensor) -> np.ndarray:
            return model(_floats(images)).score.numpy()

        return run

    def _anomalib(self) -> Scores:
        """What anomalib 2's STFPM computes with the same networks, written in plain PyTorch."""
        model = runtimes.copy_to_trace(self.model)

        def run(images: Tensor) -> np.ndarray:
            score, _ = stfpm(model.teacher, model.student, images.float() / 255)
            return score.numpy()

        return run

    def _compiled(self, half: bool, batch: int) -> Scores:
        torch._dynamo.reset()
        model = torch.compile(self._of_torch(), dynamic=False)

        def run(images: Tensor) -> np.ndarray:
            with (
                inductor.patch(freezing=True),
                torch.no_grad(),
                torch.autocast("cpu", torch.bfloat16, half),
            ):
                return model(_floats(images)).score.float().numpy()

        run(self.good[:1].expand(batch, -1, -1, -1))
        return run

    def _of_torch(self) -> AnomalyModel:
        model = runtimes.copy_to_trace(self.model)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def program(self) -> Any:
        if self._program is None:
            self._program = runtimes.program_of(self.model, self.size, torch.uint8)
        return self._program

    def openvino(self) -> Any:
        import openvino

        path = self.folder / "float32.xml"
        if not path.exists():
            self._save(runtimes.openvino_model(self.program(), self.size), path)
        return openvino.Core().read_model(path)

    def openvino_int8(self) -> Any:
        import nncf
        import openvino

        path = self.folder / "int8.xml"
        if not path.exists():
            nncf.set_log_level(logging.ERROR)
            model = self.openvino()
            model.reshape([1, *self.size, 3])
            images = [self._array(image[None]) for image in self.good]
            kept = nncf.IgnoredScope(types=[*DISTANCE], names=_of_memory(model), validate=False)
            model = nncf.quantize(
                model, nncf.Dataset(images), subset_size=len(images), ignored_scope=kept
            )
            self._save(model, path)
        return openvino.Core().read_model(path)

    def _save(self, model: Any, path: Path) -> None:
        import openvino

        # The weights lie beside it: the file that is looked for comes last.
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            openvino.save_model(model, Path(folder, path.name), compress_to_fp16=False)
            for suffix in (".bin", ".xml"):
                name = path.with_suffix(suffix).name
                shutil.move(Path(folder, name), self.folder / name)

    def onnx(self) -> Path:
        path = self.folder / "float32.onnx"
        if not path.exists():
            content = runtimes.onnx_bytes(self.program())
            write_atomically(path, lambda place: place.write_bytes(content))
        return path

    def onnx_int8(self) -> Path:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        path = self.folder / "int8.onnx"
        if path.exists():
            return path
        images = iter([{runtimes.INPUT: self._array(image[None])} for image in self.good])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(images, None)

        def write(place: Path) -> None:
            prepared = place.with_suffix(".prepared")
            quant_pre_process(str(self.onnx()), str(prepared), skip_symbolic_shape=True)
            reached: set[str] = set()
            for node in onnx.load(prepared).graph.node:
                if node.op_type in ("MatMul", "Gemm") or reached & {*node.input}:
                    reached |= {node.name, *node.output}
            quantization.quantize_static(
                str(prepared),
                str(place),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                # The networks. The distances and the map stay in float32, as with NNCF.
                op_types_to_quantize=["Conv", "Relu", "Clip", "Add", "MaxPool"],
                nodes_to_exclude=sorted(reached),
            )
            prepared.unlink()

        write_atomically(path, write)
        return path

    @staticmethod
    def _array(images: Tensor) -> np.ndarray:
        return images.permute(0, 2, 3, 1).contiguous().numpy()


def _of_memory(model: Any) -> list[str]:
    """Names of the operations of an OpenVINO model that follow the products with a memory: 8 bits
    cannot hold a small difference of large squares."""
    reached: list[str] = []
    for node in model.get_ordered_ops():
        before = {i.get_source_output().get_node().get_friendly_name() for i in node.inputs()}
        if node.get_type_name() == "MatMul" or before & {*reached}:
            reached.append(node.get_friendly_name())
    return reached


def _over_arrays(run: runtimes.Run) -> Scores:
    return lambda images: run(Competitors._array(images))[0]


def _floats(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.channels_last).div_(255)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress of converters."""
    logging.getLogger().setLevel(logging.ERROR)
    for name in ("torch.onnx", "onnxscript", "onnx_ir", "nncf"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
