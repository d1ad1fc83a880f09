"""How a network serves on a CUDA device: one graph a batch size, copies beside the computing.

Why not torch's own wrappers of CUDA graphs?

- `torch.cuda.make_graphed_callables` takes one shape, and its results lie in memory that the next
  call overwrites. Its captures fail when another thread allocates memory. It looks for no waits, so
  what `fastad.training.capture` prevents would happen. It would replace ten lines of `Graph`.
- `torch.compile(mode="reduce-overhead")` overwrites its results, too. Its graphs belong to the
  thread that made them, but threads share a predictor. It compiles each shape, and needs Triton and
  a C++ compiler on the machine that inspects.
"""

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastad.models import AnomalyModel, Prediction
from fastad.training.capture import can_capture, capture, watch_for_waits

MOST_GRAPHS = 8  # of different shapes; each keeps the memory of a batch's activations
WARM_UP = 3  # runs before a capture: libraries choose their kernels and allocate in the first
BUFFERS = 3  # pinned ones for results, each of a batch: two under way, one being read

log = logging.getLogger("fastad")

Scored = tuple[np.ndarray, np.ndarray]


class CudaRunner:
    """Runs a network on batches of images, several of them under way at once.

    Launching a network's hundred kernels takes longer than they need for one image, so they are
    recorded as a CUDA graph when a shape comes for the second time (the last batch of a folder
    comes once) and launched as one from then on. All computing is on one stream, images and results
    are copied on two others. Work on the caller's stream comes before the batch or after it. So
    threads may share a runner, on whatever streams they are.

    Args:
        network: in eval mode, on the device.
        dtype: that of its convolutions, by autocast where its weights have another.
    """

    def __init__(self, network: AnomalyModel, device: torch.device, dtype: torch.dtype):
        self.network, self.device, self.dtype = network, device, dtype
        self._inward, self._computing, self._outward = (torch.cuda.Stream(device) for _ in range(3))
        self._graphs: OrderedDict[tuple, Graph | None] = OrderedDict()
        self._buffers = deque(Buffer() for _ in range(BUFFERS))
        self._lock = threading.Lock()

    @torch.inference_mode()
    def start(self, images: Tensor) -> Callable[[], Scored]:
        """Begin with (N, 3, H, W), uint8 or floating in [0, 1]; what returns waits for the result.

        The result is scores (N,) and maps (N, H, W), float32.
        """
        with self._lock, torch.cuda.device(self.device):
            caller, given = torch.cuda.current_stream(), images
            self._computing.wait_stream(caller)
            if images.device.type == "cpu":
                with torch.cuda.stream(self._inward):
                    images = images.pin_memory().to(self.device, non_blocking=True)
                self._computing.wait_stream(self._inward)
            with torch.cuda.stream(self._computing):
                images = images.to(self.device)
                results = self._run(images)
            caller.wait_stream(self._computing)
            self._outward.wait_stream(self._computing)
            with torch.cuda.stream(self._outward):
                self._buffers.rotate(-1)
                return self._buffers[-1].fetch(results, keep=(given, images))

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        key = (tuple(images.shape), images.dtype)
        if key not in self._graphs:
            self._graphs[key] = None
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
            return self.compute(images)
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = Graph(self.compute, images)
        self._graphs.move_to_end(key)
        return graph(images)

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and maps of images on the device, kernel by kernel."""
        is_bytes = images.dtype == torch.uint8
        images = images.to(torch.float32, memory_format=torch.channels_last)
        if is_bytes:
            images = images / 255
        half = self.dtype != torch.float32
        # A graph must not keep the cache's casted weights, which end with autocast.
        with torch.autocast("cuda", self.dtype, half, cache_enabled=False):
            prediction: Prediction = self.network(images)
        return prediction.score.float(), prediction.anomaly_map.float()


class Graph:
    """A function of one tensor, recorded for one shape; the function itself where it cannot be.

    It is made and called on one stream, which is not the default one.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], example: Tensor):
        self.function = function
        self._graph: torch.cuda.CUDAGraph | None = None
        if not can_capture():
            return
        own = example.clone(memory_format=torch.preserve_format)
        for _ in range(WARM_UP - 1):
            function(own)
        _, waits = watch_for_waits(lambda: function(own))
        if waits:  # a teacher from elsewhere
            log.warning("predicting without a CUDA graph: the model waits for the device")
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with capture(graph):
                output = function(own)
        except RuntimeError as error:
            log.warning(f"predicting without a CUDA graph: {error}")
            return
        self._graph, self._input, self._output = graph, own, output

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            return self.function(images)
        self._input.copy_(images)
        self._graph.replay()
        score, anomaly_map = self._output
        return score.clone(), anomaly_map.clone()


class Buffer:
    """Pinned memory for the results of one batch after the other."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._fetching: Fetching | None = None

    def fetch(self, results: Sequence[Tensor], keep: Any) -> "Fetching":
        """Begin to copy float32 results on the current stream, and keep something until then."""
        if self._fetching is not None:
            self._fetching()
        sizes = [result.numel() for result in results]
        if self._memory is None or len(self._memory) < sum(sizes):
            self._memory = torch.empty(sum(sizes), pin_memory=True)
        parts = self._memory[: sum(sizes)].split(sizes)
        found = [part.view(result.shape) for part, result in zip(parts, results, strict=True)]
        for host, result in zip(found, results, strict=True):
            host.copy_(result, non_blocking=True)
        event = torch.cuda.current_stream().record_event()
        self._fetching = Fetching(found, event, (results, keep))
        return self._fetching


class Fetching:
    """Results under way; a call waits for them and gives them in memory of their own.

    Tensors that other streams use live as long as this is not done. `Tensor.record_stream` would do
    that too, but lets memory pile up after a capture that failed, in whatever library that was.
    """

    def __init__(self, found: Sequence[Tensor], event: torch.cuda.Event, keep: Any):
        self._found, self._event, self._keep = found, event, keep
        self._copied: Scored | None = None
        self._lock = threading.Lock()  # the caller may wait while the buffer's next batch begins

    def __call__(self) -> Scored:
        """Scores and maps, on the host."""
        with self._lock:
            if self._copied is None:
                self._event.synchronize()
                score, anomaly_map = (host.numpy().copy() for host in self._found)
                self._copied = score, anomaly_map
                self._found, self._keep = (), None
            return self._copied
