"""What the models' configs have in common to check."""


def check_student(backbone: object, student: object) -> None:
    """Raise ValueError for a student beside a backbone's name, which has one of its own."""
    if isinstance(backbone, str) and student is not None:
        raise ValueError(f"student goes with a backbone that is a module, not {backbone!r}")
