"""`fastad export`, `import` and `info`."""

from enum import Enum
from typing import Annotated

import typer

from fastad.cli.application import Command, app
from fastad.cli.options import BatchSize, Detector, Device, check_rate, usage
from fastad.commands import import_checkpoint


class ExportFormat(str, Enum):
    onnx = "onnx"
    openvino = "openvino"
    torch_export = "torch-export"
    aotinductor = "aotinductor"


@app.command(
    cls=Command,
    epilog="Examples:\n\n"
    "fastad export bottle.fastad --format onnx --verify bottle/test/good\n\n"
    "fastad export bottle.fastad --format openvino --output line/bottle.xml\n\n"
    "fastad export bottle.fastad --format aotinductor --fused-ops\n\n"
    "fastad export part.fastad --format onnx --tile 1024 --output part_tiles\n\n",
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
        typer.Option(
            metavar="FILE",
            help="Write to this file, or with --tile to this folder.",
            show_default="beside DETECTOR",
        ),
    ] = None,
    fused_ops: Annotated[
        bool,
        typer.Option(
            "--fused-ops",
            help="Keep fastad's fused ops in a torch-export or aotinductor file. It is a "
            "little faster, but `import fastad` must come before loading it.",
        ),
    ] = False,
    tile: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Write two graphs to a folder for large images, of a tile and of what all tiles "
            "found. A tile keeps about so many pixels: 1024, or 768x1024 (height x width). It is "
            "for onnx.",
            show_default="one graph of whole images",
        ),
    ] = None,
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
    if tile is not None and format != ExportFormat.onnx:
        raise typer.BadParameter(f"--tile is for --format onnx, not {format.value}")
    from fastad.commands.export import export as run

    with usage():
        run(
            detector,
            format=format.value,
            output=output,
            images=verify,
            fused_ops=fused_ops,
            tile=tile,
        )


@app.command(
    "import",
    cls=Command,
    epilog="Examples:\n\n"
    "fastad import model.ckpt --calibrate fresh_good_images --output bottle.fastad\n\n"
    "fastad import model.pt --keep-thresholds --output bottle.fastad\n\n",
)
def import_(
    checkpoint: import_checkpoint.Checkpoint,
    output: import_checkpoint.Output,
    calibrate: import_checkpoint.Calibrate = None,
    keep_thresholds: import_checkpoint.KeepThresholds = False,
    false_positive_rate: Annotated[
        float,
        typer.Option(
            callback=check_rate,
            help="Let the thresholds call at most this share of good images anomalous.",
        ),
    ] = 0.01,
    image_size: import_checkpoint.ImageSize = None,
    device: Device = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Make a detector of a checkpoint that anomalib's STFPM left: no training is needed.

    Its anomaly maps are anomalib's. It says what differs.
    """
    with usage():
        import_checkpoint.import_checkpoint(
            checkpoint,
            calibrate=calibrate,
            output=output,
            false_positive_rate=false_positive_rate,
            keep_thresholds=keep_thresholds,
            image_size=image_size,
            device=device,
            batch_size=batch_size,
        )


@app.command(cls=Command, epilog="Examples:\n\nfastad info\n\nfastad info bottle.fastad\n\n")
def info(
    detector: Annotated[
        str | None, typer.Argument(metavar="[DETECTOR]", help="Show what is in this file instead.")
    ] = None,
) -> None:
    """Show what was built and what this machine offers, or what a detector file holds."""
    from fastad.commands.info import info as run

    run(detector)
