"""The examples in docstrings run as a user would paste them; what users call has an example.

An example sees nothing that it does not import or make itself: no names of its module, no network.
Its files go to a temporary folder. The modules are those of the installed package.
"""

import doctest
import functools
import importlib
import logging
import pkgutil
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import fastad

# What users call: each has an example.
NAMES = [
    "fastad.Detector",
    "fastad.Detector.fit",
    "fastad.Detector.predict",
    "fastad.Detector.stream",
    "fastad.Detector.score_samples",
    "fastad.Detector.decision_function",
    "fastad.Detector.predict_labels",
    "fastad.Detector.evaluate",
    "fastad.Detector.explain",
    "fastad.Detector.calibrate",
    "fastad.Detector.drift",
    "fastad.Detector.watch",
    "fastad.Detector.operating_points",
    "fastad.Detector.set_threshold",
    "fastad.Detector.set_pixel_threshold",
    "fastad.Detector.set_min_area",
    "fastad.Detector.suspects",
    "fastad.Detector.save",
    "fastad.Detector.export",
    "fastad.load",
    "fastad.ops.distances",
    "fastad.ops.aggregate_maps",
    "fastad.ops.anomaly_map",
    "fastad.ops.distillation_loss",
    "fastad.ops.reference.anomaly_map",
    "fastad.backbones.build",
    "fastad.models.build",
    "fastad.inference.Predictor",
    "fastad.inference.conformal_threshold",
    "fastad.inference.p_values",
    "fastad.inference.predict_several",
    "fastad.inference.overlay",
    "fastad.inference.save_heatmap",
    "fastad.evaluation.Evaluation",
    "fastad.evaluation.aupro",
    "fastad.evaluation.evaluate",
    "fastad.evaluation.image_metrics",
    "fastad.evaluation.pixel_metrics",
    "fastad.training.ConsoleProgress",
    "fastad.training.Trainer",
    "fastad.training.TrainingConfig",
    "fastad.data.PseudoAnomalies",
    "fastad.data.read_image",
    "fastad.data.resize",
    "fastad.data.test_samples",
    "fastad.data.training_images",
    "fastad.export.export_detector",
]


# Packages without which `fastad.serve` cannot be imported.
OF_SERVE = {
    "fastapi",
    "prometheus_client",
    "pydantic",
    "python_multipart",
    "sqlalchemy",
    "starlette",
    "uvicorn",
}


def modules() -> Iterator[str]:
    """Names of the package's modules in Python, but for the one that runs the command line."""
    yield "fastad"
    for module in pkgutil.walk_packages(fastad.__path__, "fastad."):
        origin = module.module_finder.find_spec(module.name, None).origin
        if origin.endswith(".py") and not module.name.endswith(".__main__"):
            yield module.name


def examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name in OF_SERVE:  # the extra is not installed
                continue
            raise
        for example in finder.find(module, name, globs={}):
            if example.examples:
                yield example


@pytest.mark.parametrize("example", list(examples()), ids=lambda example: example.name)
def test_example_runs(example, offline, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    np.random.seed(0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)
    assert not offline  # attempts to reach the network
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("name", NAMES)
def test_what_users_call_has_an_example(name):
    found = functools.reduce(getattr, name.split(".")[1:], fastad)
    assert doctest.DocTestParser().get_examples(found.__doc__)
