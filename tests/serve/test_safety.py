"""Who may ask, how much, and what nobody may reach."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import re
import socket

import numpy as np
import pytest

for name in ("fastapi", "sqlalchemy", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(name, reason="needs fastad[serve] and httpx")

from line_images import noise, png

from fastad.commands import UsageError
from fastad.commands.serve import serve
from fastad.serve.pages import own_address
from fastad.serve.safety import POLICY, Rate
from fastad.serve.settings import read_token

TOKEN = "0123456789abcdef0123"
IMAGE = png(noise(np.random.default_rng(3)))
PREDICT = "/api/v1/predict"
OPTIONS = {
    "store": "line.db",
    "watch": [],
    "port": 0,
    "keep_days": None,
    "keep_gib": None,
    "queue": 1,
    "max_mib": 1,
    "max_megapixels": 1,
    "rate": 1,
    "device": "cpu",
    "precision": "auto",
    "batch_size": 1,
}


def test_a_token_is_needed(serving):
    client, _ = serving(host="0.0.0.0", token=TOKEN)
    for path in ("/api/v1/results", "/metrics", "/openapi.json", "/static/script.js"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get(path, headers=headers).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"


def test_a_browser_logs_in_and_out(serving):
    client, _ = serving(host="0.0.0.0", token=TOKEN)
    assert client.post("/login", data={"token": "wrong"}).status_code == 403
    answer = client.post("/login", data={"token": TOKEN})
    assert re.search(r"httponly.*samesite=strict", answer.headers["set-cookie"].lower())
    assert TOKEN not in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200
    client.post("/logout")
    assert client.get("/").status_code == 401


def test_pages_of_others_change_nothing(serving):
    client, _ = serving()
    for origin in ("http://elsewhere.example", "null", "http://127.0.0.1:9999"):
        answer = client.post(PREDICT, content=IMAGE, headers={"Origin": origin})
        assert answer.status_code == 403
    own = {"Origin": "http://127.0.0.1:8000"}
    assert client.post(PREDICT, content=IMAGE, headers=own).status_code == 200
    # A name of somebody else's that leads here.
    assert client.get("/api/v1/results", headers={"Host": "elsewhere.example"}).status_code == 400


def test_limits(serving):
    client, _ = serving(max_bytes=20_000, max_pixels=5000, max_images=2)
    assert client.post(PREDICT, content=b"x" * 20_001).status_code == 413

    def parts():  # without a length in front
        for _ in range(30):
            yield b"x" * 1000

    assert client.post(PREDICT, content=parts()).status_code == 413
    answer = client.post(PREDICT, content=png(np.zeros((100, 100), np.uint8)))
    assert (answer.status_code, "100x100" in answer.json()["detail"]) == (413, True)
    small = png(np.zeros((8, 8), np.uint8))
    files = [("images", ("a.png", small)) for _ in range(3)]
    assert client.post(PREDICT, files=files).status_code == 400
    for body in (b"", b"<svg/>", b"#!/bin/sh", b"%PDF-1.4"):
        answer = client.post(PREDICT, content=body, headers={"Content-Type": "image/png"})
        assert answer.status_code == 422


def test_the_rate_of_an_address():
    rate = Rate(2.0)
    assert [rate.allows("a", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert rate.allows("b", 0.0)
    assert [rate.allows("a", 0.5) for _ in range(2)] == [True, False]


def test_too_many_requests(serving):
    client, _ = serving(rate=0.2)
    assert client.get("/health").status_code == 200
    assert client.get("/health").status_code == 429


def test_headers_forbid_what_is_not_ours(serving):
    client, _ = serving()
    answer = client.get("/")
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(
        r"<script(?! src=\"/static)|\son\w+=|\sstyle=|https?://(?!127\.0\.0\.1:8000/)", answer.text
    )


def test_a_form_without_a_choice_shows_all(serving):
    client, _ = serving()
    client.post(PREDICT, content=IMAGE)
    answer = client.get("/?detector=&verdict=&label=")
    assert answer.status_code == 200
    assert "1 result" in answer.text
    assert "No result fits" in client.get("/?detector=part&label=good").text


def test_names_are_text_and_never_files(serving, tmp_path):
    client, _ = serving()
    name = "../../<b>evil</b>\x1b.png"
    found = client.post(PREDICT, files=[("images", (name, IMAGE))]).json()["results"][0]
    assert "/" not in found["name"]
    assert "\x1b" not in found["name"]
    for page in ("/", f"/results/{found['id']}"):
        assert "<b>evil" not in client.get(page).text
    for path in ("/static/..%2fapi.py", "/static/../api.py", "/results/../../etc/passwd"):
        assert client.get(path).status_code in (404, 422)
    assert {p.name for p in tmp_path.iterdir()} <= {
        "detectors",
        "line.db",
        "line.db-wal",
        "line.db-shm",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/results/7?label=none", "/results/7?label=none"),
        ("//elsewhere.example/", "/"),
        ("http://elsewhere.example", "/"),
        ("/\\elsewhere.example", "/"),
        ("/x\r\nSet-Cookie: a=b", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_ways_back_stay_here(given, expected):
    assert own_address(given, "/") == expected


def test_a_token_that_can_be_guessed_is_refused(tmp_path):
    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(ValueError, match="16 plain characters"):
        read_token(str(file))
    file.write_text(f"{TOKEN}\n")
    assert read_token(str(file)) == TOKEN


def test_other_hosts_need_a_token(tmp_path):
    with pytest.raises(UsageError, match="give --token-file, or --no-auth"):
        serve(["a.fastad"], host="0.0.0.0", token_file=None, no_auth=False, **OPTIONS)
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with pytest.raises(UsageError, match="exclude each other"):
        serve(["a.fastad"], host="127.0.0.1", token_file=str(file), no_auth=True, **OPTIONS)


def test_a_missing_detector_leaves_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no detector"):
        serve(["none.fastad"], host="127.0.0.1", token_file=None, no_auth=False, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_said_before_anything_is_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.fastad").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = OPTIONS | {"port": taken.getsockname()[1]}
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:.*in use"):
            serve(["a.fastad"], host="127.0.0.1", token_file=None, no_auth=False, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.fastad"]


@pytest.mark.slow
def test_any_request_at_all(serving):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
    import requests
    from hypothesis import HealthCheck, Phase, given, settings

    client, _ = serving(rate=1e6)
    client.post(PREDICT, content=IMAGE)
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        @given(case=operation.as_strategy())
        def ask(case):
            nonlocal asked
            asked += 1
            arguments = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
            arguments.pop("cookies", None)
            sent = requests.Request(**arguments).prepare()
            headers = {k: v for k, v in sent.headers.items() if str(v).isascii()}
            answer = client.request(sent.method, sent.url, headers=headers, content=sent.body)
            assert answer.status_code < 500, (case, answer.text)

        ask()
    assert asked > 300
