"""What the process of a command line owes to others: it shares processors, and ends with its agent.

Threads of libgomp, which torch's builds for Linux use, spin while they wait. With other work on the
machine, a thread that spins holds the processor that the awaited one needs.
"""

import ctypes
import os
import signal
import sys

SPIN_COUNT = "10000"  # of 300,000 that libgomp takes by itself
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # of the user


def share_processors() -> None:
    """Spin shortly, unless the environment says how to wait. Before torch is imported."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def end_with_agent() -> None:
    """Let the system end this process when the agent of torchrun that started it ends.

    An agent that is killed stops nobody. Its ranks would go on beside those of the next start. On
    Linux alone, and nothing is done where torchrun did not start this process.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
