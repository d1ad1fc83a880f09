"""Lists of images: a file or stdin with a path or an address in each line, or a Parquet table."""

import sys
from pathlib import Path

from fastad.commands import UsageError
from fastad.commands.parquet import is_parquet, read_column
from fastad.distributed import this_rank

COLUMN = "path"  # of a Parquet table


def listed_images(source: str) -> list[str]:
    """The images that a list names, in its order.

    Args:
        source: a text file, "-" for stdin, or a file that ends in .parquet, whose column "path"
            counts. Empty lines do not count.

    Raises:
        UsageError: stdin, where several processes would share it.
        FileNotFoundError: there is no such file.
        ImportError: pyarrow, which reads Parquet, is not installed.
        ValueError: the list is empty, no text, or has no such column.
    """
    if source == "-":
        if this_rank().count > 1:
            raise UsageError("--images-from -: one process alone reads stdin, give a file")
        names = sys.stdin.read().splitlines()
    elif not Path(source).is_file():
        raise FileNotFoundError(f"--images-from: there is no file {source}")
    elif is_parquet(source):
        names = read_column(source, COLUMN)
    else:
        # As names of files are, which may hold any bytes.
        names = Path(source).read_bytes().decode("utf-8-sig", "surrogateescape").splitlines()
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"--images-from {source} names no image")
    return names
