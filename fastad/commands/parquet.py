"""Tables as Parquet files, read and written by pyarrow, the extra ``fastad[parquet]``.

A name of a file may hold bytes that are no UTF-8, which Parquet's text cannot. Such a byte is
written as the escape \\udcff, as Python spells it, and read again as that byte. A backslash that
stands before what looks like an escape is written as \\u005c.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastad._files import write_atomically
from fastad.commands import UsageError
from fastad.commands.output import check_result_target, write_csv

ENDING = ".parquet"
TEXTS = {"path", "detector", "input", "status", "error", "heatmap", "mask", "type"}
BOOLEANS = {"is_anomalous", "is_defect"}
INTEGERS = {"region"}
_ESCAPE = re.compile(r"\\u(d[89a-f][0-9a-f]{2}|005c)")


def is_parquet(name: str) -> bool:
    """Whether a file is Parquet, by the ending of its name."""
    return name.lower().endswith(ENDING)


def check_targets(
    *,
    json: str | None,
    csv: str | None,
    parquet: str | None,
    regions: str | None = None,
    output: str | None = None,
) -> None:
    """As `check_result_target` for each file that is named, before long work.

    Args:
        json: a file of text.
        csv: a file of text.
        parquet: a file of Parquet, whatever its name.
        regions: a file of either, as `write_table` takes it.
        output: a folder that will be made: files may lie in it.

    Raises:
        UsageError: Parquet to stdout, which takes text, or a name that is empty.
        ImportError: pyarrow is needed and not installed.
    """
    if parquet == "-":
        raise UsageError("--parquet takes a file, not stdout")
    new = None if output is None or Path(output).exists() else Path(output)
    targets = {"json": json, "csv": csv, "parquet": parquet, "regions": regions}
    for option, target in targets.items():
        if target == "":
            raise UsageError(f"--{option} must name a file; it is empty")
        if target is None or (new is not None and Path(target).parent == new):
            continue
        check_result_target(target)
    for target in filter(None, (parquet, regions)):
        if target == parquet or is_parquet(target):
            _pyarrow(target)


def write_scores(
    csv: str | None,
    parquet: str | None,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write a table to those of the two files that are named."""
    if csv is not None:
        write_csv(csv, columns, rows)
    if parquet is not None:
        write_parquet(parquet, columns, rows)


def write_parquet(target: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table with the columns and values of `fastad.evaluation.score_table.csv_text`.

    The types are those of `TEXTS`, `BOOLEANS` and `INTEGERS`, and float64 for all other columns. A
    value that is None is null. Bytes of a path that are no UTF-8 become an escape such as \\udcff.

    Raises:
        ImportError: pyarrow is not installed.
        OSError: the file cannot be written.
    """
    pyarrow, parquet = _pyarrow(target)
    rows = list(rows)
    schema = pyarrow.schema([(name, _kind(name, pyarrow)) for name in columns])
    cells = {name: [_cell(row.get(name)) for row in rows] for name in columns}
    table = pyarrow.table(cells, schema=schema)
    write_atomically(target, lambda path: parquet.write_table(table, path))


def write_table(target: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write Parquet where the name ends so, otherwise CSV; to stdout for "-"."""
    (write_parquet if is_parquet(target) else write_csv)(target, columns, rows)


def read_column(source: str, column: str) -> list[str]:
    """A column of a Parquet file, as text, with the bytes that `write_parquet` escaped.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is no Parquet, or has no such column.
    """
    pyarrow, parquet = _pyarrow(source)
    try:
        table = parquet.read_table(source)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{source} is no Parquet table: {error}") from None
    if column not in table.column_names:
        raise ValueError(f"{source} has no column {column}, but {', '.join(table.column_names)}")
    return [_unescaped(str(value)) for value in table.column(column).to_pylist()]


def _pyarrow(file: str) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f'{file} needs pyarrow: pip install "fastad[parquet]"') from None
    return pyarrow, parquet


def _kind(name: str, pyarrow: Any) -> Any:
    if name in TEXTS:
        return pyarrow.string()
    if name in BOOLEANS:
        return pyarrow.bool_()
    return pyarrow.int64() if name in INTEGERS else pyarrow.float64()


def _cell(value: Any) -> Any:
    return _escaped(value) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    text = _ESCAPE.sub(lambda found: rf"\u005c{found[0][1:]}", text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
