"""Images at addresses such as ``s3://bucket/0.png``, by fsspec and its file systems.

A path as pathlib has it holds one slash where the address has two: ``s3:/bucket/0.png``. Both are
understood, and `spelled` gives the address.
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from fastad.data.finding import ENDINGS, natural_key

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/{1,2}(?=[^/])")


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address; a single letter is a drive of Windows."""
    return _ADDRESS.match(os.fspath(path)) is not None


def spelled(path: str | os.PathLike[str]) -> str:
    """A path as text, an address with both its slashes."""
    return _ADDRESS.sub(r"\1://", os.fspath(path), count=1)


def fetch(path: str | os.PathLike[str]) -> io.BytesIO:
    """The file at an address, in memory, with its address as its name.

    Raises:
        ImportError: fsspec, or the package of its file system, is not installed.
        FileNotFoundError: there is no such file.
        OSError: it cannot be read. All name the address.
    """
    address = spelled(path)
    with _named(address):
        import fsspec

        system, name = fsspec.core.url_to_fs(address)
        file = io.BytesIO(system.cat_file(name))  # one request, where opening it takes several
    file.name = address
    return file


def find_remote(folder: str) -> list[str]:
    """Addresses of the images below a folder, at any depth, in natural order.

    By their endings, as `find_images`. Hidden files and folders are passed over.

    Args:
        folder: address, which ends in a slash.

    Raises:
        ImportError: as `fetch`.
        OSError: it cannot be listed, or holds no image. Both name the address.
    """
    with _named(folder):
        import fsspec

        system, root = fsspec.core.url_to_fs(folder)
        root = root.rstrip("/")
        names = [name[len(root) :].strip("/") for name in system.find(root)]
    images = (
        name
        for name in names
        if name.lower().endswith(ENDINGS) and not any(p.startswith(".") for p in name.split("/"))
    )
    found = [folder.rstrip("/") + "/" + name for name in sorted(images, key=natural_key)]
    if not found:
        raise FileNotFoundError(f"there are no images in the folder {folder}")
    return found


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Errors of file systems, of whatever class, as ours that name the address."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise ImportError(
            f'{address} needs fsspec and its file system: pip install "fastad[remote]" ({error})'
        ) from error
    except FileNotFoundError:
        ends = "" if address.endswith("/") else "; the address of a folder ends in a slash"
        raise FileNotFoundError(f"there is no image {address}{ends}") from None
    except Exception as error:  # a package of a file system has classes of its own
        raise OSError(f"{address} cannot be read: {error or type(error).__name__}") from error
