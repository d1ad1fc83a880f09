"""What the subcommands of the command line do, one module each, imported when it is called."""
