"""Options that several commands have."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from fastad.commands import UsageError

Detector = Annotated[
    str, typer.Argument(metavar="DETECTOR", help="Read this detector file, made by `fastad train`.")
]
OtherDetector = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write this file, and leave DETECTOR as it is.",
        show_default="DETECTOR itself",
    ),
]
TeacherWeights = Annotated[
    str,
    typer.Option(
        metavar="auto|embedded|PATH",
        help="Take the teachers' pretrained weights from here, as in `fastad train`.",
    ),
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
Tile = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Predict large images in tiles of about so many pixels: 1024, or 768x1024 (height x "
        "width). The results are those of whole images, in less memory.",
        show_default="whole images",
    ),
]


@contextmanager
def usage() -> Iterator[None]:
    """What a command calls wrong usage is said, and exits, as what typer calls so."""
    try:
        yield
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


def named(context: typer.Context) -> set[str]:
    """The parameters that stand on the command line, as against those left to their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def check_rate(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"must be between 0 and 1; got {value}")
    return value


def check_mm_per_pixel(value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"--mm-per-pixel must be above 0; got {value}")


SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable images out instead of stopping.")
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--false-positive-rate",
        callback=check_rate,
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
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Call images anomalous, too, that are unlike the good ones of the training: dark, "
        "bright, blurred, of another shape, or of something else.",
    ),
]
ParquetFile = Annotated[
    str | None,
    typer.Option(
        "--parquet",
        metavar="FILE",
        help="Write the rows of --csv to this file as Parquet. It needs pyarrow.",
        show_default="no file",
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
