"""`fastad evaluate` and `predict`."""

from typing import Annotated, Any, Literal

import typer

from fastad.cli.application import ANOMALOUS, NOT_INSPECTED, Command, app
from fastad.cli.options import (
    BatchSize,
    CsvFile,
    DefectFolders,
    Detector,
    Device,
    GoodFolders,
    JsonFile,
    MaskFolders,
    MinArea,
    MmPerPixel,
    ParquetFile,
    Rate,
    Roi,
    ServingPrecision,
    Strict,
    Tile,
    check_mm_per_pixel,
    usage,
)


@app.command(
    cls=Command,
    epilog="Examples:\n\n"
    "fastad evaluate bottle.fastad bottle\n\n"
    "fastad evaluate bottle.fastad bottle --json metrics.json\n\n"
    "fastad evaluate bottle.fastad bottle --report bottle_report\n\n"
    "fastad evaluate detectors mvtec_ad --each --report report\n\n",
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
    parquet: ParquetFile = None,
    report: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Write a page with curves, tables and pictures to this folder, the worst "
            "mistakes first.",
            show_default="no page",
        ),
    ] = None,
    each: Annotated[
        bool,
        typer.Option(
            "--each",
            help="Measure the detectors that `fastad train --each` wrote to the folder DETECTOR, "
            "each on its product folder in DATA. --report gets a page on all.",
        ),
    ] = False,
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
    tile: Tile = None,
) -> None:
    """Measure a detector on labelled test images."""
    if json == csv == "-":
        raise typer.BadParameter("only one of --json and --csv can go to stdout")
    options: dict[str, Any] = {
        "good": good or [],
        "defects": defects or [],
        "masks": masks or [],
        "json": json,
        "csv": csv,
        "parquet": parquet,
        "report": report,
        "false_positive_rate": false_positive_rate,
        "skip_bad": skip_bad,
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "tile": tile,
    }
    if each:
        from fastad.commands.evaluate_each import evaluate_each

        with usage():
            unreadable = evaluate_each(detector, data, **options)
    else:
        from fastad.commands.evaluate import evaluate as run

        with usage():
            unreadable = run(detector, data, **options).unreadable
    if unreadable:
        raise typer.Exit(NOT_INSPECTED)


@app.command(
    cls=Command,
    epilog="Examples:\n\n"
    "fastad predict bottle.fastad new_images --output out --heatmaps --csv scores.csv\n\n"
    "fastad predict bottle.fastad image.png --json - --quiet\n\n"
    "fastad predict bottle.fastad new_images --output out --masks --false-positive-rate 0.05\n\n"
    "fastad predict bottle.fastad new_images --regions regions.csv --min-area 25px\n\n"
    "fastad predict bottle.fastad --images-from list.txt --csv scores.csv\n\n"
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
    images_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Score the images that this file names, too. It is text with a path or an address "
            "in each line, or Parquet with a column path. A dash is stdin.",
            show_default="no list",
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
    parquet: ParquetFile = None,
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
            "scores, length and width. A name that ends in .parquet gets Parquet. --json has them "
            "beside each image.",
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
    strict: Strict = False,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
    tile: Tile = None,
) -> None:
    """Score images; without --output and a file of results the scores go to stdout.

    An image that cannot be read has a row with the status "unreadable". The exit code is then 1.
    """
    if (heatmaps or masks) and output is None:
        raise typer.BadParameter(f"{'--heatmaps' if heatmaps else '--masks'} needs --output DIR")
    if json == csv == "-":
        raise typer.BadParameter("only one of --json and --csv can go to stdout")
    if rle and json is None:
        raise typer.BadParameter("--rle needs --json FILE")
    if regions == "-" and (json == "-" or csv == "-" or output is json is csv is parquet is None):
        raise typer.BadParameter("only one of scores and --regions can go to stdout")
    check_mm_per_pixel(mm_per_pixel)
    from fastad.commands.predict import predict as run

    given = [detector, *(images or [])]  # with --detector all of them are images
    if not several and len(given) == 1 and images_from is None:
        raise typer.BadParameter("Missing argument 'IMAGES...'.")
    with usage():
        if images_from is not None:
            from fastad.commands.image_list import listed_images

            given += listed_images(images_from)
        found = run(
            several or given[:1],
            given if several else given[1:],
            rule=rule,
            listed_in=None if images_from in (None, "-") else images_from,
            output=output,
            json=json,
            csv=csv,
            parquet=parquet,
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
            tile=tile,
        )
    # An image that nobody looked at is worse than one that was found to be anomalous.
    if found.unreadable:
        raise typer.Exit(NOT_INSPECTED)
    if fail_on_anomaly and found.is_anomalous:
        raise typer.Exit(ANOMALOUS)
