"""Hooks of `mkdocs build`: what pages show of the code, and links to files outside docs/.

A line ``<!-- options: fastad.models.STPMConfig -->`` becomes a table of that dataclass's fields.
Their meanings come from its docstring. ``<!-- recipes -->`` becomes the models' training defaults,
``<!-- command: train -->`` the usage and the options of that command.
"""

import dataclasses
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fastad.cli import app
from fastad.models import MODELS
from fastad.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
OUTSIDE = "files"  # folder of the site with copies of what pages link to outside docs/
MARKER = re.compile(r"^<!-- (options|recipes|command)(?:: (\S+))? -->$", re.M)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)")


def options_table(config: type) -> str:
    """Fields of a config dataclass: name, default as written after ``--set NAME=``, meaning."""
    meanings = attributes(config)
    rows = [
        (f"`{field.name}`", f"`{written(default_of(field))}`", meanings[field.name])
        for field in dataclasses.fields(config)
    ]
    return table(("option", "default", "meaning"), rows)


def recipes_table() -> str:
    """What each stage of each model's training takes, where models differ."""
    names = ("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "momentum", "betas")
    names += ("weight_decay", "min_steps", "min_batches")
    names += ("pseudo_anomalies", "own_patches", "on_foreground")
    columns = []
    for model, kind in MODELS.items():
        config = TrainingConfig.for_model(kind)
        for stage in kind.stages:
            own = dataclasses.asdict(config.for_stage(kind, stage))
            unused = {"sgd": {"betas"}}.get(own["optimizer"], {"momentum"})
            if not stage.trains:
                unused = set(names) - {"batch_size"}
            if not stage.pseudo_anomalies:
                unused |= {"pseudo_anomalies", "own_patches", "on_foreground"}
            cells = {n: "" if n in unused else f"`{written(own[n])}`" for n in names}
            for step in stage.steps[1:]:
                rate = config.for_step(kind, stage, step).learning_rate
                cells["learning_rate"] += f", {step.name} `{written(rate)}`"
            title = f"`{model}`" + (f" `{stage.name}`" if len(kind.stages) > 1 else "")
            columns.append((title, cells))
    rows = [(f"`{name}`", *(cells[name] for _, cells in columns)) for name in names]
    return table(("option", *(title for title, _ in columns)), rows)


def command_section(name: str) -> str:
    """What a command does, how it is called, and a table of its arguments and options."""
    command = typer.main.get_command(app).commands[name]
    context = command.make_context(name, [], resilient_parsing=True)
    panels: dict[str, list[tuple[str, str, str]]] = {}
    arguments = []
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        title = getattr(parameter, "rich_help_panel", None)
        title = title or ("Arguments" if is_argument else "Options")
        record, meaning = parameter.get_help_record(context)
        option, _, value = record.partition(" ")
        arguments += [option] * is_argument
        values = value.strip("<>").removesuffix(" range").split("|")
        value = ", ".join(f"`{v}`" for v in values if v and not is_argument)
        # A record ends in what typer knows: "[default: 0; x>=0]", "[required]".
        meaning, facts = re.fullmatch(r"(.*?)(?:  \[([^\[\]]*)\])?", meaning, re.S).groups()
        default = re.search(r"default: ([^;]+)", facts or "")
        meaning = meaning.replace("\\[", "[") + (f" Default: `{default[1]}`." if default else "")
        limits = re.search(r"x[<>]=?\S+", facts or "")
        value += f", {limits[0]}" if limits else ""
        if not is_argument and "required" in (facts or ""):
            meaning += " Required."
        panels.setdefault(title, []).append((f"`{option}`", value, meaning))
    usage = " ".join(["fastad", name, "[OPTIONS]", *arguments])
    parts = [inspect.cleandoc(command.help), f"```text\n{usage}\n```"]
    for title, rows in panels.items():
        parts.append(f"**{title}**\n\n{table(('name', 'value', 'meaning'), rows)}")
    return "\n\n".join(parts)


def attributes(config: type) -> dict[str, str]:
    """The entries of a docstring's section "Attributes", by name."""
    section = re.search(r"^Attributes:\n((?:    .*\n|\n)+)", inspect.getdoc(config) + "\n", re.M)
    found = {}
    for names, meaning in re.findall(r"^    (\w[\w, ]*): (.*(?:\n     .*)*)", section[1], re.M):
        for name in names.split(", "):
            found[name] = " ".join(meaning.replace("``", "`").split())
    return found


def default_of(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def written(value: Any) -> str:
    """A value as it stands on the command line."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def generated(markdown: str) -> str:
    """A page with its markers replaced."""

    def made(marker: re.Match) -> str:
        kind, name = marker.groups()
        if kind == "recipes":
            return recipes_table()
        if kind == "command":
            return command_section(name)
        module, _, config = name.rpartition(".")
        return options_table(getattr(importlib.import_module(module), config))

    return MARKER.sub(made, markdown)


def linked(page: Path, markdown: str) -> Iterator[Path]:
    """Files of the repository outside docs/ that a page links to."""
    for target in LINK.findall(markdown):
        path = Path(os.path.normpath(page.parent / target))
        if path.is_file() and not path.is_relative_to(DOCS):
            yield path


def on_files(files: Any, config: Any) -> Any:
    """Copy what pages link to outside docs/ into the site."""
    from mkdocs.structure.files import File, InclusionLevel

    pages = [Path(file.abs_src_path) for file in files.documentation_pages()]
    while pages:
        page = pages.pop()
        for path in linked(page, page.read_text(encoding="utf-8")):
            uri = site_uri(path)
            if files.get_file_from_path(uri) is None:
                level = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=level))
                pages += [path] * (path.suffix == ".md")
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    uri = Path(page.file.src_uri)
    origin = ROOT / uri.relative_to(OUTSIDE) if uri.parts[0] == OUTSIDE else DOCS / uri

    def moved(link: re.Match) -> str:
        path = Path(os.path.normpath(origin.parent / link[1]))
        if not path.is_file():
            return link[1]  # mkdocs says that it is missing
        return Path(os.path.relpath(site_uri(path), uri.parent)).as_posix()

    return generated(LINK.sub(moved, markdown))


def site_uri(path: Path) -> str:
    inside = path.is_relative_to(DOCS)
    return (path.relative_to(DOCS) if inside else OUTSIDE / path.relative_to(ROOT)).as_posix()
