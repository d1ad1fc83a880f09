"""How the command line's threads wait for each other, so that other programs get their share.

Threads of libgomp, which torch's builds for Linux use, spin while they wait. With other work on the
machine, a thread that spins holds the processor that the awaited one needs.
"""

import os
import sys

SPIN_COUNT = "10000"  # of 300,000 that libgomp takes by itself
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # of the user


def share_processors() -> None:
    """Spin shortly, unless the environment says how to wait. Before torch is imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
