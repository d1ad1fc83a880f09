"""One student for several products: a detector of each, with the same networks.

The networks were trained on good images of all products. What a detector takes from good images
beside them is of one product: position means, memory, how its maps are scaled and pooled,
thresholds, p-values, and what its images look like. So each detector is a file like any other.
"""

from typing import Any

from fastad.data.training_set import read_training_set
from fastad.inference.artifact import Artifact
from fastad.inference.fitting import fit_best
from fastad.inference.predictor import Predictor
from fastad.inference.starting import LEAST_HELD_OUT, Start
from fastad.models import AUTO, MODELS, AnomalyModel, candidates, model_class
from fastad.models.map_model import MapModel
from fastad.training import Calibrator, TrainingConfig
from fastad.training.batches import split_indices

# Options of the training that decide what is taken from the images, too.
OPTIONS = ("validation_fraction", "variants", "batch_size", "min_batches")


def require_shareable(name: str) -> None:
    """Refuse a model whose networks cannot serve several products.

    Raises:
        ValueError: it trains nothing, or some of its networks learn from what is calibrated.
    """
    if all(map(_is_shareable, map(model_class, candidates(name)))):
        return
    able = " or ".join(other for other, kind in MODELS.items() if _is_shareable(kind))
    if name == AUTO:
        why = "auto compares models, of which some cannot share a student"
    elif not model_class(name).trains():
        why = f"{name} trains nothing that products could share"
    else:
        why = f"{name} has networks that learn from what is taken from the images of one product"
    raise ValueError(f"one student for several products: {why}. Take the model {able}")


def held_out_of(count: int, share: float, seed: int) -> set[int]:
    """Which of ``count`` images of a product to hold out: a share, and at least five.

    Raises:
        ValueError: fewer than five would be left to train on.
    """
    if share == 0:
        return set()
    if count < 2 * LEAST_HELD_OUT:
        raise ValueError(
            f"{count} good images are too few for one student of several products: at least "
            f"{2 * LEAST_HELD_OUT} must be there, of which {LEAST_HELD_OUT} are held out"
        )
    return {*split_indices(count, max(share, LEAST_HELD_OUT / count), seed)[1].tolist()}


def _is_shareable(kind: type[AnomalyModel]) -> bool:
    one_pair = issubclass(kind, MapModel) and kind.pair is not None and len(kind.stages) == 1
    return one_pair and kind.trains()


def fit_product(
    start: Start,
    images: Any,
    *,
    device: str,
    precision: str,
    skip_bad: bool = False,
    **options: Any,
) -> tuple[Artifact, Predictor]:
    """A detector of the product whose good images are given, with the networks of ``start``.

    Held out are the images that the training held out, and a share of those that it has not seen.

    Args:
        start: the detector that was trained on several products.
        images: the good images of one of them, as of `read_training_set`.
        device, precision: of the calibration, as of `fastad.training.TrainingConfig`.
        skip_bad: leave unreadable files out.
        **options: of `fastad.inference.fitting.fit_model`.

    Raises:
        ValueError: the model cannot, or fewer than five images may be held out.
    """
    own = start.artifact
    require_shareable(own.model.name)
    if own.tile is not None:
        raise ValueError(f"{start.name} was trained on tiles: a product takes whole images")
    source = read_training_set(images, own.image_size, skip_bad, start.pixel_range.option)
    asked = own.training.get("config", {})
    config = TrainingConfig.for_model(
        own.model,
        device=device,
        precision=precision,
        seed=own.training.get("seed", 0),
        **{name: asked[name] for name in OPTIONS if name in asked},
    )
    source, _ = start.prepared(source, config)
    artifact, predictor = fit_best([(start.model(), config)], source, kind=Calibrator, **options)
    count = own.training.get("n_train")
    note = f"the networks are those of {start.name}, trained on {count} images of several products"
    start.enter(artifact.training, [note])
    return artifact, predictor
