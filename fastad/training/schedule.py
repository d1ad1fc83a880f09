"""The learning rate over a stage of a training."""

import math

SCHEDULES = ("constant", "cosine", "exponential")
WARM_UP = 0.05  # of the steps
DECAY = 0.9


def rate_factor(schedule: str, done: int, steps: int) -> float:
    """What the learning rate is multiplied by after ``done`` of ``steps`` steps.

    1 for "constant". "exponential" falls evenly to `DECAY` at the end. "cosine" rises linearly over
    the first twentieth of the steps and falls to zero on half a cosine (Loshchilov and Hutter,
    "SGDR", ICLR 2017, eq. 5, without restarts).
    """
    if schedule == "constant":
        return 1.0
    if schedule == "exponential":
        return DECAY ** (done / steps)
    warm_up = min((done + 1) / max(WARM_UP * steps, 1.0), 1.0)
    return warm_up * 0.5 * (1 + math.cos(math.pi * done / steps))
