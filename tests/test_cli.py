"""The command line in a process of its own; what it does is tested in tests/commands."""

import subprocess
import sys

import fastad


def test_in_a_process_of_its_own(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "fastad", *arguments]
        # Not in the checkout, whose own fastad has no compiled module unless built in place.
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    shown = run("--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in ("train", "evaluate", "predict", "info", "bench"))
    assert run("--version").stdout == f"fastad {fastad.__version__}\n"
    failed = run("info", str(tmp_path / "nowhere.fastad"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: there is no detector file")
    assert failed.stdout == ""


def test_help_imports_nothing_heavy():
    code = """
import sys, fastad.cli
try:
    fastad.cli.main(["predict", "--help"])
except SystemExit:
    print(*sorted({"torch", "sklearn", "scipy", "matplotlib", "jinja2"} & set(sys.modules)))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == ""
