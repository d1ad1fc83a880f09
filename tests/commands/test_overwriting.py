"""No command replaces a file that it reads."""

from pathlib import Path

import pytest

from fastad.commands.output import refuse_overwriting


def test_an_input_is_not_overwritten(tmp_path):
    image = tmp_path / "folder" / "image.png"
    same = tmp_path / "folder" / ".." / "folder" / "image.png"
    refuse_overwriting([tmp_path / "other.png"], [image])
    with pytest.raises(ValueError, match=r"image\.png is one of the inputs"):
        refuse_overwriting([Path(same)], [image])
