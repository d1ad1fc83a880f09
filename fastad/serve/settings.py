"""What a server allows."""

import math
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
LEAST_TOKEN = 16  # characters: shorter ones can be guessed
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """Limits of a server.

    Attributes:
        host, port: where it listens.
        token: that each request must show. None for none.
        max_bytes: of the body of a request.
        max_pixels: of an image.
        max_images: of a request.
        rate: requests a second that one address may make, a few seconds' worth at once.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_bytes: int = 64 * MIB
    max_pixels: int = 50_000_000
    max_images: int = 64
    rate: float = 200.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0; got {value!r}")

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return self.host in LOOPBACK


def read_token(path: str) -> str:
    """The token that a file holds. ValueError for one that is too short to be safe."""
    token = Path(path).read_text(encoding="utf-8").strip()
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(
            f"--token-file {path}: a token has {LEAST_TOKEN} plain characters or more, such as "
            "those of `openssl rand -hex 32`"
        )
    return token
