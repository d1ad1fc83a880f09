"""The check of a GPU, here without one: its parts are stubs, and its commands are understood."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "device_check.sh"
LIMIT = 8 * 60  # seconds of the whole check
KILL = 3  # seconds between the interrupt of a part and its end
# A Python that sees a GPU. FAILS and HANGS are words of a part's command line.
STUB = """#!/usr/bin/env bash
if [[ $1 == -c && $2 == *get_device_capability* ]]; then
  [[ -n ${GPU:-} ]] && echo "9 0 $GPU"
  exit 0
fi
echo "arch=$TORCH_CUDA_ARCH_LIST cuda=$FASTAD_CUDA arguments=$*"
[[ -n ${FAILS:-} && "$*" == *$FAILS* ]] && exit 7
[[ -n ${HANGS:-} && "$*" == *$HANGS* ]] && exec sleep 60
exit 0
"""
SANITIZER = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do [[ $1 == --version ]] && exit; shift 2; done
exec "$@"
"""


def executable(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return path


def parts():
    done = subprocess.run([SCRIPT, "--list"], capture_output=True, text=True, check=True)
    return {name: int(limit) for name, limit in map(str.split, done.stdout.splitlines())}


@pytest.fixture
def check(tmp_path):
    """Runs the script with stubs: exit status, what it said, and the folder."""
    programs = tmp_path / "programs"
    programs.mkdir()
    python = executable(programs / "python", STUB)
    executable(programs / "compute-sanitizer", SANITIZER)
    kept = {k: v for k, v in os.environ.items() if k != "TORCH_CUDA_ARCH_LIST"}

    def run(script=SCRIPT, folder=tmp_path / "out", **variables):
        path = f"{programs}:{os.environ['PATH']}"
        environment = {**kept, "PATH": path, "PYTHON": str(python), **variables}
        done = subprocess.run([script, folder], capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout + done.stderr, folder

    return run


def test_all_parts_end_in_time():
    limits = parts()
    assert set(limits) > {
        "build",
        "kernels",
        "tests",
        "memcheck",
        "racecheck",
        "synccheck",
        "training",
    }
    assert sum(limits.values()) + KILL * len(limits) < LIMIT


def test_parts_that_pass(check):
    status, said, folder = check(GPU="NVIDIA Stub 1")
    assert status == 0, said
    assert (folder / "summary.txt").read_text() == said
    assert "device: NVIDIA Stub 1, compute capability 9.0\n" in said
    for name in parts():
        assert re.search(rf"^{name} +\d+ s  passed$", said, re.M)
        assert (folder / f"{name}.log").is_file()
    assert "arch=9.0 cuda=1" in (folder / "build.log").read_text()
    assert "0 parts failed" in said.splitlines()[-1]


def test_a_part_that_fails_hides_no_other(check):
    status, said, _ = check(GPU="NVIDIA Stub", FAILS="pip install")
    assert status == 1
    assert re.search(r"^build +\d+ s  failed: status 7$", said, re.M)
    assert said.count(" s  passed") == len(parts()) - 1
    assert "1 parts failed" in said


def test_a_part_that_hangs_is_ended(check, tmp_path):
    (tmp_path / "tools").mkdir()
    text = re.sub(r"^(part serving) \d+", r"\1 1", SCRIPT.read_text(), flags=re.M)
    impatient = executable(tmp_path / "tools" / SCRIPT.name, text)
    status, said, _ = check(impatient, GPU="NVIDIA Stub", HANGS="cuda_serving.py")
    assert status == 1
    assert re.search(r"^serving +[1-9] s  failed: over its 1 seconds$", said, re.M)
    assert said.count(" s  passed") == len(parts()) - 1


def test_without_a_gpu_it_says_so(check):
    status, said, folder = check()
    assert status == 2
    assert "device: none. torch finds no GPU here" in said
    assert said.count("not run: there is no GPU") == len(parts()) - 1
    assert re.search(r"^machine +\d+ s  passed$", said, re.M)
    assert sorted(p.name for p in folder.iterdir()) == ["machine.log", "summary.txt"]


def test_results_are_not_mixed_with_others(check, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "record.json").write_text("{}")
    status, said, folder = check(GPU="NVIDIA Stub")
    assert status == 2
    assert "is not empty" in said
    assert [p.name for p in folder.iterdir()] == ["record.json"]


def test_wrong_usage_is_refused():
    done = subprocess.run([SCRIPT, "--fast"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_compute_sanitizer_gets_tests_of_every_kind(tmp_path):
    text = SCRIPT.read_text()
    kinds = re.search(r"kinds='(.*)'\n\s*kinds\+='(.*)'", text)
    kinds = "".join(kinds.groups())
    assert '-k "[cuda and ($kinds)"' in text
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        ROOT / "tests/cuda_emulation",
    ]
    # Where there is no GPU, the same tests have another name.
    command = [*collect, "-k", f"[emulated and ({kinds})"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    for kind in kinds.split(" or "):
        assert f"{kind}[emulated" in done.stdout, kind


def commands():
    """The benches of the script and their arguments."""
    text = SCRIPT.read_text().replace("\\\n", "")
    found = re.findall(r'^part \w+ \d+ "\$python" "\$root/(bench/\w+\.py)"(.*)$', text, re.M)
    return {name: re.findall(r'"([^"]+)"|(\S+)', arguments) for name, arguments in found}


@pytest.mark.parametrize("bench", ["cuda_ops", "cuda_serving", "cuda_training"])
def test_benches_understand_their_arguments(bench, tmp_path):
    arguments = [quoted or bare for quoted, bare in commands()[f"bench/{bench}.py"]]
    command = [sys.executable, ROOT / "bench" / f"{bench}.py", *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert "there is no CUDA device" in done.stderr


@pytest.mark.slow
def test_short_trainings_run_on_a_cpu(tmp_path):
    command = [sys.executable, ROOT / "bench/cuda_training.py", "--device", "cpu"]
    command += ["--images", "20", "--image-size", "64", "--epochs", "2"]
    file = tmp_path / "training.json"
    done = subprocess.run([*command, "--json", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stpm, rstpm = json.loads(file.read_text())["rows"]
    assert stpm["stages"]["training"]["epoch_seconds"] > 0
    assert set(rstpm["stages"]) == {"pairs", "discriminator"}
    assert all(stage["epochs"] > 1 for stage in rstpm["stages"].values())
