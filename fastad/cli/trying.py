"""`fastad bench` and `demo`."""

from typing import Annotated, Literal

import typer

from fastad.cli.application import Command, app
from fastad.cli.options import Device, JsonFile, ServingPrecision, TeacherWeights, usage


@app.command(
    cls=Command,
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

    with usage():
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
    cls=Command,
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
    teacher_weights: TeacherWeights = "auto",
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
