"""The galleries of a report as HTML: image, anomaly map, and outlines, enlarged on a click.

Enlarging needs no script: the link of a picture leads to its own figure, which then fills the
window.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from fastad.evaluation.report.gallery import Group
from fastad.evaluation.report.pictures import UNITS


@dataclass(frozen=True)
class Figure:
    """One image of a gallery.

    Attributes:
        number: its place in the report, from 1.
        image, anomaly_map: the files, relative to the page.
        explanations: the files of what the model shows of the image, by name.
        size, map_size: (height, width) of them.
        predicted, truth: outlines as SVG path data, in the map's pixels; empty for none.
        has_truth: whether there is a ground truth at all.
        score: of the image.
        name: of its file, below the folder of all test images.
    """

    number: int
    image: str
    anomaly_map: str
    size: tuple[int, int]
    map_size: tuple[int, int]
    predicted: str
    truth: str
    has_truth: bool
    score: float
    name: str
    explanations: Mapping[str, str] = field(default_factory=dict)


def plain(text: object) -> str:
    """Any text as HTML; file names may hold markup, quotes, and bytes that are no text."""
    return escape(str(text).encode("utf-8", "backslashreplace").decode("utf-8"))


def gallery(
    group: Group, figures: list[Figure], threshold: float | None, scale: float, last: int
) -> str:
    """A heading and the figures of a group.

    scale: map value of the brightest colour; last: the number of figures in the report.
    """
    heading, remark = _heading(group, threshold)
    if group.total > len(figures):
        remark += f" {len(figures)} of {group.total} are shown."
    cards = "".join(_card(figure, group, threshold, scale, last) for figure in figures)
    return f"""
<h3 id="{group_id(group)}">{heading} <span class="count">{group.total}</span></h3>
<p class="remark">{remark}</p>
<div class="cards">{cards}</div>"""


def group_id(group: Group) -> str:
    """Name of a gallery in links; types are named by people, and may hold anything."""
    name = group.name.encode("utf-8", "surrogatepass").hex()
    return f"{group.kind.replace(' ', '-')}-{name}" if name else group.kind.replace(" ", "-")


def _heading(group: Group, threshold: float | None) -> tuple[str, str]:
    name = plain(group.name)
    if group.kind == "missed":
        return "Missed defects", "Defective, but not above the threshold. Lowest score first."
    if group.kind == "false alarm":
        return "False alarms", "Good, but above the threshold. Highest score first."
    decided = "" if threshold is None else (", found" if group.kind == "defect" else ", passed")
    order = "Lowest" if group.kind == "defect" else "Highest"
    return f"{name}{decided}", f"{order} score first: the closest calls."


def _card(figure: Figure, group: Group, threshold: float | None, scale: float, last: int) -> str:
    number, name = figure.number, plain(figure.name)
    height, width = figure.size
    shape = "wide" if width > 1.8 * height else "tall" if height > 1.8 * width else ""
    kind = {"missed": "missed defect", "defect": "defect"}.get(group.kind, group.kind)
    relative = ""
    if threshold is not None and threshold > 0:
        relative = f'<span class="relative">{figure.score / threshold:.2f} &times; threshold</span>'
    mark = " wrong" if group.kind in ("missed", "false alarm") else ""
    missing = "" if figure.has_truth else '<span class="relative">no ground truth</span>'
    image = f'<img src="{figure.image}" width="{width}" height="{height}"'
    explained = "".join(
        f'<span class="panel"><img src="{file}" width="{width}" height="{height}" '
        f'alt="{plain(what)}"><small>{plain(what)}</small></span>'
        for what, file in figure.explanations.items()
    )
    return f"""
<div class="slot" id="slot-{number}"><figure id="picture-{number}" class="{shape}" \
style="--ratio:{width / height:.4f}">
<a class="open" href="#picture-{number}" title="Enlarge">
<span class="panel">{image} alt="{kind}, {name}"><small>image</small></span>{explained}
<span class="panel"><img src="{figure.anomaly_map}" width="{width}" height="{height}" \
alt="anomaly map"><small>anomaly map, colours from 0 to {scale:.3g}</small></span>
<span class="panel"><span class="stack">{image} alt="">{_outlines(figure)}</span>
<small>outlines: ground truth dashed blue, prediction orange</small></span></a>
<figcaption class="{mark.strip()}"><b>{figure.score:.4g}</b>{relative}{missing}
<span class="name" title="{name}">{name}</span></figcaption>
<p class="steps"><a class="previous" href="#picture-{max(1, number - 1)}">Previous</a>
<a class="next" href="#picture-{min(last, number + 1)}">Next</a>
<a class="close" href="#slot-{number}">Close</a></p>
</figure></div>"""


def _outlines(figure: Figure) -> str:
    """Both outlines over the image, each on a dark seam that sets it off from any ground."""
    height, width = figure.map_size
    drawn = {"predicted": figure.predicted, "truth": figure.truth}
    names = {kind: f"{kind}-{figure.number}" for kind, path in drawn.items() if path}
    paths = "".join(
        f'<path id="{name}" d="{drawn[kind]}" vector-effect="non-scaling-stroke"/>'
        for kind, name in names.items()
    )
    seams = "".join(f'<use href="#{name}" class="seam"/>' for name in names.values())
    lines = "".join(f'<use href="#{name}" class="{kind}"/>' for kind, name in names.items())
    box = f"0 0 {width * UNITS} {height * UNITS}"
    return (
        f'<svg viewBox="{box}" preserveAspectRatio="none" aria-hidden="true">'
        f"<defs>{paths}</defs>{seams}{lines}</svg>"
    )
