"""Makes the shared test images importable, and gives a report on them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def report_images(tmp_path_factory):
    from report_data import write_images

    root = tmp_path_factory.mktemp("images")
    write_images(root)
    return root
