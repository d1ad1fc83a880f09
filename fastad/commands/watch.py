"""``fastad watch``: a detector that inspects what comes to a folder, or from a camera."""

import logging
import os
from pathlib import Path
from typing import Any

from fastad.commands import UsageError
from fastad.commands.detectors import load_to_predict
from fastad.commands.output import check_result_target, note, waiting
from fastad.detector import Detector
from fastad.watch.arrivals import Arrivals, stamp_of
from fastad.watch.delivery import Delivery
from fastad.watch.frames import FrameWatcher
from fastad.watch.journal import UNDELIVERED, Journal, Stamp
from fastad.watch.judge import Judge
from fastad.watch.moves import PLACE, Moves
from fastad.watch.mqtt import Mqtt
from fastad.watch.places import Place, Places
from fastad.watch.result_files import CsvLines, JsonLines, ResultFile, undelivered_file
from fastad.watch.sources import opened
from fastad.watch.watcher import Watcher
from fastad.watch.webhook import Webhook, token_of

STATE = ".fastad-watch.db"
UNDELIVERED_FILE = "fastad-watch-undelivered.jsonl"

log = logging.getLogger("fastad")


def watch(
    folder: str | None,
    *,
    source: str | None,
    every: float,
    detector: str,
    csv: str | None,
    json_lines: str | None,
    move_to: tuple[str, str] | None,
    webhook: str | None,
    webhook_token_file: str | None,
    mqtt: str | None,
    give_up_after: float,
    undelivered: str | None,
    state: str | None,
    existing: bool,
    settle: float,
    patience: float,
    poll: float | None,
    strict: bool,
    mm_per_pixel: float | None,
    batch_size: int,
    **of_detector: Any,
) -> None:
    """Inspect each new image in a folder, or frames of a source, until a signal ends it.

    See `fastad.watch` for how nothing is lost or doubled, and the command line for the options.
    """
    if (folder is None) == (source is None):
        raise UsageError("give either FOLDER or --source")
    if source is not None and Path(source).is_dir():
        folder, source = source, None
    if folder is None:
        watched = Path.cwd()
    else:
        watched = Path(os.path.abspath(Path(folder).expanduser()))
        if not watched.is_dir():
            raise NotADirectoryError(f"there is no folder {folder} to watch")
        if poll is None:
            _require_watchfiles()
    if move_to is not None:
        _check_moves(watched, move_to, may_hold=folder is None)
    receivers = _receivers(webhook, webhook_token_file, mqtt)
    state_file = Path(state) if state is not None else watched / STATE
    given_up = undelivered or str(state_file.parent / UNDELIVERED_FILE)
    for file in (csv, json_lines, given_up if receivers else None):
        if file is not None:
            check_result_target(file)
    opened_source = None if source is None else opened(source, every)
    with waiting(f"loading {detector}"):
        loaded = load_to_predict(
            detector, mm_per_pixel=mm_per_pixel, batch_size=batch_size, **of_detector
        )
    _check_threshold(detector, loaded, move_to is not None)
    judge = Judge(loaded, strict, mm_per_pixel)
    name = folder if opened_source is None else opened_source.name
    subject = f"the folder {watched}" if opened_source is None else f"the source {name}"
    journal = Journal(state_file, subject)
    try:
        spool = None if opened_source is None else Path(f"{state_file}-frames")
        if spool is not None and move_to is not None:
            spool.mkdir(exist_ok=True)
        moves = None
        if move_to is not None:
            moves = Moves(spool or watched, Path(move_to[0]), Path(move_to[1]), journal)
        if csv is None and json_lines is None and move_to is None and not receivers:
            csv = "-"
        on_disk: dict[str, Place] = {}
        for kind, file, lines in (("csv", csv, CsvLines()), ("json", json_lines, JsonLines())):
            if file is not None:
                on_disk[f"{kind} {file}"] = ResultFile(file, f"{kind} {file}", lines, journal)
        if moves is not None:
            on_disk[PLACE] = moves
        if receivers:
            on_disk[UNDELIVERED] = undelivered_file(given_up, journal)
        deliveries = [
            Delivery(place, receiver, journal, give_up_after)
            for place, receiver in receivers.items()
        ]
        watcher: Watcher | FrameWatcher
        if opened_source is None:
            arrivals = Arrivals(watched, journal.knows, settle, [Path(f) for f in move_to or ()])
            if journal.is_new:
                old = [] if existing else arrivals.all_files()
                journal.begin(subject, old)
                if old:
                    note(f"{len(old)} images are in {folder} already and are left; see --existing")
            places = Places(journal, on_disk, deliveries, moves)
            watcher = Watcher(
                Path(str(folder)),
                arrivals,
                judge,
                places,
                patience=patience,
                poll=poll,
                batch_size=batch_size,
            )
        else:
            if journal.is_new:
                journal.begin(subject, [])
            places = Places(journal, on_disk, deliveries, moves)
            watcher = FrameWatcher(
                opened_source,
                judge,
                journal,
                places,
                progress=Path(f"{opened_source.name} every {every:g} s"),
                spool=spool if moves is not None else None,
                stamp=None if opened_source.is_live else stamp_of(Path(str(source))) or Stamp(0, 0),
            )
        note(f"watching {name}; Ctrl-C ends it")
        try:
            watcher.run()
        except KeyboardInterrupt:
            pass
        finally:
            places.close()
        facts = f"{watcher.inspected} images, {watcher.anomalous} anomalous"
        note(f"stopped: {facts}, {watcher.unreadable} unreadable")
        for place, receiver in receivers.items():
            if left := journal.count(place):
                note(f"{receiver.name}: {left} results are left for the next start")
    finally:
        journal.close()


def _receivers(
    webhook: str | None, token_file: str | None, mqtt: str | None
) -> dict[str, Webhook | Mqtt]:
    if token_file is not None and webhook is None:
        raise UsageError("--webhook-token-file needs --webhook")
    found: dict[str, Webhook | Mqtt] = {}
    if webhook is not None:
        found["webhook"] = Webhook(webhook, None if token_file is None else token_of(token_file))
    if mqtt is not None:
        found["mqtt"] = Mqtt(mqtt)
    return found


def _require_watchfiles() -> None:
    try:
        import watchfiles  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'fastad watch needs watchfiles: pip install "fastad[watch]", or give --poll 1'
        ) from error


def _check_moves(watched: Path, move_to: tuple[str, str], may_hold: bool) -> None:
    good, bad = (Path(os.path.realpath(path)) for path in move_to)
    if good == bad:
        raise UsageError("--move-to needs two folders")
    if may_hold:
        return
    real = Path(os.path.realpath(watched))
    for path in (good, bad):
        if path == real or path in real.parents:
            raise UsageError(f"--move-to {path} is the folder under watch, or holds it")


def _check_threshold(file: str, detector: Detector, is_needed: bool) -> None:
    if detector.threshold_ is not None:
        return
    if is_needed:
        raise ValueError(f"{file} has no threshold, as no images were held out: none can be moved")
    log.warning(f"{file} has no threshold, as no images were held out: nothing is decided")
