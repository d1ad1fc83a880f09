"""What follows from the records of `engines.py`: the floors, and docs/engines.md."""

import json
from pathlib import Path
from typing import Any

from fastad import _files

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "engines.md"
BEGIN, END = "<!-- made by bench/engines.py -->", "<!-- end -->"

MOST_LOST = 0.001  # of image AUROC, on any set: more is no equal accuracy
STAYS = 1.3  # times as long as ours that the best other engine takes, for ours to be worth its code
# Times as fast as ResNet-18 in the same precision. At one rate of products it can be 1.8 times, in
# int16 1.6 times (csrc/convolution/separable.cpp).
LITE_FASTER = {"fastad, float32": 1.4, "fastad, bfloat16": 1.3, "fastad, int16": 1.0}
NETWORKS = {
    "stpm": "STPM, ResNet-18",
    "stpm, lite0": "STPM, EfficientNet-Lite0",
    "rstpm": "RSTPM, ResNet-18 and ResNet-50",
}
TIMES = "\N{MULTIPLICATION SIGN}"
ROWS = ("fastad", "openvino", "onnxruntime", "torch.compile", "eager", "anomalib")


def is_ours(name: str) -> bool:
    return name.startswith("fastad,")


def is_8_bit(name: str) -> bool:
    return name.endswith(" int8")


def equally_accurate(record: dict[str, Any], detector: str) -> set[str]:
    """The competitors that lose nothing on any set that was measured.

    8-bit ones have to be measured. Others count where they are not.
    """
    cells = [cell for cell in record["accuracy"] if cell["detector"] == detector]
    rows = [row for row in record["speed"] if row["detector"] == detector]
    names = {name for row in rows for name in row["median_ms"]}
    found = {name for name in names if cells or not is_8_bit(name)}
    for cell in cells:
        exact = cell["engines"]["eager, float32"]["image_auroc"]
        for name, measured in cell["engines"].items():
            if exact - measured["image_auroc"] > MOST_LOST + 1e-9:
                found.discard(name)
    return found


