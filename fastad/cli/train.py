"""`fastad train`."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from fastad.cli.application import Command, app
from fastad.cli.options import check_mm_per_pixel, check_rate, named, usage

# The panels of options in the help of `train`.
_of_data, _of_model, _of_training, _of_defects, _of_output = (
    functools.partial(typer.Option, rich_help_panel=panel)
    for panel in ("Data", "Model", "Training", "Synthesised defects", "Output")
)


class _Train(Command):
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
    "fastad train bottle_old_and_new --start-from bottle.fastad --output bottle_2.fastad\n\n"
    "fastad train mvtec_ad --each --output detectors\n\n"
    "fastad train mvtec_ad --together --model stpm --output detectors\n\n",
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
    scale: Annotated[
        float | None,
        _of_data(
            help="Resize images to this share of their own sides, instead of --image-size: 1 "
            "leaves them as they are. All must have one size.",
            show_default="--image-size",
        ),
    ] = None,
    resolution: Annotated[
        float | None,
        _of_data(
            metavar="PIXELS",
            help="Resize images to so many pixels a millimetre, instead of --image-size. It needs "
            "--mm-per-pixel.",
            show_default="--image-size",
        ),
    ] = None,
    mm_per_pixel: Annotated[
        float | None,
        _of_data(
            metavar="MM",
            help="Say how many millimetres a pixel of the original images is, for --resolution "
            "and for --set pooling=1.5mm2.",
            show_default="not known",
        ),
    ] = None,
    tile: Annotated[
        str | None,
        _of_data(
            metavar="SIZE",
            help="Train on tiles of so many pixels, which cover the images at their size, and "
            "predict in such: 512, or 384x512 (height x width). Of stpm, rstpm, patchcore and "
            "subspace.",
            show_default="whole images",
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
    each: Annotated[
        bool,
        _of_data(
            "--each",
            help="Train a detector for every product folder in DATA. --output is then a folder, "
            "which gets a page on all, too. The same command goes on after a stop.",
        ),
    ] = False,
    together: Annotated[
        bool,
        _of_data(
            "--together",
            help="Train one student on all product folders in DATA, and calibrate it for each. "
            "--output is a folder as with --each. Of stpm and gtrans.",
        ),
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
            callback=check_rate,
            help="Let the threshold call at most this share of good images anomalous.",
        ),
    ] = None,
) -> None:
    """Train a detector on good images and choose its threshold on those held out."""
    if each and together:
        raise typer.BadParameter("--each and --together exclude each other")
    if (each or together) and "output" not in named(context):
        raise typer.BadParameter(f"{'--each' if each else '--together'} needs --output DIR")
    if scale is not None and image_size not in (None, "auto"):
        raise typer.BadParameter("--scale and --image-size exclude each other")
    check_mm_per_pixel(mm_per_pixel)
    if resolution is not None:
        if mm_per_pixel is None or scale is not None or image_size not in (None, "auto"):
            raise typer.BadParameter(
                "--resolution needs --mm-per-pixel, and neither --image-size nor --scale"
            )
        scale = resolution * mm_per_pixel
        if not 0 < scale <= 1:
            raise typer.BadParameter(
                f"--resolution must be above 0 and at most {1 / mm_per_pixel:g} pixels a "
                f"millimetre, which the images have; got {resolution:g}"
            )
    from fastad.commands.settings import in_pixels
    from fastad.commands.train import train
    from fastad.commands.train_each import train_each
    from fastad.commands.train_together import train_together

    run: Callable[..., Any] = train_each if each else train_together if together else train
    with usage():
        run(
            data,
            named=named(context),
            good=good or [],
            masks=masks or [],
            exclude=exclude,
            roi=roi,
            scale=scale,
            tile=tile,
            output=output,
            report=report,
            resume=resume,
            start_from=start_from,
            force=force,
            skip_bad=skip_bad,
            settings=in_pixels(settings or [], mm_per_pixel),
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
