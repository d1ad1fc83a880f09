"""``fastad demo``: synthetic products rendered, learnt, tested, and shown on one page."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fastad import backbones, models
from fastad._files import claim_folder, write_atomically
from fastad.commands.demo_page import Outcome, Shown, page
from fastad.commands.output import log, note, progress, write_text
from fastad.data.rendered.products import (
    DEMONSTRATED,
    NOTE,
    USUAL_COUNTS,
    Counts,
    Item,
    plan_dataset,
    write_dataset,
)
from fastad.detector import Detector
from fastad.inference.heatmaps import colour_scale, overlay
from fastad.training import ConsoleProgress, TrainingConfig, resolve_device


@dataclass(frozen=True)
class Recipe:
    """How a model learns a product in less than a minute.

    Attributes:
        image_size: pixels a side.
        options: of the model.
        networks: its options that name a teacher. All of them are the same network.
        teachers: its options that say where a teacher's weights come from.
        training: options of the training, the epochs of its first stage among them.
    """

    image_size: int
    options: dict[str, Any]
    networks: tuple[str, ...]
    teachers: tuple[str, ...]
    training: dict[str, Any]


MODELS = {
    "subspace": Recipe(
        256,
        # Nothing is chosen by the few images held out: they set the threshold alone.
        {"scale_maps": "none", "scale_score": "none", "pooling": "maximum"},
        ("backbone",),
        ("teacher_weights",),
        training={"validation_fraction": 0.4},
    ),
    "rstpm": Recipe(
        128,
        # One small network is both teachers: one small download, less time than with ResNet-50.
        {"bottleneck": "learned"},
        ("teacher1", "teacher2"),
        ("teacher_weights", "teacher2_weights"),
        # The second stage takes half of the images held out.
        training={
            "epochs": 10,
            "batch_size": 4,
            "validation_fraction": 0.4,
            "pseudo_anomalies": 60,
        },
    ),
    "stpm": Recipe(
        128,
        {},
        ("backbone",),
        ("teacher_weights",),
        # Its authors' recipe takes more steps of more images than three minutes have.
        training={
            "epochs": 20,
            "batch_size": 2,
            "optimizer": "adam",
            "learning_rate": 5e-3,
            "schedule": "cosine",
        },
    ),
}
LAYERS = ("layer1", "layer2", "layer3")  # of the teacher
MANIFEST, PAGE = "fastad-demo.json", "index.html"
RATE = 0.1  # of false alarms; needs 9 images for the threshold
GREEN = (0, 230, 90)
GAP = 6  # pixels between the three panels of a picture


def demo(
    *,
    output: str,
    model: str,
    teacher_weights: str,
    epochs: int | None,
    image_size: tuple[int, int] | None,
    device: str,
    seed: int,
    counts: Counts = USUAL_COUNTS,
) -> None:
    """Write images, detectors, pictures and the page that shows them into the folder ``output``.

    ``model``: one of `MODELS`. ``epochs`` and ``image_size``: None for those of its recipe.

    Raises what makes the work impossible before any of it is done: ValueError for an option,
    WeightsNotFoundError for the teacher, FileExistsError where a file would be overwritten that
    the demo did not write. RuntimeError after Ctrl-C.
    """
    resolve_device(device)
    candidates = ("resnet18", *backbones.FROM_PIP)
    if teacher_weights == "auto":  # first what the recipes were made with
        candidates = (*backbones.FROM_PIP, "resnet18")
    network = backbones.auto_backbone(LAYERS, teacher_weights, candidates)
    if backbones.build(network, LAYERS, teacher_weights).origin == "embedded":
        teacher_weights = "embedded"  # nothing is looked for, or said, a second time
    recipe = MODELS[model]
    options = recipe.options | dict.fromkeys(recipe.networks, network)
    options |= dict.fromkeys(recipe.teachers, teacher_weights)
    training = recipe.training | ({} if epochs is None else {"epochs": epochs})
    TrainingConfig.for_model(models.build(model, **options), **training)
    size = image_size or (recipe.image_size, recipe.image_size)
    what = _what(model, network, recipe)
    note(f"the detectors: {what}")
    folder = Path(output)
    plans = {product: plan_dataset(product, counts, seed) for product in DEMONSTRATED}
    files = [
        MANIFEST,
        PAGE,
        *(f for product in DEMONSTRATED for f in _files(product, plans[product])),
    ]
    # Other people's images among the data would be learnt from.
    own = [f"data/{product}" for product in DEMONSTRATED]
    claim_folder(folder, "fastad demo", [MANIFEST, PAGE, *files], PAGE, own)

    outcomes = []
    try:
        for product in DEMONSTRATED:
            with progress(f"rendering {product}") as report:
                write_dataset(folder / "data" / product, product, counts, seed, report)
            note(f"rendered {len(plans[product])} synthetic images: {folder / 'data' / product}")
            detector = Detector(
                model,
                image_size=size,
                device=device,
                false_positive_rate=RATE,
                seed=seed,
                **options,
            )
            _learn(detector, folder, product, training)
            outcomes.append(_examine(detector, folder, product, plans[product]))
    except KeyboardInterrupt as error:
        raise RuntimeError("stopped by the user: the same command starts again") from error
    write_text(str(folder / PAGE), page(outcomes, what, size, seed))
    note(f"done: open {folder / PAGE}")


def _what(model: str, network: str, recipe: Recipe) -> str:
    """The model in words for the page."""
    if len(recipe.networks) == 1:
        return f"{model} with {network}"
    return f"{model} with {network} as both teachers and a learned bottleneck"


def _files(product: str, plan: list[Item]) -> list[str]:
    """Everything written for a product, below the output folder."""
    names = [f"{product}.fastad", f"data/{product}/{NOTE}"]
    for item in plan:
        names += [f"data/{product}/{p}" for p in (item.path, item.mask_path) if p is not None]
        if item.path.parts[0] == "test":
            names.append(_picture(product, item))
    return names


def _picture(product: str, item: Item) -> str:
    return f"pictures/{product}/{item.path.relative_to('test')}"


def _learn(detector: Detector, folder: Path, product: str, training: dict[str, Any]) -> None:
    note(f"learning what a good {product} looks like")
    with ConsoleProgress() as listener:
        detector.fit(
            folder / "data" / product / "train" / "good",
            progress=listener if log.isEnabledFor(logging.INFO) else None,
            **training,
        )
    if detector.training_record_["interrupted"]:
        raise KeyboardInterrupt
    detector.save(folder / f"{product}.fastad")


def _examine(detector: Detector, folder: Path, product: str, plan: list[Item]) -> Outcome:
    """Evaluate on the test images, and draw them."""
    data, tested = folder / "data" / product, [i for i in plan if i.path.parts[0] == "test"]
    with progress(f"evaluating {product}") as report:
        metrics = detector.evaluate(data, progress=report)
    result = detector.predict([data / item.path for item in tested])
    assert result.p_value is not None  # images were held out
    assert result.is_anomalous is not None
    threshold = detector.threshold_
    assert threshold is not None
    shown = []
    for n, item in enumerate(tested):
        name = _picture(product, item)
        mask = None if item.mask_path is None else data / item.mask_path
        _draw(folder / name, data / item.path, mask, result.anomaly_map[n], threshold)
        shown.append(
            Shown(
                name,
                item.defect or "good",
                float(result.score[n]),
                float(result.p_value[n]),
                bool(result.is_anomalous[n]),
            )
        )
    found, alarms = (metrics["at_threshold"][f"{kind}_positive_rate"] for kind in ("true", "false"))
    note(
        f"{product}: image AUROC {metrics['image_auroc']:.3f}, pixel AUROC "
        f"{metrics['pixel_auroc']:.3f}, {found:.0%} of the defects found, {alarms:.0%} false alarms"
    )
    return Outcome(product, metrics, detector.training_record_, threshold, RATE, shown)


def _draw(
    path: Path, image: Path, mask: Path | None, anomaly_map: np.ndarray, threshold: float
) -> None:
    """Image, anomaly map over it, and outline of the ground truth, side by side."""
    pixels = np.asarray(Image.open(image).convert("RGB"))
    heat_map, truth = overlay(pixels, anomaly_map, colour_scale(threshold)), pixels.copy()
    if mask is not None:
        defect = Image.open(mask)
        wider = defect.filter(ImageFilter.MaxFilter(5))
        truth[np.asarray(wider) > np.asarray(defect)] = GREEN
    gap = np.full((len(pixels), GAP, 3), 255, np.uint8)
    picture = Image.fromarray(np.hstack([pixels, gap, heat_map, gap, truth]))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))
