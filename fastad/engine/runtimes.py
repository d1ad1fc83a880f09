"""A model in OpenVINO or ONNX Runtime, for processors where one of them is the fastest.

The graph is the whole model, from images at its size to score and map. It is converted when the
first images come, and stays in memory.
"""

import contextlib
import importlib.util
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from fastad._threads import thread_count
from fastad.engine.tracing import copy_to_trace, traced
from fastad.models import AnomalyModel
from fastad.models.base import Prediction
from fastad.training.precision import cpu_multiplies_in

# What each needs. It is all in `fastad[export]`.
PACKAGES = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
# This package's convolutions, those runtimes, and PyTorch's own operations.
ENGINES = ("native", *PACKAGES, "torch")
INPUT = "images"
OUTPUTS = ("score", "anomaly_map")

# Images (N, H, W, 3) -> score (N,) and anomaly map (N, H, W).
Run = Callable[[Any], tuple[Any, Any]]


class EngineError(RuntimeError):
    """A runtime cannot run a model."""


def check_engine(engine: str, device: torch.device) -> None:
    """Refuse an engine that is not there.

    Raises:
        ValueError: the name means nothing, or the engine does not compute on this device.
        ImportError: a package is missing. The message names it.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be auto, {', '.join(ENGINES)}; got {engine!r}")
    if engine not in PACKAGES:
        return
    if device.type != "cpu":
        raise ValueError(f"engine {engine!r} computes on the CPU alone; got device {str(device)!r}")
    missing = [name for name in PACKAGES[engine] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"engine {engine!r} needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )


def installed(device: torch.device) -> list[str]:
    """Those of `PACKAGES` that are there for a device."""
    found = []
    for engine in PACKAGES:
        with contextlib.suppress(ImportError, ValueError):
            check_engine(engine, device)
            found.append(engine)
    return found


def dtypes(engine: str, precision: str = "auto") -> list[torch.dtype]:
    """What an engine that is not this package's computes in here, the fastest first.

    OpenVINO computes in bfloat16 where the processor does, and in float32. The others compute in
    float32.

    Raises:
        ValueError: it does not compute in a precision that is asked for by name.
    """
    found = [torch.float32]
    if engine == "openvino" and cpu_multiplies_in(torch.bfloat16):
        found.insert(0, torch.bfloat16)
    if precision == "auto":
        return found
    names = [str(dtype).removeprefix("torch.") for dtype in found]
    if precision not in names:
        raise ValueError(
            f"engine {engine!r} computes in {' or '.join(names)} here; got precision {precision!r}"
        )
    return [found[names.index(precision)]]


class Graph(nn.Module):
    """A model over images (N, H, W, 3), uint8 or float32 in [0, 1] -> score and anomaly map."""

    def __init__(self, model: AnomalyModel):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2)
        if x.dtype == torch.uint8:
            x = x.float() / 255
        prediction = self.model(x)
        return prediction.score, prediction.anomaly_map


class Runtime:
    """A model in another runtime, on the CPU. It is called as the model is.

    Takes images (N, 3, H, W) of ``size``, uint8, or float32 in [0, 1]. Several threads may share
    one. Later changes of the model's weights do not reach it.

    Raises:
        EngineError: when the first images come, where the model cannot be converted.
    """

    def __init__(
        self, model: AnomalyModel, size: tuple[int, int], engine: str, dtype: torch.dtype
    ) -> None:
        self._model, self._size, self._engine, self._dtype = model, size, engine, dtype
        self._runs: dict[torch.dtype, Run] = {}  # by the dtype of images
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Prediction:
        with self._lock:
            run = self._runs.get(images.dtype)
            if run is None:
                run = self._runs[images.dtype] = self._converted(images.dtype)
        score, anomaly_map = run(images.permute(0, 2, 3, 1).contiguous().numpy())
        return Prediction(torch.from_numpy(score), torch.from_numpy(anomaly_map))

    def _converted(self, kind: torch.dtype) -> Run:
        try:
            # A trace cannot hold tensors of inference mode. Converters trace again, and would keep
            # the casts of autocast.
            with _quiet(), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
                program = program_of(self._model, self._size, kind)
                if self._engine == "openvino":
                    return compiled_openvino(openvino_model(program, self._size), self._dtype)
                return onnx_session(onnx_bytes(program))
        except Exception as error:  # converters raise whatever they stumble over
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise EngineError(
                f"engine {self._engine!r} cannot run {self._model.name}: {reason}"
            ) from error


def program_of(model: AnomalyModel, size: tuple[int, int], kind: torch.dtype) -> Any:
    """The `Graph` of a model for images of a size and dtype, in any number, traced."""
    images = torch.zeros(2, *size, 3, dtype=kind)
    return traced(Graph(copy_to_trace(model)), images, {0: Dim("batch")})


def openvino_model(program: Any, size: tuple[int, int]) -> Any:
    """A traced `Graph` as OpenVINO's model."""
    import openvino

    model = openvino.convert_model(program)
    model.reshape([-1, *size, 3])
    return model


def compiled_openvino(model: Any, dtype: torch.dtype | None, threads: int | None = None) -> Run:
    """OpenVINO's model ready to run. ``dtype`` None is the precision that OpenVINO takes."""
    import openvino

    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads or thread_count()}
    options["PERFORMANCE_HINT"] = "LATENCY"
    if dtype is not None:
        options["INFERENCE_PRECISION_HINT"] = "bf16" if dtype == torch.bfloat16 else "f32"
    compiled = openvino.Core().compile_model(model, "CPU", options)
    own = threading.local()  # a request holds the results of one call

    def run(images: Any) -> tuple[Any, Any]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        found = own.request.infer([images])
        return found[0], found[1]

    return run


def onnx_bytes(program: Any) -> bytes:
    """A traced `Graph` as a file of ONNX."""
    converted = torch.onnx.export(
        program,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: "batch"},),
        dynamo=True,
        verbose=False,
    )
    assert converted is not None  # with `dynamo` it is a program
    return converted.model_proto.SerializeToString()


def onnx_session(content: bytes, threads: int | None = None, batch: int | None = None) -> Run:
    """A file of ONNX ready to run in ONNX Runtime, for ``batch`` images at once or any number."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or thread_count()
    options.log_severity_level = 3  # errors
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(list(OUTPUTS), {INPUT: images}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only errors from converters that comment on each of their steps."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
