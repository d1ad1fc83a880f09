"""``fastad serve``: a page for people and an API for the line."""

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fastad.commands import UsageError
from fastad.commands.detectors import given_detectors
from fastad.commands.interrupts import SIGNALS
from fastad.commands.output import note, waiting

log = logging.getLogger("fastad")


def serve(
    detectors: list[str],
    *,
    store: str,
    watch: list[str],
    host: str,
    port: int,
    token_file: str | None,
    no_auth: bool,
    keep_days: float | None,
    keep_gib: float | None,
    queue: int,
    max_mib: float,
    max_megapixels: float,
    rate: float,
    device: str,
    precision: Literal["auto", "float32", "bfloat16", "float16", "int16"],
    batch_size: int,
) -> None:
    """Serve until a signal ends it. What waits is answered first.

    Raises UsageError for a host of others without a token, ImportError without the extra.
    """
    try:
        import uvicorn
        import watchfiles  # noqa: F401

        from fastad.serve.app import application
        from fastad.serve.service import service
        from fastad.serve.settings import MIB, Settings, read_token
        from fastad.serve.store import Store
    except ImportError as error:
        raise ImportError(
            f'fastad serve needs more packages ({error.name}): pip install "fastad[serve]"'
        ) from error
    settings = Settings(
        host=host,
        port=port,
        token=None if token_file is None else read_token(token_file),
        max_bytes=int(max_mib * MIB),
        max_pixels=int(max_megapixels * 1e6),
        rate=rate,
    )
    if no_auth and token_file is not None:
        raise UsageError("--no-auth and --token-file exclude each other")
    if not settings.is_loopback and settings.token is None:
        if not no_auth:
            raise UsageError(
                f"--host {host} lets other machines in: give --token-file, or --no-auth to let "
                "anybody in"
            )
        log.warning(f"--no-auth: anybody who reaches {host}:{port} sees and changes everything")
    files = {one.name: one.file for one in given_detectors(detectors, None)}
    for file in files.values():
        if not Path(file).is_file():
            raise FileNotFoundError(f"there is no detector {file}")
    folders = watched_folders(watch, list(files))
    check_address(host, port)
    kept = Store(store, keep_days=keep_days, keep_gib=keep_gib)
    with waiting("loading detectors"):
        parts = service(
            files,
            kept,
            settings,
            folders=folders,
            waiting=queue,
            batch_size=batch_size,
            device=device,
            precision=precision,
        )
    config = uvicorn.Config(
        application(parts),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=30,
    )

    class Server(uvicorn.Server):
        """Ends by itself after a signal: uvicorn's own would raise it once more."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    for folder in parts.folders:
        if folder.left:
            note(f"{folder.left} images are in {folder.folder} already and are left")
    server = Server(config)
    name = f"[{host}]" if ":" in host else host
    note(f"serving {', '.join(files)} on http://{name}:{port}, results in {store}")
    server.run()
    if not server.started:
        raise OSError(f"cannot listen on {host}:{port}: the port may be in use")


def check_address(host: str, port: int) -> None:
    """OSError where nobody can listen, known before detectors are loaded and the store opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def watched_folders(texts: list[str], names: list[str]) -> dict[str, str]:
    """The detector's name for each folder, given as FOLDER or NAME=FOLDER. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, is_named, folder = text.partition("=")
        if not is_named and len(names) == 1:
            name, folder = names[0], text
        if name not in names:
            if len(names) == 1 and Path(text).is_dir():  # its own name has a "="
                name, folder = names[0], text
            else:
                raise UsageError(
                    f"--watch {text}: name the detector, as --watch {names[0]}=FOLDER; there are "
                    f"{', '.join(names)}"
                )
        if not Path(folder).expanduser().is_dir():
            raise NotADirectoryError(f"there is no folder {folder} to watch")
        found[folder] = name
    return found
