"""How a network serves on a CUDA device: one graph a batch size, copies beside the computing."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fastad.models import AnomalyModel, Prediction

MOST_GRAPHS = 8  # of different shapes; each keeps the memory of a batch's activations
WARM_UP = 3  # runs before a capture: libraries choose their kernels and allocate in the first

log = logging.getLogger("fastad")

Scored = tuple[np.ndarray, np.ndarray]


class CudaRunner:
    """Runs a network on batches of images, several of them under way at once.

    Launching a network's hundred kernels takes longer than they need for one image, so they are
    recorded as a CUDA graph when a shape comes for the second time (the last batch of a folder
    comes once) and launched as one from then on. Images go to the device and results come back on
    streams of their own, through pinned memory. Threads may share it: batches are started one after
    the other.

    Args:
        network: in eval mode, on the device.
        dtype: that of its convolutions, by autocast where its weights have another.
    """

    def __init__(self, network: AnomalyModel, device: torch.device, dtype: torch.dtype):
        self.network, self.device, self.dtype = network, device, dtype
        self._inward, self._outward = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._graphs: OrderedDict[tuple, Graph | None] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def start(self, images: Tensor) -> Callable[[], Scored]:
        """Begin with (N, 3, H, W), uint8 or floating in [0, 1]; what returns waits for the result.

        The result is scores (N,) and maps (N, H, W), float32.
        """
        with self._lock, torch.cuda.device(self.device):
            computing = torch.cuda.current_stream()
            if images.device.type == "cpu":
                with torch.cuda.stream(self._inward):
                    images = images.pin_memory().to(self.device, non_blocking=True)
                computing.wait_stream(self._inward)
                images.record_stream(computing)
            results = self._run(images.to(self.device))
            self._outward.wait_stream(computing)
            with torch.cuda.stream(self._outward):
                found = [torch.empty(x.shape, pin_memory=True) for x in results]
                for host, result in zip(found, results, strict=True):
                    host.copy_(result, non_blocking=True)
                    result.record_stream(self._outward)
                done = self._outward.record_event()

        def wait() -> Scored:
            done.synchronize()
            score, anomaly_map = (host.numpy() for host in found)
            return score, anomaly_map

        return wait

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
    """A function of one tensor, recorded for one shape; the function itself where it cannot be."""

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], example: Tensor):
        self.function = function
        self._graph: torch.cuda.CUDAGraph | None = torch.cuda.CUDAGraph()
        self._input = example.clone(memory_format=torch.preserve_format)
        aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                function(self._input)
        current.wait_stream(aside)
        try:
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = function(self._input)
        except RuntimeError as error:  # a teacher from elsewhere that waits for the device
            torch.cuda.set_stream(current)  # a capture that fails leaves its own in place
            log.warning(f"predicting without a CUDA graph: {error}")
            self._graph = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            return self.function(images)
        self._input.copy_(images)
        self._graph.replay()
        score, anomaly_map = self._output
        return score.clone(), anomaly_map.clone()
