"""Loading a detector opens no other file and no connection, and starts no program (SECURITY.md)."""

import builtins
import os
import pickle
import socket
import subprocess

import numpy as np
import torch

from fastad.inference import Artifact, load, save

DOORS = (
    (builtins, "open"),
    (os, "system"),
    (pickle, "load"),
    (pickle, "loads"),
    (pickle, "Unpickler"),
    (socket, "socket"),
    (socket, "getaddrinfo"),
    (subprocess, "Popen"),
    (torch, "load"),
)


class DoorOpenedError(BaseException):
    """Not an Exception: nothing that reads a file may take it for damage."""


def test_loading_goes_through_no_door(small_model, tmp_path, monkeypatch):
    path = tmp_path / "a.fastad"
    config = small_model.config
    for name in ("teacher_weights", "teacher2_weights"):
        if hasattr(config, name):  # a forged file may name any other
            monkeypatch.setattr(config, name, str(tmp_path / "other.pth"))
    (tmp_path / "other.pth").write_bytes(b"never read")
    save(path, Artifact(small_model, (64, 64), np.array([0.25]), 0.1, 0.5, {}))
    load(path)  # what is imported on first use may open files

    def refuse(*arguments: object, **_: object) -> None:
        raise DoorOpenedError(arguments)

    real = builtins.open

    def open_the_detector(file, mode="r", *arguments, **options):
        if (file, mode) != (path, "rb"):
            refuse(file, mode)
        return real(file, mode, *arguments, **options)

    for module, name in DOORS:
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(builtins, "open", open_the_detector)
    loaded = load(path)
    monkeypatch.undo()
    assert loaded.threshold == 0.5
