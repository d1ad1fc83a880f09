"""For ``pytest --doctest-modules fastad``: examples write their files to a temporary folder."""

import pytest


@pytest.fixture(autouse=True)
def examples_write_to_a_temporary_folder(request):
    if isinstance(request.node, pytest.DoctestItem):
        folder = request.getfixturevalue("tmp_path")
        request.getfixturevalue("monkeypatch").chdir(folder)