def leads(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each cell of the times the fastest of ours and of the others, at equal accuracy."""
    found = []
    for row in record["speed"]:
        equal = equally_accurate(record, row["detector"])
        times = {name: time for name, time in row["median_ms"].items() if name in equal}
        ours = min((name for name in times if is_ours(name)), key=times.__getitem__)
        others = [name for name in times if not is_ours(name)]
        best = min(others, key=times.__getitem__)
        cell = {name: row[name] for name in ("detector", "height", "width", "batch", "threads")}
        lead = round(times[best] / times[ours], 2)
        found.append({**cell, "ours": ours, "best": best, "lead": lead})
    return found


def lite_gains(record: dict[str, Any]) -> list[dict[str, Any]]:
    """How many times as fast STPM is with EfficientNet-Lite0 as with ResNet-18, ours."""
    keys = ("height", "width", "batch", "threads")
    residual = {tuple(r[k] for k in keys): r for r in record["speed"] if r["detector"] == "stpm"}
    found = []
    for row in record["speed"]:
        other = residual.get(tuple(row[k] for k in keys))
        if row["detector"] != "stpm, lite0" or other is None:
            continue
        for name in filter(is_ours, row["median_ms"]):
            gain = round(other["median_ms"][name] / row["median_ms"][name], 2)
            found.append({**{k: row[k] for k in keys}, "precision": name, "gain": gain})
    return found


def missed(record: dict[str, Any]) -> list[str]:
    """Which floors a record falls short of."""
    found = []
    for cell in leads(record):
        if cell["detector"] == "stpm" and cell["lead"] < STAYS:
            found.append(
                f"{_work(cell)}: {cell['best']} takes {cell['lead']} times as long as "
                f"{cell['ours']}, below {STAYS}"
            )
    for row in record["speed"]:
        if (
            row["detector"] == "stpm, lite0"
        ):  # another engine is as fast: `lite_gains` has its floors
            continue
        ours = row["median_ms"]["fastad, float32"]
        for name, time in row["median_ms"].items():
            if name.endswith("float32") and not is_ours(name) and time < ours:
                found.append(f"{_work(row)}: {name} is faster than fastad in float32")
    for gain in lite_gains(record):
        least = LITE_FASTER[gain["precision"]]
        if gain["gain"] < least:
            found.append(
                f"EfficientNet-Lite0, {_shape(gain)}, {gain['precision']}: {gain['gain']} times "
                f"as fast as ResNet-18, below {least}"
            )
    return found


def _shape(cell: dict[str, Any]) -> str:
    images = "one image" if cell["batch"] == 1 else f"{cell['batch']} images"
    threads = "1 thread" if cell["threads"] == 1 else f"{cell['threads']} threads"
    return f"{images} of {cell['height']}x{cell['width']}, {threads}"


def _work(cell: dict[str, Any]) -> str:
    return f"{NETWORKS[cell['detector']]}, {_shape(cell)}"


def tables(record: dict[str, Any], path: Path) -> str:
    """The section of one processor."""
    units = ", ".join(record["units"]) or "no vector units that count here"
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    parts = [
        f"## {record['processor']}",
        f"{record['cores']} cores, with {units}. {versions} "
        f"([record](../bench/results/{path.name})).",
    ]
    for detector, title in NETWORKS.items():
        rows = [row for row in record["speed"] if row["detector"] == detector]
        if rows:
            parts += [f"### {title}", _table(record, detector, rows)]
    if gains := lite_gains(record):
        parts += ["### EfficientNet-Lite0 against ResNet-18", _gains(gains)]
    parts += ["### Which engine serves", _decision(record)]
    return "\n\n".join(parts)


def _table(record: dict[str, Any], detector: str, rows: list[dict[str, Any]]) -> str:
    names = sorted(
        {name for row in rows for name in row["median_ms"]},
        key=lambda name: (ROWS.index(name.partition(",")[0]), name),
    )
    first = next(name for name in ("fastad, int16", "fastad, float32") if name in names)
    names = [first, *(name for name in names if name != first)]
    accuracy = [cell for cell in record["accuracy"] if cell["detector"] == detector]
    heads = [_shape(row) for row in rows]
    if accuracy:
        heads += ["largest change of a score", *(f"AUROC, {cell['set']}" for cell in accuracy)]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = []
        for row in rows:
            times = row["median_ms"]
            if name not in times:
                cells.append("")
            elif name == first:
                cells.append(f"**{times[name] / row['batch']:.1f} ms** an image")
            else:
                cells.append(f"{times[name] / times[first]:.2f} {TIMES}")
        if accuracy:
            measured = [cell["engines"].get(name) for cell in accuracy]
            known = [one["score_difference"] for one in measured if one is not None]
            cells.append(f"{max(known):.0e}" if known else "")
            cells += ["" if one is None else f"{one['image_auroc']:.3f}" for one in measured]
        label = f"**{name}**" if name == first else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gains(gains: list[dict[str, Any]]) -> str:
    names = sorted({gain["precision"] for gain in gains})
    lines = ["| STPM, times as fast | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for work in dict.fromkeys(map(_shape, gains)):
        own = {gain["precision"]: gain["gain"] for gain in gains if _shape(gain) == work}
        cells = [f"{own[name]:.2f}" if name in own else "" for name in names]
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _decision(record: dict[str, Any]) -> str:
    lines = [
        "| detector | our fastest | best other engine at equal accuracy | it takes | so |",
        "|---|---|---|---|---|",
    ]
    found = leads(record)
    for detector, title in NETWORKS.items():
        own = [cell for cell in found if cell["detector"] == detector]
        if not own:
            continue
        least, most = min(c["lead"] for c in own), max(c["lead"] for c in own)
        so = "`native` stays" if least >= STAYS else "`native`, or `auto` where it measures faster"
        ours, best = (", ".join(sorted({c[key] for c in own})) for key in ("ours", "best"))
        lines.append(f"| {title} | {ours} | {best} | {least} to {most} times as long | {so} |")
    return "\n".join(lines)


def write_page() -> None:
    """docs/engines.md again, from all records."""
    sections = []
    for path in sorted(RESULTS.glob("engines_*.json")):
        sections.append(tables(json.loads(path.read_text(encoding="utf-8")), path))
    made = "\n\n".join(sections) or "No machine is recorded yet."
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"
    _files.write_atomically(PAGE, lambda place: place.write_text(text, encoding="utf-8"))
