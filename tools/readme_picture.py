"""Draws docs/images/heatmaps.png, the heat maps in the README.

    python tools/readme_picture.py [--output FILE] [--epochs N]

The images are those of `fastad.data.rendered.products`, in MVTec layout in a temporary folder; the
rest is the command line of the package: train, evaluate, predict --heatmaps. The teacher's weights
come from FASTAD_WEIGHTS, torch.hub's cache, or a download. A few minutes on two CPU cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works from a checkout, without installing

from fastad.cli import main as command_line  # noqa: E402
from fastad.data.rendered.products import PRODUCTS, Counts, write_dataset  # noqa: E402

SHOWN = ("flange", "blister")
COUNTS = Counts(train=40, test_good=16, test_defect=6)
CELL, GAP, LEFT, TOP, BELOW = 140, 6, 44, 34, 94  # pixels of the picture
HELD_OUT = 0.25  # of the good images
PAPER, INK, FAINT, RED, GREEN = "#15181d", "#f0f2f5", "#a4acb8", "#ff8b78", "#7fd69a"


def fastad(*arguments: object) -> None:
    try:
        command_line(list(map(str, arguments)))
    except SystemExit as stop:
        if stop.code:
            raise


def detect(folder: Path, epochs: int) -> tuple[dict, dict]:
    """Train, evaluate, draw heat maps: the JSON of `fastad evaluate` and `fastad predict`."""
    detector, metrics, scores = (folder / n for n in ("d.fastad", "metrics.json", "scores.json"))
    split = ("--set", f"validation_fraction={HELD_OUT}", "--false-positive-rate", 0.1)
    weights = ("--teacher-weights", "auto", "--batch-size", 4, "--epochs", epochs)
    fastad("train", folder, "--model", "stpm", "--output", detector, *weights, *split)
    fastad("evaluate", detector, folder, "--json", metrics)
    target = ("--heatmaps", "--output", folder / "maps", "--json", scores)
    fastad("predict", detector, folder / "test", *target)
    return json.loads(metrics.read_text()), json.loads(scores.read_text())


def compose(data: Path, results: dict[str, tuple[dict, dict]]) -> Image.Image:
    """One column for each kind of test image, for the one that has the median score."""
    columns = [(p, kind) for p in SHOWN for kind in ("good", *PRODUCTS[p].defects)]
    width = LEFT + len(columns) * (CELL + GAP) + 2 * GAP
    picture = Image.new("RGB", (width, TOP + 3 * (CELL + GAP) + BELOW), PAPER)
    draw, font, small = ImageDraw.Draw(picture), *map(ImageFont.load_default, (15, 13))
    for row, text in enumerate(("image", "ground truth", "heat map")):
        label = Image.new("RGB", (CELL, LEFT), PAPER)
        middle = (CELL // 2, LEFT // 2)
        ImageDraw.Draw(label).text(middle, text, FAINT, font, "mm")
        picture.paste(label.rotate(90, expand=True), (0, TOP + row * (CELL + GAP)))
    for n, (product, kind) in enumerate(columns):
        folder, (metrics, scores) = data / product, results[product]
        second = product != columns[0][0]
        x = LEFT + n * (CELL + GAP) + second * GAP
        if kind == "good":
            rates = metrics["at_threshold"]
            title = f"{product}: AUROC image {metrics['image_auroc']:.3f}, pixel "
            title += f"{metrics['pixel_auroc']:.3f}; threshold {scores['threshold']:#.2g}: "
            title += f"{rates['true_positive_rate']:.0%} found, "
            title += f"{rates['false_positive_rate']:.0%} false alarms"
            draw.text((x, TOP // 2), title, INK, small, "lm")
        of_kind = [s for s in scores["images"] if Path(s["path"]).parent.name == kind]
        shown = sorted(of_kind, key=lambda s: s["score"])[len(of_kind) // 2]
        name = Path(shown["path"]).stem
        image = Image.open(folder / "test" / kind / f"{name}.png")
        mask = Image.new("L", image.size)
        if kind != "good":
            mask = Image.open(folder / "ground_truth" / kind / f"{name}_mask.png")
        truth = image.convert("L").point(lambda grey: grey * 0.35).convert("RGB")
        truth.paste((255, 255, 255), mask=mask)
        heat_map = Image.open(folder / "maps" / kind / f"{name}.png")
        for row, cell in enumerate((image, truth, heat_map)):
            cell = cell.resize((CELL, CELL), Image.Resampling.LANCZOS)
            picture.paste(cell, (x, TOP + row * (CELL + GAP)))
        verdict = ("normal", GREEN), ("anomalous", RED)
        text, colour = verdict[shown["is_anomalous"]]
        y = TOP + 3 * (CELL + GAP) + 12
        draw.text((x + CELL // 2, y), kind, INK, font, "mm")
        draw.text((x + CELL // 2, y + 19), f"{shown['score']:#.2g}  {text}", colour, font, "mm")
    held_out = round(COUNTS.train * HELD_OUT)
    learnt = COUNTS.train - held_out
    text = (
        "The products are rendered, not photographed. Of each kind, the image with the median "
        f"score is shown.\nSTPM (ResNet-18) learnt from {learnt} good images of each "
        f"product; {held_out} more set the epoch and the threshold, the middle of the colour scale."
    )
    middle = (width // 2, picture.height - 26)
    draw.text(middle, text, FAINT, small, "mm", spacing=6, align="center")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "docs" / "images" / "heatmaps.png"
    parser.add_argument("--output", type=Path, default=default, metavar="FILE")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, results = Path(folder), {}
        for product in SHOWN:
            write_dataset(data / product, product, COUNTS)
            results[product] = detect(data / product, arguments.epochs)
        picture = compose(data, results)
    for product, (metrics, _) in results.items():
        print(product, *(f"{k} {metrics[k]:.4f}" for k in ("image_auroc", "pixel_auroc", "aupro")))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # Steps of 5 grey levels, invisible here, halve the file; a palette would lose rare colours.
    picture.point(lambda level: (level + 2) // 5 * 5).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
