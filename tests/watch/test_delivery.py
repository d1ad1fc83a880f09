"""Results over a network: receivers that fail, refuse, are slow, and come back."""

import http.server
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fastad.watch.delivery import Delivery
from fastad.watch.journal import UNDELIVERED, Journal, Stamp
from fastad.watch.mqtt import Mqtt
from fastad.watch.places import Places
from fastad.watch.result_files import undelivered_file
from fastad.watch.webhook import Webhook, token_of


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "state.db", "test")
    journal.begin("test", [])
    yield journal
    journal.close()


def record(places, count, at=None):
    at = time.time() if at is None else at
    for number in range(count):
        row = {"path": f"{number}.png", "score": number / 8, "is_anomalous": False}
        assert places.record([(Path(f"{number}.png"), Stamp(1, 2), at, row)])


class Server:
    """An HTTP server that gives the answers it is told, then 200."""

    def __init__(self, port=0):
        self.answers, self.taken, self.asked = [], [], []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append((json.loads(body)["number"], dict(self.headers)))
                answer = server.answers.pop(0) if server.answers else 200
                if answer == "hang up":
                    return
                if answer == 200:
                    server.taken.append(json.loads(body))
                self.send_response(answer)
                if answer == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/results"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def deliver(journal, tmp_path):
    """Start deliveries to receivers by name of the place; they end with the test."""
    started = []

    def start(give_up_after=3600.0, **receivers):
        deliveries = [
            Delivery(place, receiver, journal, give_up_after, first_pause=0.02)
            for place, receiver in receivers.items()
        ]
        dead = undelivered_file(str(tmp_path / "undelivered.jsonl"), journal)
        places = Places(journal, {UNDELIVERED: dead}, deliveries)
        started.append(places)
        return places

    yield start
    for places in started:
        places.close()


def numbers(results):
    return [result["number"] for result in results]


def test_a_receiver_that_fails_at_first_gets_each_result_in_order(
    deliver, journal, server, until, caplog
):
    server.answers += [500, "hang up", 503, 429, 200, 502]
    places = deliver(webhook=Webhook(server.url, "secret"))
    record(places, 5)
    places.write()
    until(lambda: journal.count("webhook") == 0)
    assert numbers(server.taken) == [1, 2, 3, 4, 5]
    assert [number for number, _ in server.asked] == [1, 1, 1, 1, 1, 2, 2, 3, 4, 5]
    assert server.taken[2]["path"] == "2.png"
    assert {headers["Authorization"] for _, headers in server.asked} == {"Bearer secret"}
    keys = [headers["Idempotency-Key"] for _, headers in server.asked]
    assert len(set(keys)) == 5
    assert len(set(keys[:5])) == 1
    assert caplog.text.count("it is tried again") == 2  # said once for each time that it fails


@pytest.mark.parametrize("answer", [400, 404, 302])
def test_a_result_that_is_refused_is_kept_aside(deliver, server, until, tmp_path, answer):
    server.answers += [200, answer]
    places = deliver(webhook=Webhook(server.url, None))
    record(places, 3)
    places.write()
    until(lambda: numbers(server.taken) == [1, 3])
    places.write()
    [line] = (tmp_path / "undelivered.jsonl").read_text().splitlines()
    assert json.loads(line)["error"].startswith(f"webhook: answered {answer}")
    assert json.loads(line)["result"]["number"] == 2


