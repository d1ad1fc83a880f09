"""`fastad serve` and `watch`."""

from typing import Annotated

import typer

from fastad.cli.application import Command, app
from fastad.cli.options import (
    BatchSize,
    Device,
    MinArea,
    MmPerPixel,
    Rate,
    Roi,
    ServingPrecision,
    Strict,
    check_mm_per_pixel,
    usage,
)
from fastad.commands import watch_options


@app.command(
    cls=Command,
    epilog="Examples:\n\n"
    "fastad serve bottle.fastad\n\n"
    "fastad serve bottle.fastad --host 0.0.0.0 --token-file token.txt --keep-days 30\n\n",
)
def serve(
    detectors: Annotated[
        list[str],
        typer.Argument(metavar="DETECTOR...", help="Serve these detector files."),
    ],
    store: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="Keep images, results and labels in this SQLite file or database.",
        ),
    ] = "line.db",
    watch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FOLDER",
            help="Inspect each new image in this folder, too. May be repeated.",
            show_default="none",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at. Another host than this machine needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Listen on this port.")] = 8000,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Ask every request for the token in this file.",
            show_default="no token",
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let anybody in who can reach the host.")
    ] = False,
    keep_days: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Delete results without a label after so many days.",
            show_default="keep all",
        ),
    ] = None,
    keep_gib: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Delete the oldest results without a label beyond so many GiB.",
            show_default="keep all",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Let so many requests wait, and refuse more.")
    ] = 64,
    max_mib: Annotated[float, typer.Option(min=0.01, help="Refuse larger requests.")] = 64.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, help="Refuse images with more pixels.")
    ] = 50.0,
    rate: Annotated[
        float, typer.Option(min=0.1, help="Let an address make so many requests a second.")
    ] = 200.0,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Serve detectors: a page for people, and an API for the line.

    Needs `pip install "fastad[serve]"`.
    """
    from fastad.commands.serve import serve as run

    with usage():
        run(
            detectors,
            store=store,
            watch=watch or [],
            host=host,
            port=port,
            token_file=token_file,
            no_auth=no_auth,
            keep_days=keep_days,
            keep_gib=keep_gib,
            queue=queue,
            max_mib=max_mib,
            max_megapixels=max_megapixels,
            rate=rate,
            device=device,
            precision=precision,
            batch_size=batch_size,
        )


@app.command(
    cls=Command,
    epilog="Examples:\n\n"
    "fastad watch line_3 --detector bottle.fastad --csv line_3.csv\n\n"
    "fastad watch line_3 --detector bottle.fastad --move-to good bad --json-lines line_3.jsonl\n\n"
    "fastad watch line_3 --detector bottle.fastad --mqtt mqtt://broker/line_3/results\n\n"
    "fastad watch --source rtsp://camera_3/live --every 2 --detector bottle.fastad --csv -\n\n",
)
def watch(
    detector: watch_options.DetectorFile,
    folder: watch_options.Folder = None,
    source: watch_options.SourceName = None,
    every: watch_options.Every = 0.0,
    csv: watch_options.Csv = None,
    json_lines: watch_options.JsonLines = None,
    move_to: watch_options.MoveTo = None,
    webhook: watch_options.WebhookUrl = None,
    webhook_token_file: watch_options.WebhookToken = None,
    mqtt: watch_options.MqttUrl = None,
    give_up_after: watch_options.GiveUpAfter = 3600.0,
    undelivered: watch_options.Undelivered = None,
    state: watch_options.State = None,
    existing: watch_options.Existing = False,
    settle: watch_options.Settle = 1.0,
    patience: watch_options.Patience = 30.0,
    poll: watch_options.Poll = None,
    strict: Strict = False,
    false_positive_rate: Rate = None,
    roi: Roi = None,
    min_area: MinArea = None,
    mm_per_pixel: MmPerPixel = None,
    device: Device = "auto",
    precision: ServingPrecision = "auto",
    batch_size: BatchSize = 32,
) -> None:
    """Inspect each new image in a folder, or frames of a camera, until Ctrl-C.

    A restart goes on where a stop or a crash left off.
    """
    options = dict(locals())
    from fastad.commands.watch import watch as run

    check_mm_per_pixel(mm_per_pixel)
    with usage():
        run(options.pop("folder"), **options)
