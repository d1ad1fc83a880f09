"""The download of weights: where it goes, what it checks, and that it fails once."""

import hashlib
import io
import time
from urllib.error import HTTPError

import pytest

from fastad import backbones
from fastad.backbones import download, embedded, weights

pytestmark = pytest.mark.usefixtures("offline")


class Response(io.BytesIO):
    headers = {"Content-Length": "12"}  # noqa: RUF012


def serve(monkeypatch, content):
    """A server with ``content`` for resnet18, whose digest is in the URL."""
    digest = hashlib.sha256(b"good weights").hexdigest()[:8]
    monkeypatch.setitem(download.URLS, "resnet18", f"https://host/models/resnet18-{digest}.pth")
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: Response(content))
    return f"resnet18-{digest}.pth"


def test_a_download_lands_in_the_hub_cache(tmp_path, monkeypatch, capsys):
    name = serve(monkeypatch, b"good weights")
    path = weights.resolve("auto", "resnet18")
    assert path == tmp_path / "hub" / "checkpoints" / name
    assert path.read_bytes() == b"good weights"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"downloading https://host/models/{name}" in captured.err


def test_a_download_with_another_digest_leaves_nothing(tmp_path, monkeypatch):
    serve(monkeypatch, b"bad weights.")
    with pytest.raises(backbones.WeightsNotFoundError, match="12 bytes received have SHA-256"):
        weights.resolve("auto", "resnet18", ("layer4",))
    assert list((tmp_path / "hub" / "checkpoints").iterdir()) == []


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda url, timeout: time.sleep(2))
    start = time.monotonic()
    with pytest.raises(backbones.WeightsNotFoundError, match=r"no answer within 0\.05 s"):
        weights.resolve("auto", "resnet50")
    # Neither for the same file nor for another of that host.
    monkeypatch.setattr(download, "TIMEOUT", 2)
    for name in ("resnet50", "resnet34"):
        with pytest.raises(backbones.WeightsNotFoundError, match=r"no answer within 0\.05 s"):
            weights.resolve("auto", name)
    assert weights.resolve("auto", "resnet18") == embedded.PATH
    assert time.monotonic() - start < 1


def test_what_another_file_lacks_is_no_reason(monkeypatch):
    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise HTTPError(url, 404, "Not Found", {}, None)

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    for _ in range(2):
        for name in ("resnet34", "resnet50"):
            with pytest.raises(backbones.WeightsNotFoundError, match="HTTP Error 404: Not Found"):
                weights.resolve("auto", name)
    assert asked == [download.URLS["resnet34"], download.URLS["resnet50"]]


def test_without_a_network_it_is_tried_once(offline):
    for _ in range(2):
        backbones.build("resnet18", weights="auto")
        assert not backbones.has_weights("resnet50", ("layer1",), "auto")
        with pytest.raises(backbones.WeightsNotFoundError, match="network is unreachable"):
            backbones.build("resnet50", weights="auto")
    assert len(offline) == 1