def test_only_old_results_are_given_up(deliver, journal, until, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = deliver(give_up_after=60.0, webhook=Webhook(f"http://127.0.0.1:{port}/", None))
    record(places, 2, at=time.time() - 61)
    record(places, 2)
    places.write()
    until(lambda: journal.count(UNDELIVERED) == 2)
    places.write()
    lines = map(json.loads, (tmp_path / "undelivered.jsonl").read_text().splitlines())
    assert [line["result"]["number"] for line in lines] == [1, 2]
    assert [one.number for one in journal.pending("webhook")] == [3, 4]
    server = Server(port)
    until(lambda: numbers(server.taken) == [3, 4])
    server.close()


def test_results_wait_for_the_next_start(journal, tmp_path, server, until):
    dead = undelivered_file(str(tmp_path / "undelivered.jsonl"), journal)
    delivery = Delivery("webhook", Webhook(server.url, None), journal, 60.0, first_pause=0.02)
    server.answers += [503] * 10_000
    places = Places(journal, {UNDELIVERED: dead}, [delivery])
    record(places, 3)
    places.write()
    until(lambda: server.asked)
    places.close()
    server.answers.clear()
    journal.close()
    again = Journal(tmp_path / "state.db", "test")
    receiver = Webhook(server.url, None)
    places = Places(again, {}, [Delivery("webhook", receiver, again, 60.0)])
    until(lambda: numbers(server.taken) == [1, 2, 3])
    places.close()
    again.close()


def test_what_is_no_longer_named_is_dropped_aloud(journal, caplog):
    places = Places(journal, {"csv": None})
    record(places, 3)
    Places(journal, {})
    assert "3 results are dropped" in caplog.text
    assert journal.pending("csv") == []


@pytest.mark.parametrize("url", ["ftp://host/x", "host/x", "http:///x", ""])
def test_a_webhook_needs_an_address(url):
    with pytest.raises(ValueError, match="--webhook must begin with http://"):
        Webhook(url, None)


def test_a_token_is_one_line(tmp_path):
    (tmp_path / "token").write_text("abc\n")
    assert token_of(tmp_path / "token") == "abc"
    for text in ("", "\n", "a\nb"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(ValueError, match="must hold a token on one line"):
            token_of(tmp_path / "token")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mqtt://host", "mqtt://HOST/TOPIC"),
        ("http://host/topic", "mqtt://HOST/TOPIC"),
        ("mqtt://user:word@host/topic", "FASTAD_MQTT_PASSWORD"),
        ("mqtt://host/line/+", r"has no \+"),
    ],
)
def test_mqtt_needs_a_broker_and_a_topic(url, said):
    pytest.importorskip("paho.mqtt")
    with pytest.raises(ValueError, match=said):
        Mqtt(url)


@pytest.fixture
def broker(tmp_path):
    """Start and stop mosquitto on one port; gives (url, start, stop)."""
    pytest.importorskip("paho.mqtt")
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "broker"
    folder.mkdir(mode=0o777)
    passwords = folder / "passwords"
    passwords.write_text("")
    subprocess.run(
        [shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-b", passwords, "line", "word"],
        check=True,
        capture_output=True,
    )
    passwords.chmod(0o644)
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\nuser root\n"
    )
    running = []

    def start():
        command = [program, "-c", str(config)]
        log = open(folder / "log", "ab")  # noqa: SIM115
        running.append(subprocess.Popen(command, stdout=log, stderr=log))
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((folder / "log").read_text())

    def stop():
        process = running.pop()
        process.kill()
        process.wait()

    yield f"mqtt://line@127.0.0.1:{port}/line/results", start, stop
    while running:
        stop()


def subscribed(url):
    """A client that is subscribed before this returns, and the list of what it gets."""
    import paho.mqtt.client as paho

    got, ready = [], threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.username_pw_set("line", "word")
    client.on_subscribe = lambda *_: ready.set()
    client.on_connect = lambda *_: client.subscribe("line/#", qos=1)
    client.on_message = lambda _, __, message: got.append(json.loads(message.payload))
    client.connect("127.0.0.1", int(url.split(":")[2].split("/")[0]))
    client.loop_start()
    assert ready.wait(5)
    return client, got


def test_mqtt_results_arrive_also_after_the_broker_was_away(
    broker, deliver, journal, until, monkeypatch
):
    url, start, stop = broker
    monkeypatch.setenv("FASTAD_MQTT_PASSWORD", "word")
    places = deliver(mqtt=Mqtt(url))
    record(places, 2)
    places.write()
    time.sleep(0.1)
    assert journal.count("mqtt") == 2  # there is no broker yet
    # The place is tried again each so often: hold it until someone listens.
    places.close()
    start()
    client, got = subscribed(url)
    again = deliver(mqtt=Mqtt(url))
    record(again, 3)
    again.write()
    until(lambda: numbers(got) == [1, 2, 3, 4, 5])
    until(lambda: journal.count("mqtt") == 0)
    client.loop_stop()
    stop()
    record(again, 1)
    again.write()
    time.sleep(0.1)
    assert journal.count("mqtt") == 1
    start()
    until(lambda: journal.count("mqtt") == 0)
    client.disconnect()


def test_a_broker_that_refuses_the_password_is_said(broker, deliver, journal, until, caplog):
    url, start, _ = broker
    start()
    places = deliver(mqtt=Mqtt(url))
    record(places, 1)
    places.write()
    until(lambda: "MQTT at 127.0.0.1: the broker said: Not authorized" in caplog.text)
    assert journal.count("mqtt") == 1
