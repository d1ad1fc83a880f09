"""``fastad check``: what a detector finds of synthesised defects, without any real one."""

from pathlib import Path

from fastad.commands.check_page import Examples, page
from fastad.commands.output import (
    check_result_target,
    note,
    progress,
    refuse_overwriting,
    write_json,
    write_text,
)
from fastad.data import training_images
from fastad.detector import load
from fastad.evaluation import CheckResult, ExactShare


def check(
    detector: str,
    images: str,
    *,
    output: str | None,
    json: str | None,
    count: int,
    seed: int,
    false_positive_rate: float | None,
    device: str,
    precision: str,
    batch_size: int,
) -> None:
    """Try a detector, write JSON and a page where asked, print a table unless JSON went to stdout.

    Raises ValueError or OSError for images or a target that cannot be, before the model is read.
    """
    paths: list[str | Path] = [images]
    if not Path(images).is_file():
        found = training_images(images)
        paths = [*found.paths, *found.held_out]
    targets = [target for target in (output, json) if target not in (None, "-")]
    refuse_overwriting([Path(target) for target in targets], [Path(detector), *map(Path, paths)])
    for target in targets:
        check_result_target(target)
    loaded = load(detector, device=device, precision=precision, batch_size=batch_size)
    if false_positive_rate is not None:
        loaded.set_threshold(false_positive_rate=false_positive_rate)
    examples = Examples()
    with progress("trying") as show:
        result = loaded.check(
            paths, count=count, seed=seed, progress=show, observe=examples.observe
        )
    if json is not None:
        write_json(json, result.to_dict())
    if json != "-":
        show_result(result)
    if output is not None:
        title = f"{Path(detector).name} on {Path(images).resolve().name}"
        write_text(output, page(result, examples, title, loaded.pixel_threshold_))
        note(f"page: {output}")


def show_result(result: CheckResult) -> None:
    """Print a table of kinds and sizes, and what it comes to."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("found of tried")
    for column in (*result.by_size, "all", "image AUROC", "AUPRO"):
        table.add_column(column, justify="right")
    for kind, sizes in result.found.items():
        scores = result.per_kind.get(kind, {})
        cells = [_cell(share) for share in (*sizes.values(), result.by_kind[kind])]
        cells += [f"{scores[n]:.3f}" if n in scores else "-" for n in ("image_auroc", "aupro")]
        table.add_row(kind, *cells)
    everything = [_cell(share) for share in (*result.by_size.values(), result.total)]
    table.add_row("all", *everything, f"{result.image_auroc:.3f}", f"{result.aupro:.3f}")
    # A log has no width of its own, and must not cut the numbers off at 80 columns.
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.width = max(console.width, 120)
    console.print(table)
    console.print(f"found {_with_interval(result.total)}")
    limit = "" if result.promised is None else f"; promised: at most {result.promised:.1%}"
    console.print(f"false alarms {_with_interval(result.alarms)}{limit}")
    if result.disturbed:
        console.print(conditions_in_words(result))
    for text in result.notes:
        console.print(f"note: {text}")
    console.print(result.summary)


def conditions_in_words(result: CheckResult) -> str:
    """False alarms under other conditions, in a line like "false alarms by conditions: ..."."""
    shares = ", ".join(f"{name} {_cell(share)}" for name, share in result.disturbed.items())
    return f"false alarms by conditions: {shares}"


def _cell(share: ExactShare) -> str:
    return f"{share.hits}/{share.total}" if share.total else "-"


def _with_interval(share: ExactShare) -> str:
    rate, interval = share.rate, share.interval
    if rate is None or interval is None:
        return "-"
    low, high = interval
    return f"{share.hits} of {share.total}: {rate:.1%}, 95% interval {low:.1%} to {high:.1%}"
