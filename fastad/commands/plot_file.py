"""A plot of a command as a file."""

from pathlib import Path

from matplotlib.figure import Figure

from fastad._files import write_atomically

SUFFIXES = (".png", ".svg", ".pdf")


def check_suffix(path: str) -> None:
    """ValueError where no picture can be written to a file of this name."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"a plot ends in {', '.join(SUFFIXES)}; got {path}")


def write_figure(path: str, figure: Figure) -> None:
    """Write in the format that the suffix says, atomically."""
    kind = Path(path).suffix.lower().lstrip(".")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150))
