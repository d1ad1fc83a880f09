"""What an installation needs: every import is declared, every file beside the code is installed."""

import ast
import re
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORTED_AS = {
    "paho-mqtt": "paho",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "prometheus-client": "prometheus_client",
}
COMPILED = (".pyc", ".so", ".pyd")


def modules(requirements: list[str]) -> set[str]:
    names = (re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)
    return {IMPORTED_AS.get(name, name) for name in names}


REQUIRED = modules(PYPROJECT["project"]["dependencies"])
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
OPTIONAL = modules(
    [
        *EXTRAS["export"],
        *EXTRAS["pandas"],
        *EXTRAS["parquet"],
        *EXTRAS["remote"],
        *EXTRAS["watch"],
        *EXTRAS["camera"],
        *EXTRAS["timm"],
        *EXTRAS["trackers"],
        *EXTRAS["serve"],
    ]
)
# A package that nothing imports without its extra; these come with fastapi.
OF_EXTRA = {"serve": modules(EXTRAS["serve"]) | {"pydantic", "starlette"}}


def third_party(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"fastad"}


def undeclared(package: Path) -> list[str]:
    """Imports that no dependency provides; those of an extra may only be inside a function."""
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        required = REQUIRED | OF_EXTRA.get(path.relative_to(package).parts[0], set())
        missing = third_party(tree) - required - OPTIONAL
        for function in functions:
            function.body = []  # what is left runs when the file is imported
        missing |= third_party(tree) - required
        found += [f"{path.relative_to(package)} imports {name}" for name in sorted(missing)]
    return found


def test_every_import_is_declared():
    assert undeclared(ROOT / "fastad") == []


def test_every_dependency_is_imported():
    trees = (ast.parse(path.read_text()) for path in (ROOT / "fastad").rglob("*.py"))
    assert set().union(*map(third_party, trees)) >= REQUIRED


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import contourpy.util, json", []),
        ("def f():\n  import onnx", []),
        ("import onnx", ["new.py imports onnx"]),
        ("def f():\n  from polars.io import x", ["new.py imports polars"]),
        ("class A:\n  import yaml", ["new.py imports yaml"]),
    ],
)
def test_the_rule_of_imports_can_fail(tmp_path, code, said):
    (tmp_path / "new.py").write_text(code)
    assert undeclared(tmp_path) == said


def test_every_file_beside_the_code_is_installed():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    files = [
        path.relative_to(ROOT)
        for path in (ROOT / "fastad").rglob("*")
        if path.is_file() and path.suffix not in (".py", *COMPILED)
    ]
    assert {"page.html", "stylesheet.css", "script.js", "demo_page.html"} <= {f.name for f in files}
    for file in files:
        given = patterns.get(".".join(file.parent.parts), [])
        assert any(file.match(pattern) for pattern in given), f"{file} would not be installed"


def test_the_package_that_runs_has_them():
    """A checkout, or what `pip install .` made of one."""
    from fastad.commands import demo_page
    from fastad.evaluation.report import page

    for module, names in (
        (demo_page, ["demo_page.html"]),
        (page, ["page.html", "stylesheet.css", "script.js"]),
    ):
        assert all(Path(module.__file__).with_name(name).is_file() for name in names)
