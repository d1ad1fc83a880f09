"""Lets the tests import the tools, which are no part of the installed package."""

import sys
from pathlib import Path

# At the end: what is installed, or first on the path, is what is tested.
sys.path.append(str(Path(__file__).parents[3]))
