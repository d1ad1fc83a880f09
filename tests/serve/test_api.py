"""The API: what is judged, kept, filtered, labelled, calibrated and exported."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import csv
import io
import threading
import zipfile

import numpy as np
import pytest

for name in ("fastapi", "sqlalchemy", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(name, reason="needs fastad[serve] and httpx")

from line_images import noise, png
from PIL import Image

import fastad
from fastad.serve.inspection import Busy, Given, Job
from fastad.serve.store import Filters, Store

API = "/api/v1"
RNG = np.random.default_rng(7)
GOODS = [png(noise(RNG)) for _ in range(30)]
BADS = [png(noise(RNG, has_defect=True)) for _ in range(3)]


def send(client, contents, **query):
    files = [("images", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]
    answer = client.post(f"{API}/predict", files=files, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def test_one_image_is_judged_as_the_detector_judges_it(serving, part):
    client, _ = serving()
    answer = client.post(f"{API}/predict", content=BADS[0], headers={"Content-Type": "image/png"})
    [one] = answer.json()["results"]
    expected = fastad.load(part).predict([BADS[0]])[0]
    assert one["score"] == pytest.approx(expected.score, rel=1e-6)
    assert one["p_value"] == expected.p_value
    assert (one["verdict"] == "defect") == expected.is_anomalous
    assert one["size"] == [72, 64]
    assert len(one["regions"]) == len(expected.regions())
    assert client.get(one["links"]["self"]).json() == one
    assert client.get(one["links"]["image"]).content == BADS[0]
    assert client.get(one["links"]["image"]).headers["content-type"] == "image/png"
    mask = np.asarray(Image.open(io.BytesIO(client.get(one["links"]["mask"]).content)))
    np.testing.assert_array_equal(mask, expected.mask)
    heatmap = Image.open(io.BytesIO(client.get(one["links"]["heatmap"]).content))
    assert (heatmap.mode, heatmap.size) == ("RGBA", (64, 64))


def test_many_images_are_answered_in_order(serving):
    client, _ = serving(batch_size=4)
    found = send(client, [*GOODS[:5], BADS[0]], camera="left")
    assert [one["name"] for one in found] == [f"{i}.png" for i in range(6)]
    assert sorted(one["id"] for one in found) == [one["id"] for one in found]
    assert found[-1]["score"] == max(one["score"] for one in found)
    assert {one["camera"] for one in found} == {"left"}


def test_filters_and_pages(serving):
    client, _ = serving()
    send(client, GOODS[:5], camera="left")
    send(client, BADS, camera="right")
    first = client.get(f"{API}/results", params={"camera": "left", "limit": 3}).json()
    assert (first["total"], len(first["results"])) == (5, 3)
    second = client.get(first["next"]).json()
    assert len(second["results"]) == 2
    assert second["next"] is None
    assert client.get(f"{API}/results", params={"verdict": "defect"}).json()["total"] >= 3


def test_a_request_that_is_repeated_is_kept_once(serving):
    client, _ = serving()
    headers = {"Idempotency-Key": "shift-1/17"}
    answers = [
        client.post(f"{API}/predict", content=GOODS[0], headers=headers).json() for _ in range(2)
    ]
    assert answers[0] == answers[1]
    two = [("images", (str(i), GOODS[i])) for i in range(2)]
    answer = client.post(f"{API}/predict", files=two, headers=headers)
    assert answer.status_code == 409
    assert "came with other images" in answer.json()["detail"]
    assert client.get(f"{API}/results").json()["total"] == 1


def test_labels_and_undo(serving):
    client, _ = serving()
    [one] = send(client, [GOODS[0]])
    label = f"{one['links']['self']}/label"
    assert client.put(label, json={"label": "good"}).json()["label"] == "good"
    assert client.put(label, json={"label": "defect"}).json()["label"] == "defect"
    assert client.post(f"{API}/labels/undo").json()["label"] == "good"
    assert client.put(label, json={"label": "fine"}).status_code == 422
    client.post(f"{API}/labels/undo")
    assert client.post(f"{API}/labels/undo").status_code == 409


def test_calibration_makes_a_new_file_and_leads_back(serving, part):
    client, _ = serving()
    before = part.read_bytes()
    first = client.get(f"{API}/detectors").json()[0]
    for one in send(client, GOODS):
        client.put(f"{one['links']['self']}/label", json={"label": "good"})
    answer = client.post(f"{API}/detectors/part/calibrate", json={"false_positive_rate": 0.1})
    assert answer.status_code == 200, answer.text
    assert "of 30 fresh good images the old threshold stops" in answer.json()["message"]
    after = answer.json()["detector"]
    assert after["version"] != first["version"]
    assert after["calibration_images"] == 30
    assert part.read_bytes() == before
    [one] = send(client, [GOODS[0]])
    assert one["threshold"] == after["threshold"]
    back = client.post(f"{API}/detectors/part/versions/{first['version']}").json()["detector"]
    assert back["threshold"] == first["threshold"]
    versions = client.get(f"{API}/detectors/part/versions").json()
    assert [v["is_active"] for v in versions] == [False, True]


def test_too_few_good_images_are_refused(serving):
    client, _ = serving()
    answer = client.post(f"{API}/detectors/part/calibrate", json={})
    assert (answer.status_code, answer.json()["detail"]) == (409, "no image is labelled good")
    [one] = send(client, [GOODS[0]])
    client.put(f"{one['links']['self']}/label", json={"label": "good"})
    answer = client.post(f"{API}/detectors/part/calibrate", json={})
    assert answer.status_code == 409
    assert "too few" in answer.json()["detail"]


def test_what_is_in_use_survives_a_restart(serving, tmp_path):
    client, _ = serving()
    client.post(f"{API}/detectors/part/threshold", json={"value": 0.125})
    [one] = send(client, [GOODS[0]])
    again, _ = serving(store=Store(str(tmp_path / "line.db")))
    [detector] = again.get(f"{API}/detectors").json()
    assert (detector["threshold"], detector["version"]) == (0.125, one["version"])
    assert again.get(one["links"]["self"]).json() == one
    assert again.get(f"{API}/detectors/part/drift").json()["images"] == 1


def test_drift_is_seen(serving):
    client, _ = serving()
    assert client.get(f"{API}/detectors/part/drift").json()["images"] == 0
    dark = [png(noise(RNG) // 3) for _ in range(40)]
    send(client, dark)
    report = client.get(f"{API}/detectors/part/drift").json()
    assert report["images"] == 40
    assert report["is_drift"]


def test_exports(serving):
    client, _ = serving()
    good, bad, twice, _ = send(client, [GOODS[0], BADS[0], GOODS[0], GOODS[1]], camera="=1+1")
    for one, label in ((good, "good"), (bad, "defect"), (twice, "good")):
        client.put(f"{one['links']['self']}/label", json={"label": label})
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"{API}/export/labelled.zip").content))
    folders = sorted(name.rsplit("/", 1)[0] for name in archive.namelist())
    assert folders == ["part/test/defect", "part/train/good"]
    assert {archive.read(name) for name in archive.namelist()} == {GOODS[0], BADS[0]}
    rows = list(csv.DictReader(io.StringIO(client.get(f"{API}/results.csv").text)))
    assert [row["label"] for row in rows] == ["good", "defect", "good", ""]
    assert rows[0]["camera"] == "'=1+1"
    assert float(rows[0]["score"]) == good["score"]


def test_a_full_queue_says_when_to_come_again(serving, monkeypatch):
    client, parts = serving(waiting=2)
    hold, begun = threading.Event(), threading.Event()
    live = parts.detectors.get("part")
    predict = live.detector.predict

    def slow(*arguments, **options):
        begun.set()
        hold.wait(10)
        return predict(*arguments, **options)

    monkeypatch.setattr(live.detector, "predict", slow)
    jobs = [Job("part", "", [Given(GOODS[0], "PNG")]) for _ in range(3)]
    parts.inspection.submit(jobs[0])
    assert begun.wait(10)
    for job in jobs[1:]:
        parts.inspection.submit(job)
    with pytest.raises(Busy):
        parts.inspection.submit(jobs[0])
    answer = client.post(f"{API}/predict", content=GOODS[0])
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    hold.set()
    assert [len(job.answer.result(10)) for job in jobs] == [1, 1, 1]
    assert "fastad_refused_total 2.0" in client.get("/metrics").text


def test_one_key_at_the_same_time_is_kept_once_and_harms_no_other(serving):
    _, parts = serving()
    keyed = [Job("part", "", [Given(GOODS[0], "PNG", key="shift-1/17/0")]) for _ in range(2)]
    other = Job("part", "", [Given(GOODS[1], "PNG")])
    for job in (*keyed, other):
        parts.inspection.submit(job)
    [one], [again], [third] = (job.answer.result(30) for job in (*keyed, other))
    assert one.id == again.id != third.id
    assert parts.store.page(Filters())[1] == 2


def test_a_client_that_goes_away_harms_no_other(serving):
    _, parts = serving()
    jobs = [Job("part", "", [Given(image, "PNG")]) for image in GOODS[:2]]
    assert not jobs[0].answer.cancel()
    for job in jobs:
        parts.inspection.submit(job)
    assert [len(job.answer.result(30)) for job in jobs] == [1, 1]
    assert parts.inspection.is_running


def test_what_cannot_be_kept_is_not_answered(serving, monkeypatch):
    client, parts = serving()

    def full(entries):
        raise OSError("disk full")

    monkeypatch.setattr(parts.store, "add", full)
    answer = client.post(f"{API}/predict", content=GOODS[0])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"] == "the result cannot be stored"
    monkeypatch.undo()
    assert len(send(client, [GOODS[0]])) == 1  # and the next one is


def test_an_unreadable_image_among_others(serving):
    client, _ = serving()
    whole = png(noise(RNG), "JPEG")
    torn = whole[: len(whole) * 2 // 3]
    found = send(client, [GOODS[0], torn, GOODS[1]])
    assert ["score" in one for one in found] == [True, False, True]
    assert found[1]["error"].startswith("image 2: cannot be read")
    assert client.get(f"{API}/results").json()["total"] == 2
    alone = client.post(f"{API}/predict", content=torn)
    assert alone.status_code == 422
    assert alone.json()["detail"].startswith("image 1: cannot be read")


def test_several_detectors(serving, part, tmp_path):
    files = {"part": str(part), "other": str(part)}
    client, _ = serving(files=files)
    assert client.post(f"{API}/predict", content=GOODS[0]).status_code == 404
    [one] = send(client, [GOODS[0]], detector="other")
    assert one["detector"] == "other"
    assert client.get(f"{API}/detectors/none/drift").status_code == 404


def test_probes(serving):
    client, parts = serving()
    send(client, [GOODS[0]])
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"ready": True}
    assert "fastad_images_total{detector=" in client.get("/metrics").text
    parts.inspection._is_open = False
    assert client.get("/ready").status_code == 503


def test_the_description_has_examples(serving):
    client, _ = serving()
    text = client.get("/openapi.json").json()
    assert text["components"]["schemas"]["ResultOut"]["example"]["detector"] == "bottle"
    body = text["paths"][f"{API}/predict"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "image/png"} <= set(body)
