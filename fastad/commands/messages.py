"""What a command says on stderr. It imports no torch: ``fastad --help`` needs these lines, too."""

import logging

log = logging.getLogger("fastad")


def note(text: str) -> None:
    """A line for the reader, on stderr; not with --quiet."""
    log.info(text)


def reason(error: Exception) -> str:
    """The message on one line, without the number of an operating-system error."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def set_up_log(verbosity: int) -> None:
    """Messages of the package to stderr as plain lines; -1 for warnings only, 1 for details."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel({-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}[verbosity])


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return f"{prefix}{record.getMessage()}"
