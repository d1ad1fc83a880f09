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


def test_two_results_are_not_written_to_one_file(tmp_path):
    same = tmp_path / "a" / ".." / "r.csv"
    with pytest.raises(ValueError, match=r"r\.csv is named for two results"):
        refuse_overwriting([tmp_path / "r.csv", same], [])


def test_a_detector_replaces_detectors_alone(fastad, detector, tmp_path):
    copy, text = tmp_path / "copy.fastad", tmp_path / "note.txt"
    copy.write_bytes(detector.read_bytes())
    text.write_text("keep me")
    code, _, err = fastad("threshold", detector, "--rate", 0.5, "--output", copy)
    assert code == 0, err
    code, _, err = fastad("threshold", detector, "--rate", 0.5, "--output", text)
    assert code == 1
    assert "note.txt exists and is no detector" in err
    assert text.read_text() == "keep me"


def test_results_do_not_replace_a_detector(fastad, detector, tmp_path):
    copy = tmp_path / "copy.fastad"
    copy.write_bytes(detector.read_bytes())
    for option in ("--csv", "--json"):
        code, _, err = fastad("predict", detector, tmp_path, option, copy)
        assert code == 1
        assert "copy.fastad is a detector" in err
        assert copy.read_bytes() == detector.read_bytes()
