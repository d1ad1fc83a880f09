"""The command ``fastad``, also as ``python -m fastad``.

It imports the rest inside, so that Ctrl-C ends it with one line from the very beginning.
"""

import sys
from typing import NoReturn

INTERRUPTED = 130  # 128 and the number of the signal, as a shell has it


def main() -> NoReturn:
    """Run the command line; see `fastad.cli.main`. 130: stopped before a command began."""
    try:
        from fastad.cli import main as run

        run()
    except KeyboardInterrupt:
        print("error: stopped by the user", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
