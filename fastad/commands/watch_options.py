"""The options of ``fastad watch`` that no other command has."""

import functools
from typing import Annotated

import typer

_of_results, _of_images = (
    functools.partial(typer.Option, rich_help_panel=panel) for panel in ("Results", "Images")
)

Folder = Annotated[
    str | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="Inspect each new image in this folder, at any depth.",
        show_default=False,
    ),
]
SourceName = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Inspect frames: of a video file, an address such as rtsp://HOST/STREAM, a camera's "
        "number, or a class of yours as MODULE:CLASS.",
        show_default="FOLDER",
    ),
]
Every = Annotated[
    float,
    typer.Option(
        metavar="SECONDS", min=0, help="Take a frame of --source so often, or all with 0."
    ),
]
DetectorFile = Annotated[
    str,
    typer.Option(
        "--detector", metavar="FILE", help="Judge by this detector file, made by `fastad train`."
    ),
]
Csv = Annotated[
    str | None,
    _of_results(
        "--csv",
        metavar="FILE",
        help="Append CSV to this file, a row an image. A dash is stdout.",
        show_default="stdout, where nothing else gets results",
    ),
]
JsonLines = Annotated[
    str | None,
    _of_results(
        "--json-lines",
        metavar="FILE",
        help="Append a JSON object a line to this file, with the regions of the image. A dash is "
        "stdout.",
        show_default="no file",
    ),
]
MoveTo = Annotated[
    tuple[str, str] | None,
    _of_results(
        "--move-to",
        metavar="GOOD BAD",
        help="Move each inspected image to the first folder or, if it is anomalous, to the second. "
        "Frames of --source are saved there.",
        show_default="they stay",
    ),
]
WebhookUrl = Annotated[
    str | None,
    _of_results(
        "--webhook",
        metavar="URL",
        help="Post each result as JSON to this address, again until it is taken.",
        show_default="none",
    ),
]
WebhookToken = Annotated[
    str | None,
    _of_results(
        "--webhook-token-file",
        metavar="FILE",
        help="Send the token in this file to the webhook, as Authorization: Bearer.",
        show_default="no token",
    ),
]
MqttUrl = Annotated[
    str | None,
    _of_results(
        "--mqtt",
        metavar="URL",
        help="Publish each result to mqtt://[USER@]HOST[:PORT]/TOPIC, or mqtts:// for TLS. The "
        "environment variable FASTAD_MQTT_PASSWORD is the password.",
        show_default="none",
    ),
]
GiveUpAfter = Annotated[
    float,
    _of_results(
        metavar="SECONDS",
        min=0,
        help="Give a result up that the webhook or MQTT has not taken for so long.",
    ),
]
Undelivered = Annotated[
    str | None,
    _of_results(
        metavar="FILE",
        help="Append the results that were given up to this file, as JSON lines.",
        show_default="fastad-watch-undelivered.jsonl beside the state",
    ),
]
State = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Remember in this file what was inspected, over restarts and crashes.",
        show_default=".fastad-watch.db in FOLDER, or here",
    ),
]
Existing = Annotated[
    bool,
    _of_images(
        "--existing",
        help="Inspect the images, too, that are in the folder at the very first start.",
    ),
]
Settle = Annotated[
    float,
    _of_images(
        metavar="SECONDS",
        min=0,
        help="Take an image for complete when it has not changed for so long. A camera that "
        "writes under another name and renames needs 0.",
    ),
]
Patience = Annotated[
    float,
    _of_images(
        metavar="SECONDS",
        min=0,
        help="Try an image that cannot be read for so long. Then its result says so.",
    ),
]
Poll = Annotated[
    float | None,
    _of_images(
        metavar="SECONDS",
        min=0.1,
        help="Look through the whole folder so often, and do not wait to be told of changes. A "
        "network folder needs it.",
        show_default="the system tells",
    ),
]
