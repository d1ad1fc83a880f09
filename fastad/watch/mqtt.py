"""Results as MQTT messages, through paho-mqtt."""

import os
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

from fastad.watch.journal import Pending
from fastad.watch.result_files import payload

PORTS = {"mqtt": 1883, "mqtts": 8883}
TIMEOUT = 10.0  # seconds
PASSWORD = "FASTAD_MQTT_PASSWORD"  # a command line can be read by others


class Mqtt:
    """Publishes each result as JSON with QoS 1: it is taken when the broker has said so.

    Args:
        url: ``mqtt://[USER@]HOST[:PORT]/TOPIC``, or ``mqtts://`` with TLS. The environment variable
            FASTAD_MQTT_PASSWORD is the password.

    Raises:
        ImportError: paho-mqtt is not installed.
        ValueError: the address is no such one.
    """

    def __init__(self, url: str) -> None:
        try:
            import paho.mqtt.client
        except ImportError as error:
            raise ImportError('--mqtt needs paho-mqtt: pip install "fastad[watch]"') from error
        self._paho = paho.mqtt.client
        parts = urlsplit(url)
        self._topic = unquote(parts.path[1:])
        if parts.scheme not in PORTS or not parts.hostname or not self._topic:
            raise ValueError(f"--mqtt must be mqtt://HOST/TOPIC or mqtts://HOST/TOPIC; got {url}")
        if parts.password is not None:
            raise ValueError(f"--mqtt: give the password in the environment, as {PASSWORD}")
        if any(letter in self._topic for letter in "+#"):
            raise ValueError(f"--mqtt: a topic to publish to has no + and no #; got {self._topic}")
        self._parts, self._host = parts, parts.hostname
        self.name = f"MQTT at {parts.hostname}"
        self._client: Any = None

    def send(self, pending: Pending) -> None:
        try:
            if self._client is None:
                self._client = self._connected()
            sent = self._client.publish(self._topic, payload(pending), qos=1)
            sent.wait_for_publish(TIMEOUT)
            if not sent.is_published():
                raise TimeoutError(f"no answer within {TIMEOUT:.0f} s")
        except BaseException:
            # The client would send what it holds once more after the next connection.
            self.close()
            raise

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _connected(self) -> Any:
        client = self._paho.Client(self._paho.CallbackAPIVersion.VERSION2)
        parts, answered, answers = self._parts, threading.Event(), []
        if parts.username:
            client.username_pw_set(unquote(parts.username), os.environ.get(PASSWORD))
        if parts.scheme == "mqtts":
            client.tls_set()

        def on_connect(_: Any, __: Any, ___: Any, code: Any, ____: Any) -> None:
            answers.append(code)
            answered.set()

        client.on_connect = on_connect
        client.connect_timeout = TIMEOUT
        client.connect(self._host, parts.port or PORTS[parts.scheme])
        client.loop_start()
        if not answered.wait(TIMEOUT) or answers[0].is_failure:
            client.disconnect()
            client.loop_stop()
            said = f"the broker said: {answers[0]}" if answers else "the broker does not answer"
            raise ConnectionError(said)
        return client
