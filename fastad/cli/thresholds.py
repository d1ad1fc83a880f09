"""`fastad threshold`, `calibrate`, `drift` and `operating-point`."""

from typing import Annotated, Literal

import typer

from fastad.cli.application import DRIFTED, Command, app
from fastad.cli.options import (
    BatchSize,
    Detector,
    Device,
    JsonFile,
    MinArea,
    MmPerPixel,
    OtherDetector,
    Roi,
    ServingPrecision,
    SkipBad,
    check_rate,
    usage,
)


@app.command(
    cls=Command,
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
            callback=check_rate,
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
    output: OtherDetector = None,
    min_area: MinArea = None,
    mm_per_pixel: MmPerPixel = None,
) -> None:
    """Give a detector file another threshold, or a smallest area of regions.

    It needs no images and no training.
    """
    from fastad.commands.threshold import threshold as run

    with usage():
        run(
            detector,
            rate=rate,
            value=value,
            output=output,
            min_area=min_area,
            mm_per_pixel=mm_per_pixel,
        )


@app.command(
    cls=Command,
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
    output: OtherDetector = None,
    false_positive_rate: Annotated[
        float | None,
        typer.Option(
            callback=check_rate,
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
    cls=Command,
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
            callback=check_rate,
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
    cls=Command,
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
            callback=check_rate,
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

    with usage():
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
