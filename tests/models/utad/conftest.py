"""What the tests of models share."""

import sys
from pathlib import Path

# The importlib import mode does not put the test folder on the path.
sys.path.insert(0, str(Path(__file__).parent))
