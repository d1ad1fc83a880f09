"""The training loop: resumable after every epoch, logged, and the same bytes for the same seed."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fastad import backbones
from fastad._files import atomic_path
from fastad.models.channels import channel_deviations
from research.embedded_teacher import workers
from research.embedded_teacher.balance import balance
from research.embedded_teacher.objectives import Objective
from research.embedded_teacher.scenes import Batch, compose, draw_bank

LAYERS = ("layer1", "layer2", "layer3")
FALL = 0.25  # share of the steps over which the rate falls
SAMPLE_BATCHES, SAMPLE_TEXTURES = 8, 400  # seen to tell how loud the channels are
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what teachers are fed


@dataclass
class Config:
    """What the resulting file follows from (on one kind of machine, with one torch).

    Attributes:
        terms: factor of every term of the objective.
        epochs, steps: a new bank is drawn every epoch of so many steps.
        scenes: a batch; twice as many images.
        size: pixels a side of the images.
        bank: textures an epoch.
        repeated, nuisance: of the scenes, see `compose`.
        fine_from: epochs after which surfaces may have grain and defects be as thin as hairs.
        fixed_bank: draw the same bank in every epoch ("program" needs it).
        rate, decay: of AdamW. The rate rises over the first epoch, and falls to 0 over the last
            quarter of the epochs, so that a training can be prolonged until then.
        temperature, projected, places_apart: of the objective.
        average: decay a step of the exponential average of the weights, which is what is kept.
        bfloat16: convolutions of the trunk in bfloat16, for processors that have units for it.
        workers: processes, each of which composes and differentiates its part of the scenes.
    """

    terms: dict[str, float] = field(default_factory=lambda: {"dense": 1.0})
    epochs: int = 8
    steps: int = 100
    scenes: int = 32
    size: int = 96
    bank: int = 1600
    repeated: float = 0.5
    nuisance: float = 1.0
    fine_from: int = 0
    fixed_bank: bool = False
    rate: float = 2e-3
    decay: float = 0.02
    average: float = 0.995
    temperature: float = 0.1
    projected: bool = True
    places_apart: bool = True
    bfloat16: bool = False
    workers: int = 1
    seed: int = 0


def train(config: Config, folder: Path, threads: int | None = None) -> Path:
    """Train, or go on from the checkpoint in ``folder``; returns the file of the trunk.

    ``threads`` are those of each worker. ``folder`` gets checkpoint.pt, log.jsonl (a line an
    epoch), before_fall.pt (the checkpoint from which it can be prolonged with more epochs) and, at
    the end, resnet18.safetensors.

    Raises:
        ValueError: the checkpoint in ``folder`` is of another configuration, or the scenes cannot
            be shared evenly among the workers.
    """
    if config.workers < 1 or config.scenes % config.workers:
        raise ValueError(
            f"scenes must be a multiple of workers; got {config.scenes} and {config.workers}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    workers.together(config.workers, _train, config, folder, threads)
    return folder / "resnet18.safetensors"


def _train(config: Config, folder: Path, threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    state = _State(config)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        state.load(torch.load(checkpoint, weights_only=True), checkpoint)
    bank = None
    while state.epoch < config.epochs:
        began = time.monotonic()
        if bank is None or not config.fixed_bank:
            bank = draw_bank(config.seed, 0 if config.fixed_bank else state.epoch, config.bank)
        drawn = time.monotonic() - began
        losses = state.run_epoch(bank)
        state.epoch += 1
        if workers.number() > 0:
            continue
        names = [checkpoint]
        if state.epoch == math.floor((1 - FALL) * config.epochs):
            names.append(folder / "before_fall.pt")
        for name in names:
            with atomic_path(name) as temporary:
                torch.save(state.saved(), temporary)
        line = {"epoch": state.epoch, "seconds": round(time.monotonic() - began, 1)}
        line |= {"bank_seconds": round(drawn, 1), "losses": losses}
        with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
    if workers.number() == 0:
        trunk = state.average.module.eval()
        balance(trunk, channel_deviations(map(trunk, _sample(config))))
        metadata = {"config": json.dumps(asdict(config))}
        export(trunk, folder / "resnet18.safetensors", metadata)


def _sample(config: Config) -> Iterator[Tensor]:
    """Images that the training has not seen, as the trunk gets them, for its channels' loudness."""
    generator = torch.Generator().manual_seed(config.seed)
    bank = draw_bank(config.seed, config.epochs, min(config.bank, SAMPLE_TEXTURES))
    for _ in range(SAMPLE_BATCHES):
        batch = compose(
            bank,
            config.scenes,
            config.size,
            generator,
            config.repeated,
            config.nuisance,
            fine=config.epochs > config.fine_from,
        )
        yield _standard(batch.first)


