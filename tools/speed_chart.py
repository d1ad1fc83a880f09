"""Draws docs/images/speed.png, the bar chart in the README, from a record of bench/engines.py.

    python tools/speed_chart.py [--record FILE] [--output FILE]

Of each engine stands its fastest way that is as accurate as float32. The picture holds its own
numbers, as JSON under the key "Description" of the PNG file, so that a test can tell whether it is
that of the record.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

from engines_page import equally_accurate  # noqa: E402

RECORD = ROOT / "bench" / "results" / "engines_amd_epyc_zen_5.json"
PICTURE = ROOT / "docs" / "images" / "speed.png"
CELL = {"detector": "stpm", "height": 256, "width": 256, "batch": 1, "threads": 2}
ALWAYS = {  # competitors of their own bars
    "fastad, int16": "fastad, int16 (the default here)",
    "fastad, float32": "fastad, float32",
    "anomalib, float32": "anomalib's operations\nin plain PyTorch, float32",
}
ENGINES = {
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "torch.compile": "torch.compile",
    "eager": "eager PyTorch",
}
# The colours of docs/images/heatmaps.png: one dark card on light and dark pages.
PAPER, INK, FAINT, OURS, OTHERS = "#15181d", "#f0f2f5", "#a4acb8", "#7fd69a", "#7d8898"


def bars(record: dict[str, Any]) -> dict[str, float]:
    """Label -> median milliseconds of one image, ours first, anomalib's operations last."""
    row = next((row for row in record["speed"] if CELL.items() <= row.items()), None)
    if row is None:
        raise ValueError(f"the record has no cell {CELL}")
    equal = equally_accurate(record, "stpm")
    times = {name: time for name, time in row["median_ms"].items() if name in equal}
    labels = {name: label for name, label in ALWAYS.items() if name in times}
    for engine, label in ENGINES.items():
        if own := [name for name in times if name.startswith(f"{engine},")]:
            best = min(own, key=times.__getitem__)
            labels[best] = f"{label}, {best.partition(', ')[2]}"
    last = labels.pop("anomalib, float32", None)
    found = {label: round(times[name], 1) for name, label in labels.items()}
    return found if last is None else {**found, last: round(times["anomalib, float32"], 1)}


def draw(times: dict[str, float], machine: str) -> Figure:
    figure = Figure(
        figsize=(8, 4), facecolor=PAPER, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    )
    axes = figure.add_subplot(facecolor=PAPER)
    colours = [OURS if label.startswith("fastad") else OTHERS for label in times]
    drawn = axes.barh(list(times), list(times.values()), 0.66, color=colours)
    axes.bar_label(drawn, [f"{time:.1f} ms" for time in times.values()], padding=5, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.13)
    axes.set_xticks([])
    axes.tick_params(length=0, labelcolor=INK, labelsize=10.5)
    axes.spines[:].set_visible(False)
    title = f"STPM, one image of 256\N{MULTIPLICATION SIGN}256, on {machine}: shorter is faster"
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=12)
    note = "milliseconds from a uint8 image to score and map, medians, in turns, at equal accuracy"
    figure.supxlabel(note, x=0.02, ha="left", color=FAINT, fontsize=9)
    return figure


def write(record: Path, picture: Path) -> None:
    content = json.loads(record.read_text(encoding="utf-8"))
    times, machine = bars(content), f"{content['cores']} cores of an {content['processor']}"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(times, machine).savefig(picture, dpi=150, metadata={"Description": json.dumps(times)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    write(options.record, options.output)


if __name__ == "__main__":
    main()
