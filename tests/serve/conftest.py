"""Databases of both kinds, a small detector, and images for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for line_images

POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The URL of a PostgreSQL of our own, on a socket in a temporary folder."""
    pytest.importorskip("psycopg", reason="needs psycopg")
    if POSTGRES is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path("/tmp") / f"fastad-pg-{os.getpid()}"  # a socket's path must be short
    folder.mkdir(mode=0o777)
    is_root = os.geteuid() == 0
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    prefix = prefix if is_root else []
    if is_root:
        shutil.chown(folder, "postgres", "postgres")
    data, log = folder / "data", folder / "log"
    run = {"check": True, "capture_output": True, "cwd": folder}
    control = [*prefix, POSTGRES / "pg_ctl", "-D", data, "-l", log, "-w"]
    try:
        subprocess.run(
            [*prefix, POSTGRES / "initdb", "-D", data, "-U", "fastad", "-A", "trust"], **run
        )
        options = f"-k {folder} -c listen_addresses=''"
        subprocess.run([*control, "-o", options, "start"], **{**run, "capture_output": False})
        yield f"postgresql+psycopg://fastad@/postgres?host={folder}"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd="/")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store_url(request, tmp_path):
    """An empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "line.db")
    url = request.getfixturevalue("postgres")
    from sqlalchemy import create_engine

    from fastad.serve.tables import Base

    engine = create_engine(url)
    Base.metadata.drop_all(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A detector file, made once. Tests copy it, because calibrations lie beside it."""
    import numpy as np
    from line_images import noise

    from fastad import Detector

    rng = np.random.default_rng(0)
    good = np.stack([noise(rng) for _ in range(40)])
    detector = Detector(
        "stpm", image_size=64, teacher_weights="embedded", false_positive_rate=0.2, device="cpu"
    ).fit(good, epochs=1, validation_fraction=0.5)
    path = tmp_path_factory.mktemp("trained") / "part.fastad"
    detector.save(path)
    return path


@pytest.fixture
def part(trained, tmp_path):
    """A copy of the detector in a folder of its own."""
    (tmp_path / "detectors").mkdir()
    return Path(shutil.copy(trained, tmp_path / "detectors" / "part.fastad"))


@pytest.fixture
def serving(part, tmp_path):
    """Make a server in this process: its client and its parts, by settings and options."""
    from contextlib import ExitStack

    from fastapi.testclient import TestClient

    from fastad.serve.app import application
    from fastad.serve.service import service
    from fastad.serve.settings import Settings
    from fastad.serve.store import Store

    with ExitStack() as stack:

        def make(store=None, files=None, **values):
            names = ("waiting", "batch_size", "folders")
            options = {name: values.pop(name) for name in names if name in values}
            kept = Store(str(tmp_path / "line.db")) if store is None else store
            files = {"part": str(part)} if files is None else files
            parts = service(files, kept, Settings(**values), **options)
            address = "http://127.0.0.1:8000"
            client = TestClient(application(parts), base_url=address, follow_redirects=False)
            return stack.enter_context(client), parts

        yield make
