"""``fastad demo``: synthetic products rendered, learnt, tested, and shown on one page."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fastad import models
from fastad._files import claim_folder, write_atomically
from fastad.commands.demo_page import Outcome, Shown, page
from fastad.commands.output import log, note, progress, write_text
from fastad.data.rendered.products import (
    NOTE,
    PRODUCTS,
    USUAL_COUNTS,
    Counts,
    Item,
    plan_dataset,
    write_dataset,
)
from fastad.detector import Detector
from fastad.inference.heatmaps import colour_scale, overlay
from fastad.training import ConsoleProgress, resolve_device


@dataclass(frozen=True)
class Recipe:
    """How a model learns a product in less than a minute.

    Attributes:
        what: is said of it on the page.
        options: of the model.
        teachers: its options that say where a teacher's weights come from.
        epochs: of its first stage.
        training: options of the training.
    """

    what: str
    options: dict[str, Any]
    teachers: tuple[str, ...]
    epochs: int
    training: dict[str, Any]


MODELS = {
    "rstpm": Recipe(
        "rstpm with ResNet-18 as both teachers and a learned bottleneck",
        # One small network is both teachers: one small download, less time than with ResNet-50.
        {"teacher2": "resnet18", "bottleneck": "learned"},
        ("teacher_weights", "teacher2_weights"),
        epochs=10,
        # The second stage takes half of the images held out.
        training={"batch_size": 4, "validation_fraction": 0.4, "pseudo_anomalies": 60},
    ),
    "stpm": Recipe(
        "stpm with ResNet-18",
        {},
        ("teacher_weights",),
        epochs=20,
        # Its authors' recipe takes more steps of more images than three minutes have.
        training={
            "batch_size": 2,
            "optimizer": "adam",
            "learning_rate": 5e-3,
            "schedule": "cosine",
        },
    ),
}
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
    image_size: tuple[int, int],
    device: str,
    seed: int,
    counts: Counts = USUAL_COUNTS,
) -> None:
    """Write images, detectors, pictures and the page that shows them into the folder ``output``.

    ``model``: one of `MODELS`, or "auto": RSTPM, but STPM with the embedded teacher, which in so
    short a time comes further with that. ``epochs``: None for those of the model's recipe.

    Raises what makes the work impossible before any of it is done: ValueError for an option,
    WeightsNotFoundError for the teacher, FileExistsError where a file would be overwritten that
    the demo did not write. RuntimeError after Ctrl-C.
    """
    resolve_device(device)
    if model == "auto":
        origin = models.build("stpm", teacher_weights=teacher_weights).teacher_origins()["teacher"]
        model = "stpm" if origin == "embedded" else "rstpm"
        if origin == "embedded":
            teacher_weights = "embedded"  # nothing is looked for, or said, a second time
            note("the model is stpm: in so short a time it learns more from the embedded teacher")
    recipe = MODELS[model]
    options = recipe.options | dict.fromkeys(recipe.teachers, teacher_weights)
    models.build(model, **options)
    training = recipe.training | {"epochs": epochs or recipe.epochs}
    folder = Path(output)
    plans = {product: plan_dataset(product, counts, seed) for product in PRODUCTS}
    files = [MANIFEST, PAGE, *(f for product in PRODUCTS for f in _files(product, plans[product]))]
    # Other people's images among the data would be learnt from.
    own = [f"data/{product}" for product in PRODUCTS]
    claim_folder(folder, "fastad demo", [MANIFEST, PAGE, *files], PAGE, own)

    outcomes = []
    try:
        for product in PRODUCTS:
            with progress(f"rendering {product}") as report:
                write_dataset(folder / "data" / product, product, counts, seed, report)
            note(f"rendered {len(plans[product])} synthetic images: {folder / 'data' / product}")
            detector = Detector(
                model,
                image_size=image_size,
                device=device,
                false_positive_rate=RATE,
                seed=seed,
                **options,
            )
            _learn(detector, folder, product, training)
            outcomes.append(_examine(detector, folder, product, plans[product]))
    except KeyboardInterrupt as error:
        raise RuntimeError("stopped by the user: the same command starts again") from error
    write_text(str(folder / PAGE), page(outcomes, recipe.what, image_size, seed))
    note(f"done: open {folder / PAGE}")


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
