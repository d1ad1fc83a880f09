"""The command line: ``fastad train | evaluate | predict | info | bench``.

This file holds the options and the treatment of errors; the work is in `fastad.commands`, imported
by the command that needs it, so that ``fastad --help`` answers at once.
"""

import sys
import warnings
from typing import Annotated, NoReturn

import typer

app = typer.Typer(
    name="fastad",
    help="Detect visual anomalies with student-teacher networks trained on good images only.",
    epilog="Every command takes --traceback, which shows where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Detector = Annotated[
    str, typer.Argument(metavar="DETECTOR", help="Detector file made by `fastad train`.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a step.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write JSON; - for stdout.")
]


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
) -> None:
    # `main` takes the flag out, wherever it stands; it is declared to appear in the help.
    pass


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Folder in MVTec layout (train/good), or of good images."
        ),
    ],
    model: Annotated[str, typer.Option(help="Name of the model.")] = "stpm",
    output: Annotated[str, typer.Option(metavar="FILE", help="Where the detector goes.")] = (
        "detector.fastad"
    ),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the images; the model's own if left out.")
    ] = None,
    image_size: Annotated[str, typer.Option(help="256, or 640x256 (height x width).")] = "256",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step; the model's own if left out.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    teacher_weights: Annotated[
        str | None,
        typer.Option(
            metavar="auto|PATH",
            help="Pretrained weights: a file; auto for FASTAD_WEIGHTS, torch.hub's cache, or a "
            "download.",
        ),
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of good images that the threshold may call anomalous.")
    ] = 0.01,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the initialisation, the hold-out split and the order.")
    ] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any field of the model's or the training's config; may be repeated.",
        ),
    ] = None,
) -> None:
    """Train a detector on good images and choose its threshold on those held out."""
    from fastad.commands.train import SettingsError
    from fastad.commands.train import train as run

    try:
        run(
            data,
            model=model,
            output=output,
            image_size=image_size,
            false_positive_rate=false_positive_rate,
            settings=settings or [],
            model_options={"teacher_weights": teacher_weights},
            training_options={
                "epochs": epochs,
                "batch_size": batch_size,
                "device": device,
                "precision": precision,
                "seed": seed,
            },
        )
    except SettingsError as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def evaluate(
    detector: Detector,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Folder in MVTec layout (test, ground_truth).")
    ],
    json: JsonFile = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Measure a detector on labelled test images."""
    from fastad.commands.evaluate import evaluate as run

    run(detector, data, json=json, device=device, precision=precision, batch_size=batch_size)


@app.command()
def predict(
    detector: Detector,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Image files and folders of them.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Folder for the heat maps, and for scores.csv if no file is named."
        ),
    ] = None,
    json: JsonFile = None,
    csv: Annotated[
        str | None, typer.Option("--csv", metavar="FILE", help="Write CSV; - for stdout.")
    ] = None,
    heatmaps: Annotated[
        bool, typer.Option("--heatmaps", help="Draw each anomaly map over its image.")
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Score images; without --output, --json and --csv the scores go to stdout."""
    if heatmaps and output is None:
        raise typer.BadParameter("--heatmaps needs --output DIR")
    if json is not None and csv is not None:
        raise typer.BadParameter("--json and --csv exclude each other")
    from fastad.commands.predict import predict as run

    run(
        detector,
        images,
        output=output,
        json=json,
        csv=csv,
        heatmaps=heatmaps,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )


@app.command()
def info(
    detector: Annotated[
        str | None, typer.Argument(metavar="[DETECTOR]", help="Show what is in this file instead.")
    ] = None,
) -> None:
    """Show what was built and what this machine offers, or what a detector file holds."""
    from fastad.commands.info import info as run

    run(detector)


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="Name of the model.")] = "stpm",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="May be repeated; 1 and 8 if left out.")
    ] = None,
    image_size: Annotated[str, typer.Option(help="256, or 640x256 (height x width).")] = "256",
    seconds: Annotated[float, typer.Option(min=0.0, help="Time given to each comparison.")] = 3.0,
    json: JsonFile = None,
) -> None:
    """Measure the fused ops against plain PyTorch, and a model's speed, on this machine."""
    from fastad.commands.bench import bench as run

    run(
        model=model,
        device=device,
        precision=precision,
        batch_sizes=batch_size or [1, 8],
        image_size=image_size,
        seconds=seconds,
        json=json,
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a failure (one line on stderr), 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    show_traceback = "--traceback" in arguments
    warnings.showwarning = _show_warning
    try:
        app([a for a in arguments if a != "--traceback"], prog_name="fastad")
    except Exception as error:
        if show_traceback:
            raise
        print(f"error: {_reason(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _reason(error: Exception) -> str:
    """The message on one line, without the number of an operating-system error."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
