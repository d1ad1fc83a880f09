"""What "auto" came to is what a resumed training goes on with."""

from fastad.training import TrainingRecord, settled_options

IDENTITY = {
    "model": "rstpm",
    "model option teacher1": "resnet18",
    "model option teacher2": "resnet50_caffe",
    "model option bottleneck": "learned",
    "model option teacher_weights": "auto",
    "model option teacher2_weights": "/mine/resnet50_caffe.pth",
}


def test_names_are_taken_over():
    assert settled_options(IDENTITY, "rstpm", {}) == {
        "teacher1": "resnet18",
        "teacher2": "resnet50_caffe",
        "bottleneck": "learned",
    }
    auto = {"teacher2": "auto", "bottleneck": "auto", "teacher_weights": "auto"}
    assert settled_options(IDENTITY, "rstpm", auto) == settled_options(IDENTITY, "rstpm", {})


def test_what_is_given_is_left_to_be_compared():
    given = {
        "teacher1": "resnet34",
        "teacher2": "resnet18",
        "bottleneck": "layer4",
        "teacher_weights": None,
    }
    assert settled_options(IDENTITY, "rstpm", given) == {}


def test_of_sources_only_the_embedded_teacher_is_taken_over():
    embedded = {**IDENTITY, "model option teacher_weights": "embedded"}
    assert settled_options(embedded, "rstpm", {})["teacher_weights"] == "embedded"
    assert "teacher_weights" not in settled_options(embedded, "rstpm", {"teacher_weights": "x.pth"})


def test_another_model_has_other_options():
    assert settled_options(IDENTITY, "stpm", {}) == {}
    assert settled_options({}, "stpm", {}) == {}


def test_a_record_written_before_there_were_origins_is_read():
    content = TrainingRecord("stpm", {}, 0, "cpu", "float32", {}, 1, 2, 0, []).to_dict()
    assert content.pop("teachers") == {}
    assert TrainingRecord.from_dict(content).teachers == {}
