"""Ranks as torchrun starts them, forked from one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from scorings import make_desk  # noqa: E402  beside this file


@pytest.fixture(scope="session")
def server():
    """Where the ranks are forked."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, str(HERE / "rank_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env=environment,
        cwd=HERE,
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def ranks(server, tmp_path):
    """Call a function, "module:function", in so many ranks: exit codes, and what each printed."""

    def run(count, call, *arguments):
        folder = tmp_path / "said"
        folder.mkdir(exist_ok=True)
        arguments = [str(a) if isinstance(a, Path) else a for a in arguments]
        job = {"count": count, "call": call, "arguments": arguments, "folder": str(folder)}
        print(json.dumps(job), file=server.stdin)
        codes = json.loads(server.stdout.readline())
        return codes, [(folder / f"{rank}.txt").read_text() for rank in range(count)]

    return run


@pytest.fixture(scope="session")
def desk(tmp_path_factory):
    """As `make_desk` makes it, for predict and evaluate."""
    root = tmp_path_factory.mktemp("desk")
    make_desk(root)
    return root
