"""Tensors and a JSON object in one file, without pickle and with a checksum over both.

The file is a safetensors file. Its header's metadata holds ``format`` and ``format_version``, the
object under a name of its own, and ``sha256``, over that text and the tensors.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from fastad._files import write_atomically

T = TypeVar("T")


@dataclass(frozen=True)
class SafeFile:
    """A kind of sealed file.

    Attributes:
        name: what it is called in messages, and its object in the header.
        format: the mark in the header.
        version: of what this package writes, and the newest that it reads.
        error: raised for a file that is damaged, of another kind, or newer.
    """

    name: str
    format: str
    version: int
    error: type[ValueError]

    def write(self, path: str | Path, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write atomically: on any error the file that was there stays as it was.

        Raises:
            OSError: the file cannot be written.
            TypeError: the content is not JSON.
        """
        text = json.dumps(content)
        # Copies, because two names may share one memory.
        tensors = {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        metadata = {
            "format": self.format,
            "format_version": str(self.version),
            self.name: text,
            "sha256": digest(text, tensors),
        }
        data = save(tensors, metadata)
        write_atomically(path, lambda temporary: temporary.write_bytes(data))

    def read(self, path: str | Path, parse: Callable[[dict[str, Any], dict[str, Tensor]], T]) -> T:
        """What ``parse`` makes of content and tensors; they are on the CPU and outlive the file.

        Raises:
            PermissionError: the file cannot be read.
            ValueError: of the kind's class, for any other reason; names the file.
        """
        if not Path(path).is_file():
            raise self.error(f"{path} is a folder, not a {self.name}")
        metadata, tensors = self._open(path)
        try:
            version = int(metadata["format_version"])
            if version > self.version:
                raise self.error(
                    f"{path} was written by a newer fastad (format {version}, this one reads up to "
                    f"{self.version}): update fastad"
                )
            if metadata["sha256"] != digest(metadata[self.name], tensors):
                raise self.error(f"{path} is damaged: its checksum does not match its content")
            return parse(json.loads(metadata[self.name]), tensors)
        except self.error:
            raise
        except Exception as error:  # any field may be missing or hold anything
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise self.error(f"{path} cannot be read as a {self.name} ({reason})") from error

    def is_one(self, path: str | Path) -> bool:
        """Whether a file is of this kind, by its header alone."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("format") == self.format
        except Exception:  # the reader's own error class, and others: another kind, or none
            return False

    def _open(self, path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
        with open(path, "rb") as start:
            if start.read(9)[8:] not in (b"{", b""):  # a length of eight bytes, then JSON
                raise self.error(f"{path} is no fastad {self.name}, but a file of another kind")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != self.format:
                    raise self.error(f"{path} is a safetensors file, but no fastad {self.name}")
                # Copies: the file may be replaced while these are in use.
                names = file.keys()
                return metadata, {name: file.get_tensor(name).clone() for name in names}
        except (self.error, PermissionError):
            raise
        except Exception as error:  # the reader's own error class, and others for odd headers
            raise self.error(
                f"{path} is no fastad {self.name}, or damaged: it is not whole, copy it again"
            ) from error


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 over a text and tensors with their names, types and shapes."""
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
