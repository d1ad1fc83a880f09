"""The tables of a store."""

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Of all tables."""


class Picture(Base):
    """The bytes of an image file, once however often the image came."""

    __tablename__ = "images"
    digest: Mapped[str] = mapped_column(primary_key=True)  # SHA-256
    size: Mapped[int] = mapped_column(index=True)  # bytes, summed without a look at the images
    kind: Mapped[str]  # the format by its content, such as "PNG"
    content: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)


class Version(Base):
    """A file of a detector: the one given, or one that a calibration or a threshold made."""

    __tablename__ = "versions"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    detector: Mapped[str] = mapped_column(index=True)
    path: Mapped[str]
    digest: Mapped[str]  # of the file
    time: Mapped[float]  # seconds since 1970, UTC, as all times here
    note: Mapped[str]
    scale: Mapped[int]  # scores of versions with the same number can be compared
    parent: Mapped[int | None]
    is_active: Mapped[bool]


class Result(Base):
    """What a detector said of an image."""

    __tablename__ = "results"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[float] = mapped_column(index=True)
    detector: Mapped[str] = mapped_column(index=True)
    version: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    image: Mapped[str] = mapped_column(ForeignKey("images.digest"), index=True)
    camera: Mapped[str]
    name: Mapped[str]
    key: Mapped[str | None] = mapped_column(unique=True)  # of the request, if it gave one
    score: Mapped[float]
    p_value: Mapped[float | None]
    is_anomalous: Mapped[bool | None]
    threshold: Mapped[float | None]
    input: Mapped[str]
    height: Mapped[int]
    width: Mapped[int]
    regions: Mapped[list] = mapped_column(JSON)
    appearance: Mapped[list] = mapped_column(JSON)
    label: Mapped[str | None] = mapped_column(index=True)

    __table_args__ = (Index("ix_results_version_id", "version", "id"),)


class Drawing(Base):
    """The anomaly map of a result and its mask, as grey PNG files."""

    __tablename__ = "maps"
    result: Mapped[int] = mapped_column(
        ForeignKey("results.id", ondelete="CASCADE"), primary_key=True
    )
    size: Mapped[int] = mapped_column(index=True)  # bytes of both
    anomaly_map: Mapped[bytes] = mapped_column(LargeBinary)
    mask: Mapped[bytes | None] = mapped_column(LargeBinary)


class Labelling(Base):
    """One act of labelling, so that it can be undone."""

    __tablename__ = "labels"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    result: Mapped[int] = mapped_column(ForeignKey("results.id", ondelete="CASCADE"), index=True)
    time: Mapped[float]
    before: Mapped[str | None]
    after: Mapped[str | None]
