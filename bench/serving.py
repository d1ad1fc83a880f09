"""Prediction by `fastad.inference.Predictor` against its peers, interleaved in one process.

    python bench/serving.py --json bench/results/FILE.json    measure and record
    python bench/serving.py --check                           exit 1 where a floor is missed

The peer is anomalib's STFPM, whose operations stand here in plain PyTorch (anomalib itself needs
torchvision): two ResNet-18 trunks in float32, contiguous, batch norm on its own, and its map's
formula; of photographs also its preprocessing. Weights are random: they change no time. "fastad" is
what "auto" means here, float32 and bfloat16 are its other ways, "unfused" is the trained model as
it is, and torch.compile the same with frozen weights, in bfloat16 where there are units for it.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from ratios import finish
from stfpm import stfpm
from torch import Tensor
from torch._inductor import config as inductor

from fastad import _extension, backbones, models, training
from fastad.commands.timing import interleaved
from fastad.data import resize
from fastad.engine import precision
from fastad.engine.convolution import Convolution, Stem
from fastad.engine.folding import fold
from fastad.inference import Predictor
from fastad.training.precision import cpu_multiplies_in, has_amx

LAYERS = ("layer1", "layer2", "layer3")
SIZE = (256, 256)
PHOTOGRAPH = 1024  # pixels a side
PEER = "the operations of anomalib's STFPM in plain PyTorch"


def compiled() -> Callable[[Tensor], Any]:
    """STPM by torch.compile with its weights frozen, in bfloat16 where there are units for it."""
    model = models.build("stpm", **models.without_weights("stpm")).eval()
    model = model.to(memory_format=torch.channels_last)
    half = cpu_multiplies_in(torch.bfloat16)
    run = torch.compile(model)

    def predict(images: Tensor) -> Any:
        with (
            inductor.patch(freezing=True),
            torch.no_grad(),
            torch.autocast("cpu", torch.bfloat16, half),
        ):
            return run(images)

    return predict


class Peer:
    """What anomalib 2's STFPM does with a batch, in float32."""

    def __init__(self) -> None:
        self.teacher, self.student = (backbones.build("resnet18", LAYERS).eval() for _ in range(2))

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, 256, 256) in [0, 1] -> scores (N,) and maps (N, 1, 256, 256)."""
        return stfpm(self.teacher, self.student, images)

    def photograph(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """One image (3, H, W) uint8 -> score and map."""
        image = pixels[None].float() / 255
        return self(F.interpolate(image, SIZE, mode="bilinear", antialias=True))


def predictor(name: str, precision: str = "auto", **options: Any) -> Predictor:
    model = models.build(name, **models.without_weights(name), **options).eval()
    if name == "prn":  # with a bottle's prototypes: one for ten of 167 images
        some = [model.teacher_features(torch.rand(8, 3, *SIZE)) for _ in range(4)]
        model.prototypes.fit(lambda: some, "teacher", 0.5, 17)
    return Predictor(model, SIZE, device="cpu", precision=precision)


def products(predictor: Predictor) -> int:
    """Multiplications that the convolutions of one image take, by the way each is computed."""
    folded = fold(predictor.model, torch.int16)
    assert folded is not None
    folded.__dict__.pop("extract_pair", None)  # the same convolutions one by one
    found = [0]

    def count(module: Any, inputs: tuple[Tensor, ...], y: Tensor) -> None:
        (n, channels, *_), (height, width) = inputs[0].shape, y.shape[-2:]
        if isinstance(module, Stem):  # pooled by 2
            found[0] += n * 4 * height * width * 49 * 3 * y.shape[1]
        elif isinstance(module, Convolution) and module.kernel == "winograd":
            tiles = -(-height // 4) * -(-width // 4)
            found[0] += n * tiles * 36 * channels * module.filters
        else:
            sides = module.weight[0, 0].numel() if module.kernel == "torch" else module.side**2
            found[0] += y.numel() * channels * sides

    kinds = (Convolution, Stem)
    hooks = [m.register_forward_hook(count) for m in folded.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        folded(torch.rand(1, 3, *SIZE))
    assert hooks
    return found[0]


def compared(
    work: str, runs: dict[str, Callable], seconds: float, repeats: int, batch: int = 1
) -> dict[str, Any]:
    """How many times as long the others take as the first: medians and minima, every repeat."""
    first, *others = runs
    rounds = [interleaved(runs, torch.device("cpu"), seconds) for _ in range(repeats)]
    fastest = {name: min(min(times[name]) for times in rounds) for name in runs}
    row: dict[str, Any] = {"work": work, "batch_size": batch}
    row |= {"fastest_ms": {name: round(value, 2) for name, value in fastest.items()}}
    row["images_per_second"] = round(
        1e3 * batch / statistics.median(statistics.median(t[first]) for t in rounds), 1
    )
    for other in others:
        ratios = [statistics.median(t[other]) / statistics.median(t[first]) for t in rounds]
        row[other] = {
            "ratio": round(statistics.median(ratios), 2),
            "of_each_repeat": [round(ratio, 2) for ratio in ratios],
            "of_minima": round(fastest[other] / fastest[first], 2),
        }
    return row


def measure(seconds: float, repeats: int) -> list[dict[str, Any]]:
    peer = Peer()
    auto, exact, plain = predictor("stpm"), predictor("stpm", "float32"), predictor("stpm")
    plain.dtype, plain.fused = training.resolve_precision("auto", torch.device("cpu")), False
    half = predictor("stpm", "bfloat16") if cpu_multiplies_in(torch.bfloat16) else exact
    rows = []
    for batch in (1, 8):
        images = torch.rand(batch, 3, *SIZE)
        aligned = images.contiguous(memory_format=torch.channels_last)
        runs = {
            "fastad": lambda: auto.predict_batch(aligned),  # noqa: B023
            "float32": lambda: exact.predict_batch(aligned),  # noqa: B023
            "bfloat16": lambda: half.predict_batch(aligned),  # noqa: B023
            "unfused": lambda: plain.predict_batch(aligned),  # noqa: B023
            "peer": lambda: peer(images),  # noqa: B023
        }
        if batch == 1:
            quick = compiled()
            runs["torch.compile"] = lambda: quick(aligned)  # noqa: B023
            quick(aligned)
        rows.append(compared("stpm, tensor to score and map", runs, seconds, repeats, batch))
    pixels = torch.randint(0, 256, (3, PHOTOGRAPH, PHOTOGRAPH), dtype=torch.uint8)
    runs = {"fastad": lambda: auto.predict(pixels), "peer": lambda: peer.photograph(pixels)}
    rows.append(compared(f"stpm, {PHOTOGRAPH}x{PHOTOGRAPH} bytes to score", runs, seconds, repeats))
    runs = {
        "fastad": lambda: resize(pixels, SIZE),
        "through float32": lambda: F.interpolate(
            pixels[None].float(), SIZE, mode="bilinear", antialias=True
        ).round(),
    }
    rows.append(compared(f"resize of {PHOTOGRAPH}x{PHOTOGRAPH} bytes", runs, seconds, repeats))
    image = torch.rand(1, 3, *SIZE).contiguous(memory_format=torch.channels_last)
    candidates = {
        "stpm": auto,
        "rstpm, teacher2=resnet50": predictor("rstpm", teacher2="resnet50"),
        "rstpm, teacher2=resnet18": predictor("rstpm", teacher2="resnet18"),
    }
    runs = {name: lambda p=p: p.predict_batch(image) for name, p in candidates.items()}
    row = compared("rstpm against stpm", runs, seconds, repeats)
    counts = {name: products(p) for name, p in candidates.items()}
    for name in list(candidates)[1:]:
        row[name]["products"] = round(counts[name] / counts["stpm"], 2)
    rows.append(row)
    # As GTrans and PRN were to be compared: all in float32.
    candidates = {
        "stpm": exact,
        "gtrans, backbone=resnet34": predictor("gtrans", "float32", backbone="resnet34"),
        "gtrans, backbone=resnet18": predictor("gtrans", "float32", backbone="resnet18"),
        "prn": predictor("prn", "float32"),
        "utad": predictor("utad", "float32"),
    }
    runs = {name: lambda p=p: p.predict_batch(image) for name, p in candidates.items()}
    rows.append(compared("the other systems against stpm, float32", runs, seconds, repeats))
    return rows


def missed(rows: list[dict[str, Any]], amx: bool) -> list[str]:
    """Which of the floors are not reached; those of bfloat16 are for processors with AMX."""
    one, eight, photograph, _, rstpm, others = rows
    found = []

    def require(what: str, value: float, least: float) -> None:
        if value < least:
            found.append(f"{what}: {value} below {least}")

    peer_of_float32 = one["peer"]["ratio"] / one["float32"]["ratio"]
    require("float32, batch 1, against the peer", round(peer_of_float32, 2), 1.5)
    require("batch 1 against torch.compile", one["torch.compile"]["ratio"], 1)
    if amx:
        require("batch 1 against the peer", one["peer"]["ratio"], 7)
        require("batch 8 against the peer", eight["peer"]["ratio"], 9)
        require("batch 8, images a second", eight["images_per_second"], 200)
        require("photograph against the peer", photograph["peer"]["ratio"], 5)
    for name, most in (("rstpm, teacher2=resnet50", 4.5), ("rstpm, teacher2=resnet18", 2.6)):
        require(f"1 / {name}", round(1 / rstpm[name]["ratio"], 3), round(1 / most, 3))
    for name, most in (("gtrans, backbone=resnet34", 3), ("prn", 6)):
        require(f"1 / {name}", round(1 / others[name]["ratio"], 3), round(1 / most, 3))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="file to record the numbers in")
    parser.add_argument("--check", action="store_true", help="exit 1 where a floor is missed")
    parser.add_argument("--seconds", type=float, default=10, help="a comparison and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.seconds, options.repeats)
    for row in rows:
        print(row, flush=True)
    half = cpu_multiplies_in(torch.bfloat16)
    facts = {"peer": PEER, "bfloat16_units": half, "amx": has_amx()}
    facts["auto"] = str(precision.resolve("auto", torch.device("cpu"))).removeprefix("torch.")
    facts |= {"torch": torch.__version__, "fastad": _extension.build_info()}
    return finish(options, rows, missed(rows, has_amx()), **facts)


if __name__ == "__main__":
    sys.exit(main())
