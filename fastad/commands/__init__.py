"""What the subcommands of the command line do, one module each, imported when it is called."""


class UsageError(ValueError):
    """An option of the command line is wrong, as against something found while working."""
