"""The repository's own files: sizes, versions, and what GitHub and pre-commit read."""

import ast
import re
from pathlib import Path

import pytest

import fastad

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # lines of a file of the package
LONGER = {"cli/train.py", "detector.py"}  # one room each: all its options, all that a user calls


def lines_of_code(text: str) -> int:
    """Lines of a file without its docstrings, whose examples are documentation."""
    bodies = (node.body for node in ast.walk(ast.parse(text)) if hasattr(node, "body"))
    first = (body[0] for body in bodies if isinstance(body, list) and body)
    docstrings = (
        statement
        for statement in first
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
    return len(text.splitlines()) - sum(s.end_lineno - s.lineno + 1 for s in docstrings)


def long_files(package: Path) -> list[str]:
    """The files of a package that have too many lines of code."""
    return [
        f"{name} has {lines} lines"
        for path in sorted(package.rglob("*.py"))
        if (lines := lines_of_code(path.read_text())) > LONGEST
        and (name := path.relative_to(package).as_posix()) not in LONGER
    ]


def test_no_file_is_too_long():
    assert long_files(ROOT / "fastad") == []


def test_long_files_are_found(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "detector.py").write_text("\n" * 1000)
    (tmp_path / "models" / "short.py").write_text("\n" * LONGEST)
    (tmp_path / "models" / "long.py").write_text('"""Two\nlines."""' + "\n" * (LONGEST + 2))
    assert long_files(tmp_path) == ["models/long.py has 301 lines"]


def test_files_that_may_be_long_exist():
    assert all((ROOT / "fastad" / name).is_file() for name in LONGER)


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("pyproject.toml", r'^version = "(.+)"$'), ("CITATION.cff", r"^version: (.+)$")],
)
def test_versions_agree(file, pattern):
    assert re.findall(pattern, (ROOT / file).read_text(), re.M) == [fastad.__version__]


@pytest.mark.parametrize(
    "file",
    [
        "CITATION.cff",
        ".pre-commit-config.yaml",
        *(p.relative_to(ROOT).as_posix() for p in sorted((ROOT / ".github").rglob("*.yml"))),
    ],
)
def test_yaml_parses(file):
    yaml = pytest.importorskip("yaml")
    assert isinstance(yaml.safe_load((ROOT / file).read_text()), dict)


def test_issue_forms_ask_for_what_a_report_needs():
    yaml = pytest.importorskip("yaml")
    for name in ("bug.yml", "wrong_result.yml"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text())
        fields = {part["id"]: part for part in form["body"] if "id" in part}
        for field in ("command", "happened", "info"):
            assert fields[field]["validations"]["required"], f"{name}: {field}"


def test_links_of_the_forms_lead_to_files():
    links = [
        link
        for path in (ROOT / ".github").rglob("*.yml")
        for link in re.findall(r"\(\.\./blob/main/([^)#]+)", path.read_text())
    ]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_files_that_security_names_exist():
    text = (ROOT / "SECURITY.md").read_text()
    files = re.findall(r"`(tests/[^`]+)`", text)
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []
