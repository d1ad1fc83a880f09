"""The pages as text: what they say, and what they lead to."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import re

import numpy as np
import pytest

for name in ("fastapi", "sqlalchemy", "prometheus_client", "python_multipart", "httpx"):
    pytest.importorskip(name, reason="needs fastad[serve] and httpx")

from line_images import noise, png

PREDICT = "/api/v1/predict"
IMAGE = png(noise(np.random.default_rng(2)))
TOKEN = "0123456789abcdef" * 2


def test_the_empty_page_names_its_own_address(serving):
    client, _ = serving()
    page = client.get("/", headers={"Host": "127.0.0.1:9123"}).text
    assert "http://127.0.0.1:9123/api/v1/predict" in page
    assert "Authorization" not in page


def test_the_empty_page_asks_for_a_token_and_does_not_tell_it(serving):
    client, _ = serving(token=TOKEN, host="0.0.0.0")
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "line<b>3"}
    page = client.get("/", headers=headers).text
    assert "Authorization: Bearer TOKEN" in page
    assert TOKEN not in page
    assert "line<b>3" not in page


def test_pictures_of_another_store_have_other_addresses(serving):
    client, _ = serving()
    [one] = client.post(PREDICT, content=IMAGE).json()["results"]
    for kind in ("image", "shown", "thumbnail", "heatmap", "mask"):
        assert one["links"][kind].startswith(f"/api/v1/results/1/{kind}?at=")
        assert client.get(one["links"][kind]).status_code == 200
    found = re.findall(
        r'src="(/api/v1/[^"]*)"', client.get("/").text + client.get("/results/1").text
    )
    assert sorted(found) == sorted(one["links"][k] for k in ("thumbnail", "shown", "heatmap"))


def test_the_plot_for_a_small_screen_is_narrow(serving):
    client, _ = serving()
    client.post(PREDICT, content=IMAGE)
    page = client.get("/detectors/part").text
    [small] = re.findall(r'srcset="([^"]*)"', page)
    widths = []
    for address in (small, "/detectors/part/drift.svg"):
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/svg+xml"
        widths.append(float(re.search(r'width="([\d.]+)pt"', answer.text)[1]))
    assert widths[0] < widths[1] / 2
