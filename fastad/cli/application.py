"""What all commands have in common: the application, its flags and exit codes."""

from typing import Annotated, Any

import typer
import typer.core

import fastad

# Exit codes beside 1, a failure, and 2, wrong usage.
ANOMALOUS = 3  # an image is anomalous: of --fail-on-anomaly
DRIFTED = 3  # images are no longer like the calibration's: of drift
NOT_INSPECTED = 4  # images were passed over, as --skip-bad allows


class Commands(typer.core.TyperGroup):
    """Ctrl-C in any command is a failure with one line, as others are."""

    def invoke(self, *arguments: Any) -> Any:
        try:
            return super().invoke(*arguments)
        except KeyboardInterrupt:
            raise RuntimeError("stopped by the user") from None


class Command(typer.core.TyperCommand):
    """Says what a mistyped option was meant to be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # Of typer's own copy of click in newer versions, of click in older ones.
            if type(error).__name__ != "NoSuchOption":
                raise
            from fastad.commands.suggestions import hint

            names = [name for parameter in self.params for name in parameter.opts]
            error.message += hint(error.option_name, names, self.settings())  # type: ignore[attr-defined]
            error.possibilities = None  # type: ignore[attr-defined]
            raise

    def settings(self) -> list[str]:
        """Keys of the command's ``--set``, if it has one."""
        return []


app = typer.Typer(
    name="fastad",
    cls=Commands,
    help="Detect visual anomalies with student-teacher networks trained on good images only.",
    epilog="Every command takes --quiet (warnings and errors only), --verbose (details), and "
    "--traceback (where an error came from).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastad {fastad.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Write only warnings and errors to stderr.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Write details to stderr.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    # `main` takes these flags out, wherever they stand; they are declared to appear in the help.
    pass
