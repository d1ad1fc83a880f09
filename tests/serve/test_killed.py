"""A server under load, or killed at random moments, loses nothing that it answered."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from line_images import noise, png

BENCH = Path(__file__).resolve().parents[2] / "bench" / "serve_load.py"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("load", [["--seconds", "30", "--kills", "3"], ["--seconds", "4", "--wrk"]])
def test_nothing_is_lost_or_doubled(part, tmp_path, load):
    if "--wrk" in load and shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")
    for name in ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart"):
        pytest.importorskip(name, reason="needs fastad[serve]")
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(png(noise(rng)))
    command = [sys.executable, BENCH, part, folder, *load]
    options = {"capture_output": True, "text": True, "cwd": tmp_path}  # not beside the sources
    found = subprocess.run([*command, "--clients", "4"], **options)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert (report["lost"], report["doubled"], report["in_order"]) == (0, 0, True)
    unheard = 4 if "--wrk" in load else 0  # it ends without a wait for the last of each client
    assert 0 < report["answers"] <= report["stored"] <= report["answers"] + unheard
