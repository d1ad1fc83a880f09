"""What a server keeps: images once by content, results, labels, and the versions of detectors.

Everything lies in one database. So an answer and its image are written together or not at all, and
a server that is killed leaves nothing half written.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Engine,
    create_engine,
    delete,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import Session

from fastad.serve.adding import Entry, add, of_keys
from fastad.serve.tables import Base, Drawing, Labelling, Picture, Result, Version

GOOD, DEFECT = LABELS = ("good", "defect")
DAY, GIB = 86400.0, 2**30
AT_ONCE = 20  # results that one step of the retention deletes
VACUUMED = 20_000  # pages at most that it gives back to the disk at once


@dataclass(frozen=True)
class Filters:
    """Which results are asked for. None stands for any."""

    detector: str | None = None
    camera: str | None = None
    verdict: str | None = None
    label: str | None = None
    since: float | None = None
    until: float | None = None

    def conditions(self) -> Iterator[Any]:
        """For a WHERE."""
        if self.detector is not None:
            yield Result.detector == self.detector
        if self.camera is not None:
            yield Result.camera == self.camera
        if self.verdict is not None:
            yield Result.is_anomalous.is_(self.verdict == DEFECT)
        if self.label is not None:
            yield Result.label.is_(None) if self.label == "none" else Result.label == self.label
        if self.since is not None:
            yield Result.time >= self.since
        if self.until is not None:
            yield Result.time < self.until


class Store:
    """A database of results.

    Args:
        where: a file of SQLite, or the URL of any database that SQLAlchemy knows.
        keep_days: older results without a label are deleted. None keeps them.
        keep_gib: the oldest results without a label are deleted where images and maps take more.
    """

    def __init__(
        self, where: str, *, keep_days: float | None = None, keep_gib: float | None = None
    ) -> None:
        self.engine = _engine(where)
        self._keep_days, self._keep_gib = keep_days, keep_gib
        Base.metadata.create_all(self.engine)

    def session(self) -> Session:
        """A transaction, for a ``with``."""
        return Session(self.engine, expire_on_commit=False)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that is committed at the end."""
        with self.session() as session, session.begin():
            yield session

    def is_alive(self) -> bool:
        """Whether the database answers. Raises its error otherwise."""
        with self.session() as session:
            return session.execute(text("SELECT 1")).scalar_one() == 1

    def add(self, entries: Sequence[Entry]) -> list[Result]:
        """Write results and their images, all or none. They are on the disk when this returns.

        An entry whose key is there already, or came before in ``entries``, gives that result.
        """
        with self.engine.begin() as connection:
            return add(connection, entries)

    def with_keys(self, keys: Sequence[str]) -> dict[str, Result]:
        """The results of requests that came before, by their keys."""
        with self.engine.connect() as connection:
            return of_keys(connection, keys)

    def result(self, number: int) -> Result | None:
        """One result."""
        with self.session() as session:
            return session.get(Result, number)

    def page(
        self, filters: Filters, *, before: int | None = None, limit: int = 50
    ) -> tuple[list[Result], int]:
        """Results, the newest first, with an id below ``before``, and how many there are in all."""
        conditions = list(filters.conditions())
        asked = select(Result).where(*conditions).order_by(Result.id.desc()).limit(limit)
        if before is not None:
            asked = asked.where(Result.id < before)
        with self.session() as session:
            found = list(session.scalars(asked))
            count = select(func.count()).select_from(Result).where(*conditions)
            return found, session.execute(count).scalar_one()

    def neighbours(self, number: int, filters: Filters) -> tuple[int | None, int | None]:
        """The ids of the next newer and the next older result among those of the filters."""
        conditions = list(filters.conditions())
        newer = select(func.min(Result.id)).where(Result.id > number, *conditions)
        older = select(func.max(Result.id)).where(Result.id < number, *conditions)
        with self.session() as session:
            return session.execute(newer).scalar(), session.execute(older).scalar()

    def every(self, filters: Filters) -> Iterator[Result]:
        """All results of the filters, the oldest first, some at a time."""
        last = 0
        while True:
            asked = select(Result).where(Result.id > last, *filters.conditions())
            with self.session() as session:
                found = list(session.scalars(asked.order_by(Result.id).limit(500)))
            if not found:
                return
            last = found[-1].id
            yield from found

    def content(self, digest: str) -> tuple[bytes, str]:
        """The bytes of an image file and its format. LookupError where it is not kept."""
        with self.session() as session:
            asked = select(Picture.content, Picture.kind).where(Picture.digest == digest)
            row = session.execute(asked).one_or_none()
        if row is None:
            raise LookupError(f"there is no image {digest}")
        return row[0], row[1]

    def drawing(self, number: int) -> Drawing | None:
        """The map and the mask of a result."""
        with self.session() as session:
            return session.get(Drawing, number)

    def label(self, number: int, label: str | None) -> Result | None:
        """Label a result, or take its label away. None where there is no such result."""
        with self.writing() as session:
            result = session.get(Result, number, with_for_update=True)
            if result is not None and result.label != label:
                values = {"result": number, "before": result.label, "after": label}
                session.add(Labelling(**values, time=time.time()))
                result.label = label
        return result

    def undo(self) -> Result | None:
        """Take the last labelling back. None where there is none."""
        with self.writing() as session:
            last = session.scalars(
                select(Labelling).order_by(Labelling.id.desc()).limit(1)
            ).one_or_none()
            if last is None:
                return None
            result = session.get(Result, last.result, with_for_update=True)
            if result is not None:
                result.label = last.before
            session.delete(last)
        return result

    def versions(self, detector: str) -> list[Version]:
        """All files of a detector, the newest first."""
        with self.session() as session:
            asked = select(Version).where(Version.detector == detector)
            return list(session.scalars(asked.order_by(Version.id.desc())))

    def add_version(self, **values: Any) -> Version:
        """A file that is in use from now on. Arguments are columns of `Version`."""
        with self.writing() as session:
            named = Version.detector == values["detector"]
            session.execute(update(Version).where(named).values(is_active=False))
            version = Version(**values, time=time.time(), is_active=True)
            session.add(version)
        return version

    def activate(self, version: Version) -> None:
        """Use a file that was in use before."""
        with self.writing() as session:
            session.execute(
                update(Version)
                .where(Version.detector == version.detector)
                .values(is_active=Version.id == version.id)
            )

    def of_scale(self, detector: str, scale: int) -> list[tuple[float, str]]:
        """Scores and labels of the labelled images whose scores can be compared."""
        asked = (
            select(Result.score, Result.label)
            .join(Version, Version.id == Result.version)
            .where(Result.detector == detector, Version.scale == scale)
            .where(Result.label.is_not(None))
        )
        with self.session() as session:
            return [(score, label or "") for score, label in session.execute(asked)]

    def good_images(self, detector: str) -> list[str]:
        """Digests of the images labelled good, each once. None that is a defect elsewhere."""
        asked = select(Result.image).where(Result.detector == detector)
        with self.session() as session:
            bad = set(session.scalars(asked.where(Result.label == DEFECT)))
            good = session.scalars(asked.where(Result.label == GOOD).order_by(Result.id))
            return [digest for digest in dict.fromkeys(good) if digest not in bad]

    def recent(self, version: int, limit: int) -> list[Result]:
        """The last results of a version, the oldest first."""
        asked = select(Result).where(Result.version == version).order_by(Result.id.desc())
        with self.session() as session:
            return list(session.scalars(asked.limit(limit)))[::-1]

    def used(self) -> int:
        """Bytes of images and maps."""
        with self.session() as session:
            sums = (func.coalesce(func.sum(table.size), 0) for table in (Picture, Drawing))
            return sum(int(session.execute(select(one)).scalar_one()) for one in sums)

    def retain(self, seconds: float = 1.0) -> int:
        """Delete what is too old or too much, for so many seconds at most: answers wait meanwhile.

        Labelled results stay. Returns how many went. The next call goes on.
        """
        deleted, ends = 0, time.monotonic() + seconds
        if self._keep_days is not None:
            limit = time.time() - self._keep_days * DAY
            while time.monotonic() < ends and (gone := self._delete(Result.time < limit)):
                deleted += gone
        if self._keep_gib is not None:
            while time.monotonic() < ends and self.used() > self._keep_gib * GIB:
                if not (gone := self._delete()):
                    break
                deleted += gone
        if deleted and self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                cursor = connection.connection.cursor()
                # A page is freed with each step. Only a script is stepped to its end.
                cursor.executescript(f"PRAGMA incremental_vacuum({VACUUMED})")
        return deleted

    def _delete(self, *conditions: Any) -> int:
        with self.writing() as session:
            asked = select(Result.id, Result.image).where(Result.label.is_(None), *conditions)
            rows = list(session.execute(asked.order_by(Result.id).limit(AT_ONCE)))
            numbers, digests = [row[0] for row in rows], {row[1] for row in rows}
            for column in (Drawing.result, Labelling.result, Result.id):
                session.execute(delete(column.class_).where(column.in_(numbers)))
            used = set(session.scalars(select(Result.image).where(Result.image.in_(digests))))
            session.execute(delete(Picture).where(Picture.digest.in_(digests - used)))
        return len(rows)


def _engine(where: str) -> Engine:
    if "://" in where:
        engine = create_engine(where, pool_pre_ping=True)
    else:
        path = Path(where)
        if not path.resolve().parent.is_dir():
            raise FileNotFoundError(f"--store {where}: there is no folder {path.parent}")
        engine = create_engine(f"sqlite:///{path}")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    for pragma in (
        "page_size = 8192",  # before there is any table: images take fewer writes
        "auto_vacuum = INCREMENTAL",  # so, too
        "journal_mode = WAL",
        "synchronous = FULL",  # an answer survives a loss of power, too
        "foreign_keys = ON",
        "busy_timeout = 10000",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
