"""`fastad inspect`, `check`, `suspects` and `compare`."""

from typing import Annotated, Literal

import typer

from fastad.cli.application import Command, app
from fastad.cli.options import (
    BatchSize,
    DefectFolders,
    Detector,
    Device,
    GoodFolders,
    JsonFile,
    MaskFolders,
    Rate,
    ServingPrecision,
    SkipBad,
    TeacherWeights,
    check_rate,
    usage,
)


@app.command(
    cls=Command,
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
    cls=Command,
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
    cls=Command,
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
    cls=Command,
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
    teacher_weights: TeacherWeights = "auto",
    false_positive_rate: Annotated[
        float,
        typer.Option(
            callback=check_rate,
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
    with usage():
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
