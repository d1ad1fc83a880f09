"""The site of the documentation is built without a warning, and every public name is in it."""

import importlib.util
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MISSING = [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if not find_spec(name)]
PACKAGES = (
    "backbones",
    "compat.anomalib",
    "data",
    "evaluation",
    "export",
    "inference",
    "models",
    "ops",
    "training",
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs fastad[docs]: no {MISSING}")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def reference(site) -> str:
    pages = sorted((site / "reference").glob("*.html"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def public_names() -> list[str]:
    names = ["fastad.Detector", "fastad.load"]
    detector = importlib.import_module("fastad.detector").Detector
    names += [f"fastad.Detector.{n}" for n in vars(detector) if not n.startswith("_")]
    for package in PACKAGES:
        module = importlib.import_module(f"fastad.{package}")
        for name in module.__all__:
            if inspect.isclass(getattr(module, name)) or callable(getattr(module, name)):
                names.append(f"fastad.{package}.{name}")
    return names


def test_every_public_name_has_an_entry(reference):
    ids = set(re.findall(r'id="(fastad\.[\w.]+)"', reference))

    def is_there(name: str) -> bool:
        own = name.rpartition(".")[2]
        if name.startswith("fastad.models.") and own.endswith("Config"):  # a table of its fields
            return f"<code>{name}</code>" in reference
        # A function that has its file's name is found below the file.
        ways = (name, f"{name}.{own}", name.replace("fastad.", "fastad.detector.", 1))
        return not ids.isdisjoint(ways)

    names = public_names()
    assert len(names) > 100
    assert [name for name in names if not is_there(name)] == []


def test_docstrings_are_read_as_they_are_meant():
    spec = importlib.util.spec_from_file_location("docs", ROOT / "tools" / "docs_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = "As :func:`f`.\n\nArgs:\n    a, *b: in\n        pixels.\n\n"
    written += "Raises:\n    OSError, TypeError: bad.\n"
    read = "As `f`.\n\nArgs:\n    a: in\n        pixels.\n    *b: in\n        pixels.\n\n"
    read += "Raises:\n    OSError, TypeError: bad."
    assert module.as_google_writes(written) == read
    example = "\n\nExamples:\n    >>> f(1)\n    2"
    assert module.as_google_writes(f"{written}\n>>> f(1)\n2\n") == read + example
    assert module.as_google_writes(f"{written}\nExample:\n    >>> f(1)\n    2\n") == read + example


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)\b[^>]*\bsrc="([^"]*)"', text)
        loaded += re.findall(
            r'<link\b[^>]*\brel="(?:stylesheet|preload)"[^>]*\bhref="([^"]*)"', text
        )
        loaded += re.findall(r'<link\b[^>]*\bhref="([^"]*)"[^>]*\brel="stylesheet"', text)
        assert loaded, page
        assert [url for url in loaded if "//" in url] == [], page


def test_markers_are_replaced(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<!-- (options|recipes|command)", text), page
        assert ":::" not in text, page
