"""What the models' configs check their options by."""

import math


class Checked:
    """Base of configs: `_require` refuses an option by its name and value."""

    def _require(self, field: str, holds: bool, what: str) -> None:
        """ValueError that says ``what`` a field must be, unless it ``holds``."""
        if not holds:
            raise ValueError(f"{field} must be {what}; got {getattr(self, field)!r}")


def check_student(backbone: object, student: object) -> None:
    """Raise ValueError for a student beside a backbone's name, which has one of its own."""
    if isinstance(backbone, str) and student is not None:
        raise ValueError(f"student goes with a backbone that is a module, not {backbone!r}")


def is_number(value: object, minimum: float) -> bool:
    """Whether a value is a finite number of at least ``minimum``, and no bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return minimum <= value < math.inf
