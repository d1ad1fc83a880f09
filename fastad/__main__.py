"""``python -m fastad``: the command line."""

from fastad.cli import main

main()
