"""Draws docs/images/speed.png, the bar chart in the README, from a record of bench/serving.py.

    python tools/speed_chart.py [--record FILE] [--output FILE]

The picture holds its own numbers, as JSON under the key "Description" of the PNG file, so that a
test can tell whether it is that of the record.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "bench" / "results" / "serving_epyc_turin_2threads.json"
PICTURE = ROOT / "docs" / "images" / "speed.png"
WORK = "stpm, tensor to score and map"
MACHINE = "two cores of an AMD EPYC (Zen 5)"  # the record knows "AMD EPYC" and the threads alone
BARS = {  # of the record's candidates; AUTO and HALF are what the record says that they were
    "fastad": "fastad, AUTO (the default here)",
    "float32": "fastad, float32",
    "bfloat16": "fastad, HALF",
    "torch.compile": "torch.compile, HALF",
    "unfused": "PyTorch's convolutions, HALF",
    "peer": "anomalib's operations\nin plain PyTorch, float32",
}
# The colours of docs/images/heatmaps.png: one dark card on light and dark pages.
PAPER, INK, FAINT, OURS, OTHERS = "#15181d", "#f0f2f5", "#a4acb8", "#7fd69a", "#7d8898"


def bars(record: dict[str, Any]) -> dict[str, float]:
    """Label -> median milliseconds of one image.

    The record has the median rate of fastad, and how many times as long each other takes.
    """
    (row,) = (r for r in record["rows"] if r["work"] == WORK and r["batch_size"] == 1)
    own = 1e3 / row["images_per_second"]
    half = "bfloat16" if record["bfloat16_units"] else "float32"
    found = {}
    for name, label in BARS.items():
        ratio = 1.0 if name == "fastad" else row[name]["ratio"]
        found[label.replace("AUTO", record["auto"]).replace("HALF", half)] = round(own * ratio, 1)
    return found


def draw(times: dict[str, float]) -> Figure:
    figure = Figure(
        figsize=(8, 3.5), facecolor=PAPER, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
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
    title = f"STPM, one image of 256\N{MULTIPLICATION SIGN}256, on {MACHINE}: shorter is faster"
    figure.suptitle(title, x=0.02, ha="left", color=INK, fontsize=12)
    note = "milliseconds from tensor to score and map, medians, all in turns in one process"
    figure.supxlabel(note, x=0.02, ha="left", color=FAINT, fontsize=9)
    return figure


def write(record: Path, picture: Path) -> None:
    times = bars(json.loads(record.read_text(encoding="utf-8")))
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(times).savefig(picture, dpi=150, metadata={"Description": json.dumps(times)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    write(options.record, options.output)


if __name__ == "__main__":
    main()
