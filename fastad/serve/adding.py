"""How results are written: this runs before each answer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.orm import Session

from fastad.serve.tables import Base, Drawing, Picture, Result


@dataclass(frozen=True)
class Entry:
    """A result that is to be written.

    Attributes:
        content: the bytes of the image file.
        kind: its format by content.
        values: columns of `Result` but ``image``.
        anomaly_map, mask: grey PNG files.
    """

    content: bytes
    kind: str
    values: dict[str, Any]
    anomaly_map: bytes
    mask: bytes | None


# Of tables, without objects for their rows, and made once.
_PICTURES, _RESULTS, _DRAWINGS = (
    Base.metadata.tables[one.__tablename__] for one in (Picture, Result, Drawing)
)
_KNOWN = select(_PICTURES.c.digest).where(
    _PICTURES.c.digest.in_(bindparam("digests", expanding=True))
)
_HAS_KEY = (
    select(_RESULTS.c.id).where(_RESULTS.c.key.in_(bindparam("keys", expanding=True))).limit(1)
)
_NEW_PICTURES, _NEW_DRAWINGS = insert(_PICTURES), insert(_DRAWINGS)
_NEW_RESULTS = insert(_RESULTS).returning(_RESULTS.c.id, sort_by_parameter_order=True)


def add(connection: Connection, entries: Sequence[Entry]) -> list[Result]:
    """Write results and their images in a transaction. See `Store.add`."""
    digests = [hashlib.sha256(entry.content).hexdigest() for entry in entries]
    keys = [entry.values["key"] for entry in entries if entry.values["key"] is not None]
    known = set(connection.scalars(_KNOWN, {"digests": digests}))
    of_key = of_keys(connection, keys)
    given: list[Result] = []
    added: list[tuple[Result, Entry]] = []
    pictures: list[dict[str, Any]] = []
    for digest, entry in zip(digests, entries, strict=True):
        key = entry.values["key"]
        if key is not None and key in of_key:
            given.append(of_key[key])
            continue
        if digest not in known:
            known.add(digest)
            values = {"digest": digest, "content": entry.content, "kind": entry.kind}
            pictures.append(values | {"size": len(entry.content)})
        result = Result(**entry.values, image=digest)
        given.append(result)
        added.append((result, entry))
        if key is not None:
            of_key[key] = result
    if pictures:
        connection.execute(_NEW_PICTURES, pictures)
    if added:
        rows = [entry.values | {"image": result.image} for result, entry in added]
        for number, (result, _) in zip(connection.scalars(_NEW_RESULTS, rows), added, strict=True):
            result.id = number
        connection.execute(_NEW_DRAWINGS, [_drawing(*one) for one in added])
    return given


def of_keys(connection: Connection, keys: Sequence[str]) -> dict[str, Result]:
    """The results of requests that came before, by their keys."""
    if not keys or connection.scalar(_HAS_KEY, {"keys": keys}) is None:
        return {}
    with Session(connection, expire_on_commit=False) as session:
        kept = session.scalars(select(Result).where(Result.key.in_(keys)))
        return {str(result.key): result for result in kept}


def _drawing(result: Result, entry: Entry) -> dict[str, Any]:
    size = len(entry.anomaly_map) + len(entry.mask or b"")
    maps = {"anomaly_map": entry.anomaly_map, "mask": entry.mask}
    return {"result": result.id, "size": size} | maps
