"""The layering rules, read from the imports of every file: dependencies point strictly downward."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A file may import from its own row and from rows below it.
ROWS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("compat", "integrations"),
    ("serve",),
    ("watch",),
    ("detector",),
    ("_estimator",),
    ("export",),
    ("inference",),
    ("engine",),
    ("training",),
    ("evaluation",),
    ("tiles",),
    ("models",),
    ("data",),
    ("backbones",),
    ("ops",),
    ("distributed",),
    ("_threads",),
    ("_extension",),
    ("_safe_file",),
    ("_C", "_C_convolution", "_C_cuda", "_files", "_html", "_suggest", "_values"),
)
# Rows that are lower, and forbidden all the same.
FORBIDDEN = {("models", "data")}
# What `fastad` gives by name without the part that it is in.
LAZY = {"Detector": "detector", "load": "detector"}
# No file of `models` imports a system but its own; what they share stands beside their folders.
SYSTEMS = {"stpm", "rstpm", "gtrans", "prn", "utad", "patchcore", "subspace"}
# (folder of csrc, folder that it does not include): an op stands alone.
FORBIDDEN_INCLUDES = {("cpu", "convolution"), ("cpu", "images"), ("cpu", "metrics")}
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def row(part: str) -> int | None:
    return next((i for i, names in enumerate(ROWS) if part in names), None)


def imported_modules(path: Path, package: str) -> set[str]:
    """Dotted names that a file imports, also inside functions; relative ones made absolute."""
    names = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        # What type checkers alone read is never run.
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def python_violations(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "fastad").rglob("*.py")):
        relative = path.relative_to(root).with_suffix("")
        package = ".".join(relative.parts[:-1])
        part = relative.parts[1]
        if VAGUE & set(relative.parts):
            found.append(f"{relative} says nothing by its name")
        modules = [n.split(".")[1:] for n in imported_modules(path, package) if n[:7] == "fastad."]
        imports = {LAZY.get(name, name) for name, *_ in modules}
        if part == "models" and relative.parts[2] != "__init__":
            systems = {rest[0] for name, *rest in modules if name == "models" and rest} & SYSTEMS
            found += [
                f"{relative} imports fastad.models.{name}"
                for name in sorted(systems - {relative.parts[2]})
            ]
        if part == "__init__":
            # The package itself imports lazily, by name.
            found += [f"{relative} imports {name}" for name in imports]
        elif row(part) is None:
            found.append(f"{relative} is in no row: give it one")
        else:
            for name in sorted(imports):
                below = row(name)
                if below is None or name == part:
                    continue
                if below <= row(part) or (part, name) in FORBIDDEN:
                    found.append(f"{relative} imports fastad.{name}")
    return found


def is_cuda(path: Path, root: Path) -> bool:
    return path.suffix in (".cu", ".cuh") or "cuda" in path.relative_to(root / "csrc").parts


def include_violations(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "csrc").rglob("*")):
        if path.suffix not in (".cpp", ".h", ".hpp", ".cu", ".cuh"):
            continue
        for include in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.M):
            names_cuda = re.search(r"(^|/)(cuda|cub|cooperative_groups)|\.cuh$", include)
            names_cpu = re.search(r"(^|/)cpu/", include)
            folders = (path.relative_to(root / "csrc").parts[0], include.split("/")[-2:][0])
            wrong_backend = names_cpu if is_cuda(path, root) else names_cuda
            if wrong_backend or folders in FORBIDDEN_INCLUDES:
                found.append(f"{path.relative_to(root)} includes {include}")
    return found


def test_python_files_import_only_from_rows_below():
    assert python_violations(ROOT) == []


def test_includes_stay_within_backend_and_folder():
    assert include_violations(ROOT) == []


def test_every_row_is_the_name_of_a_part():
    parts = {p.stem for p in (ROOT / "fastad").iterdir() if p.name != "__pycache__"}
    expected = {
        "watch",
        "export",
        "inference",
        "engine",
        "training",
        "evaluation",
        "models",
        "data",
        "backbones",
        "ops",
    }
    assert expected <= parts


def drawn_tree(text: str) -> set[str]:
    """The paths in the tree of CONTRIBUTING.md."""
    [drawing] = re.findall(r"^```\n(fastad/\n.*?)^```$", text, re.M | re.S)
    found, parents = set(), []
    for line in drawing.splitlines():
        names, depth = [], (len(line) - len(line.lstrip())) // 2
        for word in line.split():  # several names may stand in front of the description
            if not re.fullmatch(r"[\w.]+/|\w+\.(py|cpp|h)", word):
                break
            names.append(word)
        parents = [*parents[:depth], names[-1]]
        found |= {"".join([*parents[:depth], name]) for name in names}
    return found


def test_the_tree_in_contributing_is_that_of_the_code():
    drawn = drawn_tree((ROOT / "CONTRIBUTING.md").read_text())
    assert [path for path in drawn if not (ROOT / path).exists()] == []
    folders = {
        f"{path.relative_to(ROOT)}/"
        for top in ("fastad", "csrc")
        for depth in ("*", "*/*")
        for path in (ROOT / top).glob(depth)
        if path.is_dir() and path.name != "__pycache__"
    }
    assert folders - {"fastad/backbones/embedded/"} <= drawn


def test_systems_are_those_of_the_package():
    models = ROOT / "fastad" / "models"
    shared = {"memory"}
    folders = {path.parent.name for path in models.glob("*/__init__.py")} - shared
    assert folders | {"stpm", "subspace"} == SYSTEMS


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("models/new.py", "import fastad.data", "fastad/models/new imports fastad.data"),
        ("models/new.py", "from fastad import data", "fastad/models/new imports fastad.data"),
        ("models/new.py", "from ..data import folder", "fastad/models/new imports fastad.data"),
        ("evaluation/a.py", "def f():\n  from fastad.training import Trainer", "fastad.training"),
        ("ops/a.py", "from fastad.backbones.resnet import ResNet", "fastad.backbones"),
        ("_files.py", "from fastad import ops", "fastad/_files imports fastad.ops"),
        ("engine/a.py", "from fastad.inference import Predictor", "fastad.inference"),
        ("engine/a.py", "import fastad.export", "fastad/engine/a imports fastad.export"),
        (
            "engine/a.py",
            "from ..detector import Detector",
            "fastad/engine/a imports fastad.detector",
        ),
        ("engine/a.py", "from fastad import load", "fastad/engine/a imports fastad.detector"),
        ("models/prn/a.py", "from fastad.models.utad import UTAD", "imports fastad.models.utad"),
        ("models/prn/a.py", "from fastad.models import rstpm", "imports fastad.models.rstpm"),
        ("models/prn/a.py", "from ..gtrans.tokens import Tokenizer", "fastad.models.gtrans"),
        ("models/stpm.py", "import fastad.models.rstpm.unet", "fastad.models.rstpm"),
        ("models/maps.py", "from fastad.models.stpm import STPM", "fastad.models.stpm"),
        ("__init__.py", "from fastad import models", "fastad/__init__ imports models"),
        ("extra.py", "", "fastad/extra is in no row"),
        ("data/utils.py", "", "fastad/data/utils says nothing by its name"),
    ],
)
def test_python_rules_can_fail(tmp_path, path, code, said):
    file = tmp_path / "fastad" / path
    file.parent.mkdir(parents=True)
    file.write_text(code)
    [violation] = python_violations(tmp_path)
    assert said in violation


def test_allowed_imports_pass(tmp_path):
    code = {
        "training/a.py": "import fastad\nfrom fastad.models import base\nfrom . import b",
        "training/b.py": "import torch\nfrom fastad._files import atomic_path",
        "models/__init__.py": "from fastad.models.prn import PRN",
        "models/prn/model.py": "from fastad.models.base import Stage\nfrom . import network",
    }
    for path, text in code.items():
        file = tmp_path / "fastad" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert python_violations(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "include"),
    [
        ("cpu/a.cpp", "<cuda_runtime.h>"),
        ("cpu/a.cpp", '"../cuda/block.cuh"'),
        ("bilinear.h", "<cuda_fp16.h>"),
        ("cuda/a.cu", '"../cpu/simd.h"'),
        ("cuda/a.cu", '"cpu/simd.h"'),
        ("cpu/a.cpp", '"convolution/panel.h"'),
        ("cpu/a.h", '"../convolution/panel.h"'),
        ("cpu/a.cpp", '"images/bytes.h"'),
    ],
)
def test_include_rules_can_fail(tmp_path, path, include):
    file = tmp_path / "csrc" / path
    file.parent.mkdir(parents=True)
    file.write_text(f"#include <cstdint>\n#include {include}\n")
    assert include_violations(tmp_path) == [f"csrc/{path} includes {include[1:-1]}"]
