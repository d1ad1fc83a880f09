"""The subcommands of the command line: a module for each, which `fastad.cli` calls."""


class UsageError(ValueError):
    """An option of the command line is wrong, as against something found while working."""


class StoppedError(RuntimeError):
    """The user stopped the work, as against something that failed in it."""
