"""Builds the CPU extensions with AddressSanitizer and UndefinedBehaviorSanitizer. Runs a script.

    python tools/sanitize.py FOLDER tests/ops/fuzz.py --calls 10000

FOLDER keeps the build for the next run. The package itself stays as it is. Linux and g++ only. The
exit code is that of the script, which a report of a sanitizer ends.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-sanitize=vptr"


def build(folder: Path) -> None:
    """The package, with its extensions compiled anew, in ``folder``."""
    package = folder / "fastad"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "fastad", package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    command += ["--build-lib", str(folder), "--build-temp", str(folder / "objects")]
    environment = os.environ | {"CFLAGS": FLAGS, "LDFLAGS": FLAGS, "FASTAD_CUDA": "0"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def runtime() -> str:
    """The sanitizers' libraries, which have to be loaded before Python's."""
    names = ["libasan.so", "libubsan.so", "libstdc++.so"]
    command = [os.environ.get("CXX", "g++")]
    found = [
        subprocess.run(
            [*command, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in names
    ]
    return " ".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("script", nargs=argparse.REMAINDER, help="a Python script, its arguments")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    build(folder)
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "LD_PRELOAD": runtime(),
        # Python and torch keep memory until the end. A size that is too large is to raise.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run([sys.executable, *arguments.script], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
