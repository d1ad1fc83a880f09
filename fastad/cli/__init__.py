"""The command line: ``fastad train``, ``check``, ``predict`` and the other commands below.

These files hold the options and the treatment of errors. The work is in `fastad.commands`, imported
by the command that needs it, so that ``fastad --help`` answers at once.
"""

import os
import sys
import warnings
from typing import NoReturn

from fastad.cli.application import app
from fastad.commands.interrupts import answered_interrupts
from fastad.commands.messages import reason, set_up_log
from fastad.commands.processors import end_with_agent, share_processors

# Each puts its commands into the application, in the order of the help.
# isort: off
from fastad.cli import train, scoring, choosing, thresholds, line, files, trying  # noqa: F401
# isort: on

__all__ = ["app", "main"]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a failure (one line on stderr), 2 wrong usage.

    3: an image is anomalous, or images have drifted, where that was asked for.
    4: all was done but for images that could not be read and --skip-bad passed over.
    """
    end_with_agent()
    share_processors()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    flags = set()
    for names in (("--traceback",), ("--quiet", "-q"), ("--verbose", "-v")):
        if any(name in arguments for name in names):
            flags.add(names[0])
            arguments = [a for a in arguments if a not in names]
    warnings.showwarning = _show_warning
    try:
        set_up_log(-1 if "--quiet" in flags else int("--verbose" in flags))
        with answered_interrupts():
            app(arguments, prog_name="fastad")
    except Exception as error:
        if "--traceback" in flags:
            raise
        is_alone = "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1"
        who = "" if is_alone else f"rank {os.environ['RANK']}: "
        print(f"error: {who}{reason(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"warning: {message}\n")  # at once: threads that read images warn, too
    sys.stderr.flush()
