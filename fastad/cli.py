"""The command line: ``fastad train``, ``check``, ``predict`` and the other commands below.

This file holds the options and the treatment of errors; the work is in `fastad.commands`, imported
by the command that needs it, so that ``fastad --help`` answers at once.
"""

import functools
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, Any, Literal, NoReturn

import typer
import typer.core

import fastad
from fastad.commands import UsageError
from fastad.commands.interrupts import answered_interrupts
from fastad.commands.processors import share_processors

# Exit codes beside 1, a failure, and 2, wrong usage.
ANOMALOUS = 3  # an image is anomalous: of --fail-on-anomaly
DRIFTED = 3  # images are no longer like the calibration's: of drift
NOT_INSPECTED = 4  # images were passed over, as --skip-bad allows


class _Commands(typer.core.TyperGroup):
    """Ctrl-C in any command is a failure with one line, as others are."""

    def invoke(self, *arguments: Any) -> Any:
        try:
            return super().invoke(*arguments)
        except KeyboardInterrupt:
            raise RuntimeError("stopped by the user") from None


class _Command(typer.core.TyperCommand):
    """Says what a mistyped option was meant to be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Of typer's own copy of click in newer versions, of click in older ones.
            if type(error).__name__ != "NoSuchOption":
                raise
            from fastad.commands.suggestions import hint

            names = [name for parameter in self.params for name in parameter.opts]
            error.message += hint(error.option_name, names, self.settings())  # type: ignore[attr-defined]
            error.possibilities = None  # type: ignore[attr-defined]
            raise

    def settings(self) -> list[str]:
        """Keys of the command's ``--set``, if it has one."""
        return []


