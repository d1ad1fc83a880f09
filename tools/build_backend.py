"""PEP 517 backend: setuptools', reusing the torch that is already installed.

pip builds in an isolated environment that hides site-packages but keeps ``sys.prefix``. Asking
for torch there would download gigabytes and, worse, might build against another torch than the
one at hand. So the folders that hold the installed torch go to the end of ``sys.path``, and torch
becomes a build requirement only where there is none.
"""

import importlib.util
import sys
import sysconfig

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403 (re-export of the hooks)

for _scheme in ("purelib", "platlib"):
    _folder = sysconfig.get_path(_scheme)
    if _folder not in sys.path:
        sys.path.append(_folder)

if not any(map(importlib.util.find_spec, ("wheel", "setuptools.command.bdist_wheel"))):
    sys.exit("fastad cannot be built: setuptools is too old to write wheels; pip install wheel.")


def _torch_requirement() -> list[str]:
    return [] if importlib.util.find_spec("torch") else ["torch>=2.10"]


def get_requires_for_build_wheel(config_settings: dict | None = None) -> list[str]:
    return _torch_requirement()


def get_requires_for_build_editable(config_settings: dict | None = None) -> list[str]:
    return _torch_requirement()


def get_requires_for_build_sdist(config_settings: dict | None = None) -> list[str]:
    return _torch_requirement()


# Named here so that a reader sees the whole interface.
build_wheel = build_meta.build_wheel
build_editable = build_meta.build_editable
build_sdist = build_meta.build_sdist
