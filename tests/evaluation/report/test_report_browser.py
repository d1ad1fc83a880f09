"""A report in a real browser, where one is installed: headless Chromium through its driver."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import numpy as np
import pytest
from report_data import observed

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="chromium and chromedriver are not installed"
    ),
]
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element, fixed by WebDriver
FOCUSED = "document.activeElement.closest('figure')?.id ?? null"
LOADED = "[...document.images].every(i => i.complete && i.naturalWidth > 0)"
OPEN = "document.querySelector('figure:target')?.id ?? null"


class Browser:
    """A window of Chromium, by the WebDriver protocol (W3C)."""

    def __init__(self, base, folder):
        self._base = base
        given = {
            "binary": BROWSER,
            "args": [*OPTIONS, f"--user-data-dir={folder}", "--window-size=1400,1000"],
        }
        wanted = {"goog:chromeOptions": given, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{answer['sessionId']}"

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def load(self, url):
        self._call("POST", f"{self._session}/url", {"url": "about:blank"})
        self._call("POST", f"{self._session}/url", {"url": url})

    def ask(self, expression):
        body = {"script": f"return {expression}", "args": []}
        return self._call("POST", f"{self._session}/execute/sync", body)

    def click(self, selector):
        body = {"using": "css selector", "value": selector}
        found = self._call("POST", f"{self._session}/element", body)[ELEMENT]
        self._call("POST", f"{self._session}/element/{found}/click", {})

    def press(self, key):
        action = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        body = {"actions": [{"type": "key", "id": "keys", "actions": action}]}
        self._call("POST", f"{self._session}/actions", body)

    def resize(self, width):
        body = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
        self._command("Emulation.setDeviceMetricsOverride", body)

    def without_scripts(self):
        self._command("Emulation.setScriptExecutionDisabled", {"value": True})

    def pages(self):
        return self._call("POST", f"{self._session}/print", {})

    def complaints(self):
        """Errors of scripts and requests that failed."""
        return self._call("POST", f"{self._session}/se/log", {"type": "browser"})

    def close(self):
        self._call("DELETE", self._session)

    def _command(self, name, parameters):
        body = {"cmd": name, "params": parameters}
        self._call("POST", f"{self._session}/goog/cdp/execute", body)


@pytest.fixture(scope="module")
def driver():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    for _ in range(150):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/status"):
            break
        time.sleep(0.1)
    yield base
    process.terminate()
    process.wait(10)


@pytest.fixture
def browser(driver, tmp_path):
    window = Browser(driver, tmp_path / "profile")
    yield window
    window.close()


@pytest.fixture(scope="module")
def url(report_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report, metrics = observed(report_images)
    page = report.write(folder, metrics, title="<i>bottle</i> & 'more'", facts={"seed": "0"})
    return page.as_uri()


def test_it_loads_whole_and_without_complaint(browser, url):
    browser.load(url)
    assert browser.ask(LOADED)
    assert browser.ask("document.images.length") == 4 + 1 + 3 * 14
    assert browser.ask("document.title") == "<i>bottle</i> & 'more': evaluation report"
    addresses = browser.ask("performance.getEntriesByType('resource').map(e => e.name)")
    assert all(a.startswith((url.rpartition("/")[0], "data:")) for a in addresses)
    assert browser.complaints() == []


def test_a_missing_picture_would_be_noticed(browser, url, tmp_path):
    copy = tmp_path / "copy.html"
    page = urllib.request.urlopen(url).read().replace(b"0001.jpg", b"gone.jpg")
    copy.write_bytes(page)
    browser.load(copy.as_uri())
    assert not browser.ask(LOADED)
    assert any("gone.jpg" in entry["message"] for entry in browser.complaints())


def test_a_click_shows_a_picture_at_full_width(browser, url):
    browser.load(url)
    width = "document.querySelector('#picture-2').getBoundingClientRect().width"
    assert browser.ask(width) < 500
    browser.click("#picture-2 .open")
    assert browser.ask(OPEN) == "picture-2"
    assert browser.ask(width) == browser.ask("document.documentElement.clientWidth")
    panel = "document.querySelector('#picture-2 .panel img').getBoundingClientRect()"
    assert browser.ask(f"{panel}.width") > 400
    assert browser.ask(f"{panel}.height / {panel}.width") == pytest.approx(32 / 48, abs=0.01)
    browser.click("#picture-2 .next")
    assert browser.ask(OPEN) == "picture-3"
    browser.click("#picture-3 .close")
    assert browser.ask(OPEN) is None
    top = browser.ask("document.querySelector('#slot-3').getBoundingClientRect().top")
    assert 0 <= top < 1000, "the reader is back where the picture is"
    assert browser.complaints() == []


def test_the_keys(browser, url):
    browser.load(url)
    browser.click("#picture-1 .open")
    for key, expected in (
        ("\ue014", "picture-2"),  # right
        ("\ue014", "picture-3"),
        ("\ue012", "picture-2"),  # left
        ("\ue00c", None),  # escape
        ("\ue014", None),
    ):
        browser.press(key)
        assert browser.ask(OPEN) == expected
    assert browser.ask(FOCUSED) == "picture-2", "the next Enter opens it again"


def test_the_defects_side_of_the_scores_is_seen_on_a_telephone(browser, url):
    right = "document.querySelector('.beside img').getBoundingClientRect().right"
    sources = []
    for width in (400, 1200):
        browser.resize(width)
        browser.load(url)
        assert browser.ask(right) <= width
        ratio = "(i => i.naturalWidth / i.naturalHeight)(document.querySelector('.beside img'))"
        sources.append(browser.ask(ratio))
    assert sources[0] < 1.2 < sources[1]  # another drawing, not the same one made small


def test_a_long_name_is_cut_in_its_middle(browser, url):
    browser.resize(400)
    browser.load(url)
    cut = browser.ask(
        "[...document.querySelectorAll('.name')].filter(n =>"
        " n.firstChild.scrollWidth > n.firstChild.clientWidth).map(n => {"
        " const end = n.lastChild.getBoundingClientRect(),"
        " all = n.closest('figcaption').getBoundingClientRect();"
        " return [n.lastChild.textContent, end.width > 0 && end.right <= all.right + 1]})"
    )
    assert cut, "some name is too long"
    for ending, is_seen in cut:
        assert ending.endswith(".png")
        assert is_seen


def test_it_works_without_scripts(browser, url):
    browser.without_scripts()
    browser.load(url)
    browser.click("#picture-2 .open")
    assert browser.ask(OPEN) == "picture-2"
    browser.click("#picture-2 .close")
    assert browser.ask(OPEN) is None


@pytest.mark.parametrize("width", [360, 420, 800, 1400])
def test_it_fits_any_window(browser, url, width):
    browser.resize(width)
    browser.load(url)
    assert browser.ask("innerWidth") == width
    assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.click("#picture-1 .open")
    assert browser.ask("document.querySelector('figure:target').scrollWidth") <= width


def test_outlines_lie_on_the_defect(browser, url):
    browser.load(url)
    boxes = browser.ask(
        "[...document.querySelectorAll('.stack')].map(s => {"
        " const t = s.querySelector('use.truth')?.getBoundingClientRect(),"
        " i = s.querySelector('img').getBoundingClientRect();"
        " return t && [(t.left - i.left) / i.width, (t.right - i.left) / i.width,"
        " (t.top - i.top) / i.height] }).filter(b => b)"
    )
    assert len(boxes) == 8
    np.testing.assert_allclose(boxes, [[20 / 48, 30 / 48, 6 / 32]] * 8, atol=0.02)


def test_in_print_everything_stands(browser, url):
    browser.load(f"{url}#picture-2")  # printed while a picture is enlarged
    assert len(browser.pages()) > 20_000
    browser._command("Emulation.setEmulatedMedia", {"media": "print"})
    style = "getComputedStyle(document.querySelector('#picture-2'))"
    assert browser.ask(f"{style}.position") == "static"
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