def _standard(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] -> those of the mean and deviation that teachers are fed."""
    mean, deviation = (images.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, DEVIATION))
    return ((images - mean) / deviation).contiguous(memory_format=torch.channels_last)


def export(trunk: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write a trunk's parameters and statistics: convolutions as float16, batch norm as float32."""
    tensors = {
        key: (value.half() if value.dim() == 4 else value.float()).contiguous()
        for key, value in trunk.state_dict().items()
        if not key.endswith(".num_batches_tracked")
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


class _State:
    """Everything that a training changes."""

    def __init__(self, config: Config):
        self.config, self.epoch = config, 0
        torch.manual_seed(config.seed)
        self.trunk = backbones.build("resnet18", LAYERS).to(memory_format=torch.channels_last)
        self.objective = Objective(
            self.trunk.channels,
            self.trunk.strides,
            config.terms,
            config.bank,
            config.temperature,
            config.projected,
            config.places_apart,
        )
        self.average = torch.optim.swa_utils.AveragedModel(
            self.trunk,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average),
            use_buffers=True,
        )
        self._parameters = [*self.trunk.parameters(), *self.objective.parameters()]
        self._buffers = [*self.trunk.buffers(), *self.average.buffers()]
        matrices, vectors = [], []
        for parameter in self._parameters:
            (matrices if parameter.dim() > 1 else vectors).append(parameter)
        groups = [{"params": matrices, "weight_decay": config.decay}]
        groups.append({"params": vectors, "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(groups, lr=config.rate)
        self._parts = {
            "trunk": self.trunk,
            "objective": self.objective,
            "average": self.average,
            "optimizer": self.optimizer,
        }

    def saved(self) -> dict:
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        return parts | {"epoch": self.epoch, "config": asdict(self.config)}

    def load(self, saved: dict, path: Path) -> None:
        # More epochs than before only put off the fall of the rate.
        found = saved["config"] | {"epochs": self.config.epochs}
        prolonged = self.config.epochs == saved["config"]["epochs"] or (
            saved["epoch"] <= (1 - FALL) * min(self.config.epochs, saved["config"]["epochs"])
        )
        if found != asdict(self.config) or not prolonged:
            raise ValueError(
                f"{path} is of another configuration, after {saved['epoch']} epochs: "
                f"{saved['config']}"
            )
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        self.epoch = saved["epoch"]

    def run_epoch(self, bank: torch.Tensor) -> dict[str, float]:
        """Train for one epoch; the mean of every term."""
        config, sums = self.config, {}
        generator = torch.Generator()
        for step in range(config.steps):
            moment = (config.seed * 10_007 + self.epoch) * 1_000_003 + step
            generator.manual_seed(moment + 500_009 * workers.number())
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate(self.epoch * config.steps + step)
            scenes = config.scenes // config.workers
            batch = compose(
                bank,
                scenes,
                config.size,
                generator,
                config.repeated,
                config.nuisance,
                fine=self.epoch >= config.fine_from,
            )
            loss, terms = self._loss(batch, generator)
            self.optimizer.zero_grad()
            loss.backward()
            workers.average_(p.grad for p in self._parameters)
            nn.utils.clip_grad_norm_(self.trunk.parameters(), 5.0)
            self.optimizer.step()
            self.average.update_parameters(self.trunk)
            for term, value in terms.items():
                sums[term] = sums.get(term, 0.0) + value / config.steps
        means = torch.tensor(list(sums.values()))
        # Each worker has seen images of its own: statistics of batch norm differ, weights do not.
        workers.average_([means, *(b for b in self._buffers if b.is_floating_point())])
        sums = dict(zip(sums, means.tolist(), strict=True))
        if not all(map(math.isfinite, sums.values())):
            raise RuntimeError(f"the training diverged in epoch {self.epoch + 1}: {sums}")
        return {term: round(value, 4) for term, value in sums.items()}

    def _loss(self, batch: Batch, generator: torch.Generator):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bfloat16):
            features = self.trunk(_standard(torch.cat([batch.first, batch.second])))
        first, second = zip(*(level.float().chunk(2) for level in features), strict=True)
        return self.objective(list(first), list(second), batch, generator)

    def _rate(self, step: int) -> float:
        total = self.config.epochs * self.config.steps
        rising = (step + 1) / self.config.steps
        falling = (total - step) / (total * FALL)
        return self.config.rate * min(1.0, rising, falling)