app = typer.Typer(
    name="fastad",
    cls=_Commands,
    help="Detect visual anomalies with student-teacher networks trained on good images only.",
    epilog="Every command takes --quiet (warnings and errors only), --verbose (details), and "
    "--traceback (where an error came from).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Detector = Annotated[
    str, typer.Argument(metavar="DETECTOR", help="Read this detector file, made by `fastad train`.")
]
Device = Annotated[
    str,
    typer.Option(
        help="Run on this device: auto, cpu, cuda or cuda:N. auto takes CUDA where there is one."
    ),
]
ServingPrecision = Annotated[
    Literal["auto", "float32", "bfloat16", "float16", "int16"],
    typer.Option(
        help="Compute convolutions in this precision. auto takes the fastest that "
        "agreed with float32."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Compute so many images at once.")]


@contextmanager
def _usage() -> Iterator[None]:
    """What a command calls wrong usage is said, and exits, as what typer calls so."""
    try:
        yield
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


def _named(context: typer.Context) -> set[str]:
    """The parameters that stand on the command line, as against those left to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _check_rate(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"must be between 0 and 1; got {value}")
    return value


SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out instead of stopping.")
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--false-positive-rate",
        callback=_check_rate,
        help="Choose another threshold than the file's, from the held-out scores that "
        "it keeps. It calls at most this share of good images anomalous.",
        show_default="the file's threshold",
    ),
]
GoodFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--good",
        metavar="FOLDER",
        help="Take this folder in DATA for good images, where its name does not say "
        "so. A dot is DATA itself. May be repeated.",
        show_default="by the names of the folders",
    ),
]
DefectFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--defects",
        metavar="FOLDER",
        help="Take this folder in DATA for defective images, where its name does not "
        "say so. May be repeated.",
        show_default="by the names of the folders",
    ),
]
MaskFolders = Annotated[
    list[str] | None,
    typer.Option(
        "--masks",
        metavar="FOLDER",
        help="Take this folder, in DATA or elsewhere, for masks, where its name does "
        "not say so. May be repeated.",
        show_default="by the names of the folders",
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write JSON to this file. A dash is stdout.",
        show_default="no file",
    ),
]
Roi = Annotated[
    str | None,
    typer.Option(
        "--roi",
        metavar="FILE",
        help="Let only this region of the images count: a mask of their aspect ratio whose white "
        "pixels count, or polygons as JSON. It narrows the region of the file.",
        show_default="the file's",
    ),
]
MinArea = Annotated[
    str | None,
    typer.Option(
        "--min-area",
        metavar="AREA",
        help="Let regions below this area not count: 25 or 25px (pixels of the original image), "
        "0.1% of it, or 1.5mm2. The threshold is chosen anew, and keeps its rate. With 0 "
        "all count.",
        show_default="the file's",
    ),
]
MmPerPixel = Annotated[
    float | None,
    typer.Option(
        "--mm-per-pixel",
        metavar="MM",
        help="Say how many millimetres a pixel of the original images is, for areas and lengths.",
        show_default="not known",
    ),
]
CsvFile = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="FILE",
        help="Write CSV to this file, a row an image. A dash is stdout.",
        show_default="no file",
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastad {fastad.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write only warnings and errors to stderr.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Write details to stderr.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    # `main` takes these flags out, wherever they stand; they are declared to appear in the help.
    pass


# The panels of options in the help of `train`.
_of_data, _of_model, _of_training, _of_defects, _of_output = (
    functools.partial(typer.Option, rich_help_panel=panel)
    for panel in ("Data", "Model", "Training", "Synthesised defects", "Output")
)


class _Train(_Command):
    """Takes the defaults from the classes that the options go to; they import torch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from fastad.commands.train import defaults, defaults_by_model

        ctx.default_map = defaults()
        by_model = defaults_by_model()
        for parameter in self.params:
            if parameter.name in by_model:
                parameter.show_default = by_model[parameter.name]  # type: ignore[attr-defined]
        return super().parse_args(ctx, args)

    def settings(self) -> list[str]:
        from fastad.commands.suggestions import settings_of_training

        return settings_of_training()


@app.command(
    cls=_Train,
    epilog="Examples:\n\n"
    "fastad train bottle --output bottle.fastad\n\n"
    "fastad train bottle --output bottle.fastad --report bottle_training\n\n"
    "fastad train good_images --image-size auto --false-positive-rate 0.02\n\n"
    "fastad train bottle --model rstpm --set teacher2=resnet50_caffe\n\n"
    "fastad train bottle --model stpm --set backbone=resnet34 --set learning_rate=0.1\n\n"
    "fastad train bottle --output bottle.fastad --resume\n\n"
    "fastad train bottle_old_and_new --start-from bottle.fastad --output bottle_2.fastad\n\n",
)
def train(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Learn from this folder. It has the layout of MVTec AD (train/good), "
            "MVTec AD 2, MVTec LOCO, BTAD or VisA, or is any folder of good images. "
            "`fastad inspect` shows what is in it.",
        ),
    ],
    # Data
    image_size: Annotated[
        str | None,
        _of_data(
            help="Resize images to this size: 256, 640x256 (height x width), or auto. auto"
            " keeps the aspect ratio of the images, in about 256x256 pixels."
        ),
    ] = None,
    bit_depth: Annotated[
        str | None,
        _of_data(
            metavar="auto|8...16|LOW-HIGH",
            help="Say which values of 16-bit pixels become black and white: so many bits, "
            "a window like 30000-34000, or auto. auto takes what the images use.",
        ),
    ] = None,
    good: Annotated[
        list[str] | None,
        _of_data(
            "--good",
            metavar="FOLDER",
            help="Take this folder in DATA for good images, where its name does not say "
            "so. Give its path, or the name of the nearest one. A dot is DATA itself."
            " May be repeated.",
            show_default="by the names of the folders",
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        _of_data(
            "--masks",
            metavar="FOLDER",
            help="Take this folder in DATA for masks, where its name does not say so. May "
            "be repeated.",
            show_default="by the names of the folders",
        ),
    ] = None,
    exclude: Annotated[
        str | None,
        _of_data(
            metavar="FILE",
            help="Leave out the images that this text file names, a path or its end in a line. "
            "`fastad suspects` writes one.",
            show_default="none left out",
        ),
    ] = None,
    roi: Annotated[
        str | None,
        _of_data(
            metavar="FILE",
            help="Let only this region of the images count: a mask of their aspect ratio whose "
            "white pixels count, or polygons as JSON. Outside of it nothing counts, in the "
            "training, in scores and in pictures. The detector file keeps it.",
            show_default="whole images",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        _of_data("--skip-bad", help="Leave unreadable images out instead of stopping."),
    ] = False,
    # Model
    model: Annotated[
        str | None,
        _of_model(
            help="Train this model. auto trains patchcore, then rstpm, and keeps the one "
            "that tells more synthesised defects from held-out images. rstpm has "
            "two student-teacher pairs and a discriminative network. stpm has one "
            "pair, and is faster. gtrans has one pair and a transformer. prn "
            "segments by residuals to prototypes, and learns from real defects, "
            "too. utad rebuilds the image in two stages, and shows both. patchcore "
            "and subspace compare patches with those of good images, without "
            "training."
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None,
        _of_model(
            metavar="auto|embedded|random|PATH",
            help="Take the teachers' pretrained weights from here. auto looks in "
            "FASTAD_WEIGHTS, an installed package and torch.hub's cache, then "
            "downloads, and otherwise takes embedded. embedded is the ResNet-18 in "
            "fastad, trained on generated images. A folder has a file for each "
            "teacher, found by its name. A file is for the first teacher. random "
            "takes none, to compare with.",
            show_default="auto",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        _of_model(
            "--set",
            metavar="KEY=VALUE",
            help="Set any field of the model's or the training's config. May be repeated.",
            show_default="none set",
        ),
    ] = None,
    # Training
    epochs: Annotated[
        int | None,
        _of_training(
            min=1,
            help="Pass so many times over the images. The default is the model's own, and "
            "more where there are few images. In several stages it is the number of "
            "the first, and others are in proportion.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        _of_training(
            min=1,
            help="Train on so many images in a step. The default is the model's own, and "
            "fewer where there are few images.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        _of_training(
            help="Run on this device: auto, cpu, cuda or cuda:N. auto takes CUDA where "
            "there is one."
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        _of_training(
            help="Compute convolutions in this precision. auto takes the fastest that the "
            "device has units for."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _of_training(
            min=0,
            help="Draw the initialisation, the hold-out split and the order of the images "
            "from this seed.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        _of_training("--resume", help="Continue an interrupted training from FILE.checkpoint."),
    ] = False,
    start_from: Annotated[
        str | None,
        _of_training(
            "--start-from",
            metavar="FILE",
            help="Go on from this detector, on old and new images. Model, image size and options "
            "are its own. It takes a quarter of the usual epochs.",
            show_default="new students",
        ),
    ] = None,
    stages: Annotated[
        list[str] | None,
        _of_training(
            "--stage",
            metavar="NAME.OPTION=VALUE",
            help="Set an option of one stage of the training. May be repeated.",
            show_default="none set",
        ),
    ] = None,
    # Synthesised defects
    textures: Annotated[
        str | None,
        _of_defects(
            metavar="FOLDER",
            help="Cut synthesised defects from the images in this folder.",
            show_default="generated textures",
        ),
    ] = None,
    pseudo_anomalies: Annotated[
        int | None,
        _of_defects(min=1, help="Draw so many images with synthesised defects in an epoch."),
    ] = None,
    defects: Annotated[
        str | None,
        _of_defects(
            metavar="FOLDER",
            help="Learn from these real defects with masks as well. An evaluation leaves "
            "these images out. --set defect_images=N takes N of them.",
            show_default="none",
        ),
    ] = None,
    # Output
    output: Annotated[
        str,
        _of_output(metavar="FILE", help="Write the detector to this file."),
    ] = "detector.fastad",
    report: Annotated[
        str | None,
        _of_output(
            metavar="DIR",
            help="Write a page on the training to this folder: its curves, the scores, the good "
            "images that score highest, and synthesised defects found and missed.",
            show_default="no page",
        ),
    ] = None,
    force: Annotated[
        bool,
        _of_output(
            "--force",
            help="Replace the file of --output where it holds another training's detector.",
        ),
    ] = False,
    false_positive_rate: Annotated[
        float | None,
        _of_output(
            callback=_check_rate,
            help="Let the threshold call at most this share of good images anomalous.",
        ),
    ] = None,
) -> None:
    """Train a detector on good images and choose its threshold on those held out."""
    from fastad.commands.train import train as run

    with _usage():
        run(
            data,
            named=_named(context),
            good=good or [],
            masks=masks or [],
            exclude=exclude,
            roi=roi,
            output=output,
            report=report,
            resume=resume,
            start_from=start_from,
            force=force,
            skip_bad=skip_bad,
            settings=settings or [],
            stages=stages or [],
            detector_options={
                "model": model,
                "image_size": image_size,
                "bit_depth": bit_depth,
                "device": device,
                "precision": precision,
                "false_positive_rate": false_positive_rate,
                "seed": seed,
            },
            model_options={"teacher_weights": teacher_weights},
            training_options={
                "epochs": epochs,
                "batch_size": batch_size,
                "textures": textures,
                "pseudo_anomalies": pseudo_anomalies,
                "defects": defects,
            },
        )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad evaluate bottle.fastad bottle\n\n"
    "fastad evaluate bottle.fastad bottle --json metrics.json\n\n"
    "fastad evaluate bottle.fastad bottle --report bottle_report\n\n",
)
def evaluate(
    detector: Detector,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Measure on this folder. It has the layout of MVTec AD (test, "
            "ground_truth), or another that `fastad inspect` knows.",
        ),
    ],
    good: GoodFolders = None,
    defects: DefectFolders = None,
    masks: MaskFolders = None,
    json: JsonFile = None,
    csv: CsvFile = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write a page with curves, tables and pictures to this folder, the worst "
            "mistakes first.",
            show_default="no page",
        ),
    ] = None,
    false_positive_rate: Rate = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="Leave unreadable images out instead of stopping, and end with 4 where there are "
            "any.",
        ),
    ] = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Measure a detector on labelled test images."""
    if json == csv == "-":
        raise typer.BadParameter("only one of --json and --csv can go to stdout")
    from fastad.commands.evaluate import evaluate as run

    unreadable = run(
        detector,
        data,
        good=good or [],
        defects=defects or [],
        masks=masks or [],
        json=json,
        csv=csv,
        report=report,
        false_positive_rate=false_positive_rate,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    if unreadable:
        raise typer.Exit(NOT_INSPECTED)


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad predict bottle.fastad new_images --output out --heatmaps --csv scores.csv\n\n"
    "fastad predict bottle.fastad image.png --json - --quiet\n\n"
    "fastad predict bottle.fastad new_images --output out --masks --false-positive-rate 0.05\n\n"
    "fastad predict bottle.fastad new_images --regions regions.csv --min-area 25px\n\n"
    "fastad predict new_images --detector bottle.fastad --detector cap.fastad --rule folder\n\n",
)
def predict(
    detector: Annotated[
        str,
        typer.Argument(
            metavar="DETECTOR",
            help="Read this detector file, made by `fastad train`. With --detector it is left out.",
        ),
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGES...",
            help="Score these image files and folders of them.",
            show_default=False,
        ),
    ] = None,
    several: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            metavar="[PATTERN=]FILE",
            help="Let one of several detector files judge each image, by --rule. May be repeated.",
            show_default="DETECTOR alone",
        ),
    ] = None,
    rule: Annotated[
        Literal["best", "folder", "name"] | None,
        typer.Option(
            help="Choose among several detectors. folder and name take the one whose PATTERN a "
            "folder of the image or its name has. Without PATTERN it is the name of the detector "
            "file. best takes the one that calls the image normal with the highest p-value.",
            show_default="best",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write heat maps and masks to this folder, and scores.csv if no file is named.",
            show_default="no folder",
        ),
    ] = None,
    json: JsonFile = None,
    csv: CsvFile = None,
    heatmaps: Annotated[
        bool,
        typer.Option(
            "--heatmaps",
            help="Draw each anomaly map over its image, beside what the model shows of it.",
        ),
    ] = False,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks",
            help="Write a mask of each image. It is white where the map is above the pixel"
            " threshold.",
        ),
    ] = False,
    regions: Annotated[
        str | None,
        typer.Option(
            "--regions",
            metavar="FILE",
            help="Write CSV with a row for each region above the pixel threshold: box, area, "
            "scores, length and width. --json has them beside each image.",
            show_default="no file",
        ),
    ] = None,
    rle: Annotated[
        bool,
        typer.Option("--rle", help="Add each region's pixels to --json, as COCO's run lengths."),
    ] = False,
    roi: Roi = None,
    min_area: MinArea = None,
    mm_per_pixel: MmPerPixel = None,
    fail_on_anomaly: Annotated[
        bool,
        typer.Option("--fail-on-anomaly", help="Exit with code 3 where an image is anomalous."),
    ] = False,
    false_positive_rate: Rate = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            help="End with 4 where images cannot be read, and with 1 only where none can. Each has "
            "a row that says so, with or without this.",
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Call images anomalous, too, that are unlike the good ones of the training: dark, "
            "bright, blurred, of another shape, or of something else.",
        ),
    ] = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Score images; without --output, --json and --csv the scores go to stdout.

    An image that cannot be read has a row with the status "unreadable". The exit code is then 1.
    """
    if (heatmaps or masks) and output is None:
        raise typer.BadParameter(f"{'--heatmaps' if heatmaps else '--masks'} needs --output DIR")
    if json is not None and csv is not None:
        raise typer.BadParameter("--json and --csv exclude each other")
    if rle and json is None:
        raise typer.BadParameter("--rle needs --json FILE")
    if regions == "-" and (json == "-" or csv == "-" or output is json is csv is None):
        raise typer.BadParameter("only one of scores and --regions can go to stdout")
    if mm_per_pixel is not None and not 0 < mm_per_pixel < math.inf:
        raise typer.BadParameter(f"--mm-per-pixel must be above 0; got {mm_per_pixel}")
    from fastad.commands.predict import predict as run

    given = [detector, *(images or [])]  # with --detector all of them are images
    if not several and len(given) == 1:
        raise typer.BadParameter("Missing argument 'IMAGES...'.")
    with _usage():
        found = run(
            several or given[:1],
            given if several else given[1:],
            rule=rule,
            output=output,
            json=json,
            csv=csv,
            heatmaps=heatmaps,
            masks=masks,
            false_positive_rate=false_positive_rate,
            skip_bad=skip_bad,
            strict=strict,
            needs_threshold=fail_on_anomaly,
            roi=roi,
            min_area=min_area,
            mm_per_pixel=mm_per_pixel,
            regions=regions,
            rle=rle,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )
    # An image that nobody looked at is worse than one that was found to be anomalous.
    if found.unreadable:
        raise typer.Exit(NOT_INSPECTED)
    if fail_on_anomaly and found.is_anomalous:
        raise typer.Exit(ANOMALOUS)


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad inspect bottle\n\n"
    "fastad inspect parts --good shift_1 --defects rework\n\n"
    "fastad inspect bottle --json - --quiet\n\n",
)
def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Look at this folder of images.")],
    good: GoodFolders = None,
    defects: DefectFolders = None,
    masks: MaskFolders = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every file, not its header alone.")
    ] = False,
    json: JsonFile = None,
) -> None:
    """Show what a folder of images holds, and what train and evaluate would do with it.

    Ends with 1 where something must be settled first: folders of which it is unclear what they
    hold, or files that cannot be read.
    """
    from fastad.commands.inspect import inspect as run

    run(
        data,
        good=good or [],
        defects=defects or [],
        masks=masks or [],
        deep=deep,
        json=json,
    )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad check bottle.fastad bottle\n\n"
    "fastad check bottle.fastad new_good_images --output check.html\n\n",
)
def check(
    detector: Detector,
    images: Annotated[
        str,
        typer.Argument(
            metavar="GOOD_IMAGES",
            help="Draw defects on the good images in this folder. Those that the detector "
            "was trained on are left out.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write a page with what is found and missed to this file, such as check.html.",
            show_default="no page",
        ),
    ] = None,
    json: JsonFile = None,
    count: Annotated[
        int,
        typer.Option(min=1, help="Try so many defects. A multiple of 15 has all kinds as often."),
    ] = 150,
    seed: Annotated[int, typer.Option(min=0, help="Draw the defects from this seed.")] = 0,
    false_positive_rate: Rate = None,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Show what a detector finds of synthesised defects, where no real ones are at hand.

    Defects of five kinds and three sizes are drawn on good images. No model learns from these
    kinds. They are no real defects.
    """
    from fastad.commands.check import check as run

    run(
        detector,
        images,
        output=output,
        json=json,
        count=count,
        seed=seed,
        false_positive_rate=false_positive_rate,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad suspects bottle.fastad bottle --output look_at_these\n\n"
    "fastad train bottle --exclude look_at_these/suspects.txt --output clean.fastad\n\n",
)
def suspects(
    detector: Detector,
    images: Annotated[
        str,
        typer.Argument(
            metavar="GOOD_IMAGES",
            help="Compare the good images in this folder. It may be that of the training.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write pictures of the listed images to this folder, a table of all, and "
            "suspects.txt for `fastad train --exclude`.",
            show_default="no folder",
        ),
    ] = None,
    json: JsonFile = None,
    count: Annotated[
        int, typer.Option(min=1, help="List so many images at least, and all that stand out.")
    ] = 10,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Show which good images look least good: a defect among them is learned as normal.

    Each image is compared with others, by the features of the detector's teacher. A star marks
    those that stand out.
    """
    from fastad.commands.suspects import suspects as run

    run(
        detector,
        images,
        output=output,
        json=json,
        count=count,
        skip_bad=skip_bad,
        device=device,
        batch_size=batch_size,
    )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad compare bottle\n\n"
    "fastad compare bottle --models stpm,rstpm --minutes 30 --output compared\n\n",
)
def compare(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Learn from this folder of good images, as `fastad train` does."
        ),
    ],
    chosen: Annotated[
        str | None,
        typer.Option(
            "--models",
            metavar="NAME,NAME...",
            help="Try these models, with commas between them.",
            show_default="those that are quick and learn from good images alone",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Spend so much time on all trainings together. They get fewer epochs "
            "where theirs do not fit.",
            show_default="no limit",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pass so many times over the images.", show_default="each model's own"
        ),
    ] = None,
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Write the detectors and the numbers to this folder.")
    ] = "fastad-compare",
    json: JsonFile = None,
    count: Annotated[int, typer.Option(min=1, help="Judge by so many synthesised defects.")] = 150,
    good: GoodFolders = None,
    masks: MaskFolders = None,
    image_size: Annotated[
        str,
        typer.Option(
            help="Resize images to this size: 256, 640x256 (height x width), or auto, as "
            "in `fastad train`."
        ),
    ] = "auto",
    teacher_weights: Annotated[
        str,
        typer.Option(
            metavar="auto|embedded|PATH",
            help="Take the teachers' pretrained weights from here, as in `fastad train`.",
        ),
    ] = "auto",
    false_positive_rate: Annotated[
        float,
        typer.Option(
            callback=_check_rate,
            help="Let each threshold call at most this share of good images anomalous.",
        ),
    ] = 0.01,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Draw the split, the trainings and the defects from this seed."),
    ] = 0,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Compute convolutions in this precision, as in `fastad train`."),
    ] = "auto",
) -> None:
    """Train several models on the same good images and say which one suits them.

    A fifth of the images judges: no model is trained on it. Synthesised defects are drawn on it.
    They choose the best model. Real test images in DATA are measured beside that, and choose
    nothing. Detectors of an earlier run, with the same options and images, are kept.
    """
    from fastad.commands.compare import compare as run
    from fastad.data.sizes import is_auto
    from fastad.data.training_set import training_size

    try:
        if not is_auto(image_size):
            training_size(image_size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _usage():
        run(
            data,
            names=[name.strip() for name in (chosen or "").split(",") if name.strip()],
            good=good or [],
            masks=masks or [],
            output=output,
            json=json,
            minutes=minutes,
            epochs=epochs,
            count=count,
            teacher_weights=teacher_weights,
            detector_options={
                "image_size": image_size,
                "device": device,
                "precision": precision,
                "false_positive_rate": false_positive_rate,
                "seed": seed,
            },
        )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad threshold bottle.fastad --rate 0.05\n\n"
    "fastad threshold bottle.fastad --value 0.4 --output strict.fastad\n\n"
    "fastad threshold bottle.fastad --min-area 25px\n\n",
)
def threshold(
    detector: Detector,
    rate: Annotated[
        float | None,
        typer.Option(
            callback=_check_rate,
            help="Call at most this share of good images anomalous. The held-out scores that the "
            "file keeps give the thresholds of images and of pixels.",
            show_default="none, give --value",
        ),
    ] = None,
    value: Annotated[
        float | None,
        typer.Option(
            help="Take this threshold of the scores of images.",
            show_default="none, give --rate",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write this file, and leave DETECTOR as it is.",
            show_default="DETECTOR itself",
        ),
    ] = None,
    min_area: MinArea = None,
    mm_per_pixel: MmPerPixel = None,
) -> None:
    """Give a detector file another threshold, or a smallest area of regions.

    It needs no images and no training.
    """
    from fastad.commands.threshold import threshold as run

    with _usage():
        run(
            detector,
            rate=rate,
            value=value,
            output=output,
            min_area=min_area,
            mm_per_pixel=mm_per_pixel,
        )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad calibrate bottle.fastad todays_good_images\n\n"
    "fastad calibrate bottle.fastad todays_good_images --output line_2.fastad\n\n",
)
def calibrate(
    detector: Detector,
    images: Annotated[
        str,
        typer.Argument(
            metavar="GOOD_IMAGES",
            help="Take the thresholds from the good images in this folder. The training must not "
            "have read them.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write this file, and leave DETECTOR as it is.",
            show_default="DETECTOR itself",
        ),
    ] = None,
    false_positive_rate: Annotated[
        float | None,
        typer.Option(
            callback=_check_rate,
            help="Let the thresholds call at most this share of good images anomalous.",
            show_default="the rate asked for before",
        ),
    ] = None,
    roi: Roi = None,
    json: JsonFile = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Give a detector thresholds from fresh good images, without another training.

    It says how the old threshold did on them. Position means of the maps are taken anew, too, where
    the model has them and enough images are there. The file keeps the old calibration and the new.
    """
    from fastad.commands.calibrate import calibrate as run

    run(
        detector,
        images,
        output=output,
        json=json,
        false_positive_rate=false_positive_rate,
        roi=roi,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad drift bottle.fastad new_images\n\n"
    "fastad drift bottle.fastad new_images --plot drift.png --json drift.json\n\n",
)
def drift(
    detector: Detector,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Compare these image files and folders of them with the calibration, in the order "
            "of their names.",
        ),
    ],
    json: JsonFile = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw the scores over time, and the moment of change, to this .png, .svg or .pdf.",
            show_default="no plot",
        ),
    ] = None,
    false_alarm_rate: Annotated[
        float,
        typer.Option(
            callback=_check_rate,
            help="Find drift in at most this share of undrifted lines, however often one looks.",
        ),
    ] = 0.01,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Say whether images are still like those that the detector was calibrated on.

    Ends with 3 where they are not.
    """
    from fastad.commands.drift import drift as run

    is_drift = run(
        detector,
        images,
        json=json,
        plot=plot,
        false_alarm_rate=false_alarm_rate,
        skip_bad=skip_bad,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    if is_drift:
        raise typer.Exit(DRIFTED)


@app.command(
    "operating-point",
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad operating-point bottle.fastad defects\n\n"
    "fastad operating-point bottle.fastad defects --cost-miss 50 --cost-alarm 1 "
    "--defect-share 0.01 --set least-cost\n\n",
)
def operating_point(
    detector: Detector,
    defects: Annotated[
        str,
        typer.Argument(
            metavar="DEFECT_IMAGES",
            help="Choose by the images of defects in this folder. Five are enough to begin with. "
            "Good images and masks in it are passed over.",
        ),
    ],
    cost_miss: Annotated[
        float | None,
        typer.Option(min=0.0, help="Cost of a defect that passes.", show_default="no least cost"),
    ] = None,
    cost_alarm: Annotated[
        float | None,
        typer.Option(min=0.0, help="Cost of a good image that stops the line.", show_default="1"),
    ] = None,
    defect_share: Annotated[
        float | None,
        typer.Option(
            callback=_check_rate,
            help="Share of the line's images that are defects, for the least cost.",
            show_default="that among the known images",
        ),
    ] = None,
    choice: Annotated[
        Literal["zero-missed", "least-cost", "zero-alarms"] | None,
        typer.Option("--set", help="Write this threshold to the file.", show_default="none"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the threshold of --set to this file, and leave DETECTOR as it is.",
            show_default="DETECTOR itself",
        ),
    ] = None,
    json: JsonFile = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Draw all scores and the thresholds to this .png, .svg or .pdf.",
            show_default="no plot",
        ),
    ] = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Show thresholds for zero missed defects, least cost and zero alarms, by a few real defects.

    The good images are those of the calibration. Nothing is trained on the defects.
    """
    from fastad.commands.operating_point import operating_point as run

    with _usage():
        run(
            detector,
            defects,
            cost_miss=cost_miss,
            cost_alarm=cost_alarm,
            defect_share=defect_share,
            choice=choice,
            output=output,
            json=json,
            plot=plot,
            skip_bad=skip_bad,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )


class ExportFormat(str, Enum):
    onnx = "onnx"
    openvino = "openvino"
    torch_export = "torch-export"
    aotinductor = "aotinductor"


@app.command(
    cls=_Command,
    epilog="Examples:\n\n"
    "fastad export bottle.fastad --format onnx --verify bottle/test/good\n\n"
    "fastad export bottle.fastad --format openvino --output line/bottle.xml\n\n"
    "fastad export bottle.fastad --format aotinductor --fused-ops\n\n",
)
def export(
    detector: Detector,
    format: Annotated[
        ExportFormat,
        typer.Option(
            help="Write for this runtime. onnx needs pip install onnx onnxscript onnxruntime, "
            "openvino needs pip install openvino. aotinductor compiles for this machine's "
            "processor and needs a C++ compiler.",
        ),
    ],
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Compare the detector and the file on this image or folder.",
            show_default="random images",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write to this file.", show_default="beside DETECTOR"),
    ] = None,
    fused_ops: Annotated[
        bool,
        typer.Option(
            "--fused-ops",
            help="Keep fastad's fused ops in a torch-export or aotinductor file. It is a "
            "little faster, but `import fastad` must come before loading it.",
        ),
    ] = False,
) -> None:
    """Write a detector for another runtime, once its results there equal the detector's.

    The graph takes images (N, H, W, 3), uint8 RGB of any size, and gives score and anomaly_map;
    resize and normalisation are inside. An image is anomalous when its score is above the
    threshold, which lies in the file's metadata, with the calibration scores, and can be changed.
    No file is written where results differ by more than 0.5 %. The graph does not check whether an
    image is dark, blurred or of something else, as predict does.
    """
    if fused_ops and format in (ExportFormat.onnx, ExportFormat.openvino):
        raise typer.BadParameter(f"--fused-ops: {format.value} cannot hold fastad's ops")
    from fastad.commands.export import export as run

    with _usage():
        run(detector, format=format.value, output=output, images=verify, fused_ops=fused_ops)


@app.command(cls=_Command, epilog="Examples:\n\nfastad info\n\nfastad info bottle.fastad\n\n")
def info(
    detector: Annotated[
        str | None, typer.Argument(metavar="[DETECTOR]", help="Show what is in this file instead.")
    ] = None,
) -> None:
    """Show what was built and what this machine offers, or what a detector file holds."""
    from fastad.commands.info import info as run

    run(detector)


@app.command(
    cls=_Command,
    epilog="Examples:\n\nfastad bench\n\nfastad bench bottle.fastad --json speed.json\n\n"
    "fastad bench --compare before.json after.json\n\n",
)
def bench(
    detector: Annotated[
        str | None,
        typer.Argument(metavar="[DETECTOR]", help="Measure this file, not a model in general."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Measure this model, with random weights.", show_default="stpm"),
    ] = None,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Measure batches of so many images. May be repeated.",
            show_default="1 and 8",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Measure at this size: 256, or 640x256 (height x width).", show_default="256"
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Spend so many seconds on each comparison.")
    ] = 3.0,
    frames: Annotated[
        int, typer.Option(min=1, help="Time so many single images one by one.")
    ] = 1000,
    json: JsonFile = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="OLD NEW",
            help="Measure nothing, and compare two files of --json.",
            show_default="no comparison",
        ),
    ] = None,
) -> None:
    """Measure the fused ops against plain PyTorch, and a model's speed, on this machine."""
    if compare is not None:
        if detector is not None:
            raise typer.BadParameter("--compare measures nothing: leave out the detector file")
        from fastad.commands.bench_compare import compare as show

        show(*compare)
        return
    if detector is not None and (model is not None or image_size is not None):
        raise typer.BadParameter("a detector file has its own model and image size")
    from fastad.commands.bench import bench as run

    with _usage():
        run(
            detector=detector,
            model=model,
            device=device,
            precision=precision,
            batch_sizes=batch_size or [1, 8],
            image_size=image_size,
            seconds=seconds,
            frames=frames,
            json=json,
        )


@app.command(
    cls=_Command,
    epilog="Examples:\n\nfastad demo\n\n"
    "fastad demo --output out --model stpm --teacher-weights resnet18.pth --epochs 20\n\n",
)
def demo(
    output: Annotated[
        str,
        typer.Option(
            metavar="DIR", help="Write images, detectors, pictures and the page to this folder."
        ),
    ] = "fastad-demo",
    teacher_weights: Annotated[
        str,
        typer.Option(
            metavar="auto|embedded|PATH",
            help="Take the teachers' pretrained weights from here, as in `fastad train`.",
        ),
    ] = "auto",
    model: Annotated[
        Literal["subspace", "rstpm", "stpm"],
        typer.Option(help="Train this model. subspace trains nothing, and takes seconds."),
    ] = "subspace",
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pass so many times over the images in the first stage of the training. "
            "subspace has none.",
            show_default="rstpm 10, stpm 20",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Resize images to this size: 128, or 640x256 (height x width).",
            show_default="subspace 256, rstpm 128, stpm 128",
        ),
    ] = None,
    device: Device = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Draw the images and the training from this seed.")
    ] = 0,
) -> None:
    """Render three synthetic products, learn good ones, find defects, and show it on a page."""
    from fastad.commands.demo import demo as run
    from fastad.data.training_set import training_size

    try:
        size = None if image_size is None else training_size(image_size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    run(
        output=output,
        model=model,
        teacher_weights=teacher_weights,
        epochs=epochs,
        image_size=size,
        device=device,
        seed=seed,
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a failure (one line on stderr), 2 wrong usage.

    3: an image is anomalous, or images have drifted, where that was asked for.
    4: all was done but for images that could not be read and --skip-bad passed over.
    """
    share_processors()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = set()
    for names in (("--traceback",), ("--quiet", "-q"), ("--verbose", "-v")):
        if any(name in arguments for name in names):
            flags.add(names[0])
            arguments = [a for a in arguments if a not in names]
    warnings.showwarning = _show_warning
    from fastad.commands.output import reason, set_up_log

    try:
        set_up_log(-1 if "--quiet" in flags else int("--verbose" in flags))
        with answered_interrupts():
            app(arguments, prog_name="fastad")
    except Exception as error:
        if "--traceback" in flags:
            raise
        print(f"error: {reason(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
