"""What ``fastad predict`` makes of its rows: parts joined in order, files, a summary."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastad.commands.output import log
from fastad.inference.guard import OK, UNKNOWN
from fastad.inference.predictor import MANY

LOWEST = 3  # images that a summary names
NAMED = 20  # unreadable images in the last line; each has a line of its own before


@dataclass
class Inspected:
    """What is known of some images, in their order. It goes through JSON without a change.

    Attributes:
        rows: of each image, those that cannot be read, too.
        regions: of each image what JSON lists, None where nothing is known.
        region_rows: of the table of regions.
        unreadable: paths.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    regions: list[list[dict[str, Any]] | None] = field(default_factory=list)
    region_rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write a part."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    @classmethod
    def joined(cls, paths: Iterable[Path]) -> "Inspected":
        """The parts, one after the other."""
        every = cls()
        for path in paths:
            for name, values in json.loads(path.read_text(encoding="utf-8")).items():
                getattr(every, name).extend(values)
        return every


def say_unlike(rows: list[dict[str, Any]], strict: bool) -> None:
    """Warn of images that are unlike those of the training."""
    found = Counter(row["input"] for row in rows if row["input"] not in (OK, UNKNOWN))
    if found:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
        judged = "called anomalous" if strict else "--strict calls these anomalous"
        log.warning(
            f"{found.total()} of {len(rows)} images are unlike the good images of the training "
            f"({kinds}; {judged}): their scores mean little"
        )


def say_unreadable(unreadable: list[str], count: int, skip_bad: bool) -> None:
    """Raise RuntimeError for images that were not inspected; a warning where they may be."""
    if len(unreadable) == count:
        raise RuntimeError(f"none of the {count} images can be read")
    if not unreadable:
        return
    text = f"{len(unreadable)} of {count} images cannot be read and were not inspected"
    if not skip_bad:
        names = ", ".join(unreadable[:NAMED]) + ", ..." * (len(unreadable) > NAMED)
        raise RuntimeError(f"{text}; the results of the others are written: {names}")
    log.warning(text)


def summary(
    rows: list[dict[str, Any]], unreadable: int, seconds: float, names: Mapping[Path, Path]
) -> list[str]:
    """How many images were inspected, and which are the least normal. Nothing of no images."""
    if not rows:
        return []
    facts = [counted(len(rows), "image")]
    decisions = [row["is_anomalous"] for row in rows]
    facts.append("none judged" if None in decisions else f"{sum(decisions)} anomalous")
    if unreadable:
        facts.append(f"{unreadable} unreadable")
    if len(rows) < MANY:  # of more the predictor has said it
        facts.append(f"{len(rows) / max(seconds, 1e-9):.3g} images/s")
    has_p_values = all(row["p_value"] is not None for row in rows)
    # Scores of several detectors have no common scale.
    by_p_value = has_p_values and len({row.get("detector") for row in rows}) > 1
    first = sorted(rows, key=lambda row: (by_p_value and row["p_value"], -row["score"]))[:LOWEST]
    kind = "p_value" if has_p_values else "score"
    least = ", ".join(f"{names[Path(row['path'])]} {row[kind]:.3g}" for row in first)
    return [", ".join(facts), f"{'lowest p-values' if has_p_values else 'highest scores'}: {least}"]


def counted(count: int, what: str) -> str:
    """Like "3 images"."""
    return f"{count} {what}{'s' * (count != 1)}"
