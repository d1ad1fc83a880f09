"""The page in a real browser: Chromium, driven by Playwright, wide and narrow."""

# ruff: noqa: E402  nothing of the extra is imported before it is known to be there
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
for name in ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart"):
    pytest.importorskip(name, reason="needs fastad[serve]")

from line_images import noise, png

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="chromium is not installed"),
]
SCREENSHOTS = os.environ.get("FASTAD_SCREENSHOTS")  # a folder to look at
PATIENCE = 60_000  # milliseconds: machines are shared


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def address(part, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "fastad", "serve", part, "--store", tmp_path / "line.db"]
    command += ["--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=tmp_path)  # not beside the sources
    found = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{found}/ready").close()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)
    yield found
    process.terminate()
    assert process.wait(60) in (0, -15)


def check(page, name):
    """No violation that axe-core knows, nothing wider than the window, and a picture to look at."""
    page.wait_for_load_state("networkidle")
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(too_wide) <= 0, name
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python")
    source = Path(axe.__file__).with_name("axe.min.js").read_text()
    page.evaluate(source)  # past the policy of scripts, as a debugger does
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_shift(browser, address, tmp_path, width, colours):
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=colours, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    others = []
    page.on("request", lambda r: None if r.url.startswith(address) else others.append(r.url))
    tag = f"{width}-{colours}"

    page.goto(address)
    assert page.get_by_text("No image has come yet").is_visible()
    check(page, f"empty-{tag}")

    rng = np.random.default_rng(width)
    files = []
    for i in range(14):
        path = tmp_path / f"{i}.png"
        path.write_bytes(png(noise(rng, has_defect=i == 13)))
        files.append(path)
    page.get_by_text("Inspect images or export").click()
    page.set_input_files("input[type=file]", files)
    page.get_by_role("button", name="Inspect").click()
    page.wait_for_selector(".card")
    assert page.locator(".card").count() == 14
    check(page, f"list-{tag}")

    # An image that comes meanwhile is shown without a reload.
    request = urllib.request.Request(
        f"{address}/api/v1/predict", files[0].read_bytes(), {"Content-Type": "image/png"}
    )
    urllib.request.urlopen(request).close()
    page.wait_for_selector("#r15")

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/results/14")
    page.locator("#opacity").fill("80")
    opacity = page.evaluate("getComputedStyle(document.querySelector('.map')).opacity")
    assert float(opacity) == 0.8
    check(page, f"result-{tag}")
    page.keyboard.press("d")
    page.wait_for_url("**/results/13")
    for number in range(13, 1, -1):
        page.keyboard.press("g")
        page.wait_for_url(f"**/results/{number - 1}")
    page.keyboard.press("g")
    page.wait_for_selector("[data-key=g][aria-pressed=true]")
    page.keyboard.press("u")
    page.wait_for_selector("[data-key=g][aria-pressed=false]")
    page.keyboard.press("g")
    page.wait_for_selector("[data-key=g][aria-pressed=true]")

    page.get_by_role("link", name="part", exact=True).click()
    page.wait_for_selector("#threshold")
    slider = page.locator("#threshold input")
    highest = float(slider.get_attribute("max"))
    slider.evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", highest
    )
    said = page.locator("output[name=sentence]").inner_text()
    assert said == "would stop 0 of 13 good ones, would pass 1 of 1 defects"
    slider.evaluate("(e) => { e.value = e.min; e.dispatchEvent(new Event('input')); }")
    said = page.locator("output[name=sentence]").inner_text()
    assert said == "would stop 13 of 13 good ones, would pass 0 of 1 defects"
    check(page, f"detector-{tag}")
    page.get_by_role("button", name=re.compile("Calibrate on 13 good")).click()
    page.wait_for_selector(".done")
    assert "Calibrated: of 13 fresh good images" in page.locator(".done").inner_text()
    check(page, f"calibrated-{tag}")
    page.get_by_role("button", name="Go back to 1").click()
    page.get_by_text("Version 1 is in use again.").wait_for()

    page.goto(address)
    page.get_by_text("Inspect images or export").click()
    with page.expect_download() as download:
        page.get_by_text("Labelled images as a folder").click()
    assert download.value.suggested_filename == "labelled.zip"
    assert complaints == []
    page.goto(f"{address}/results/999")
    check(page, f"error-{tag}")
    assert others == []
    context.close()
