"""What a misspelt name may have been meant to be."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like another; None where none is."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.7)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Like " (did you mean learning_rate?)"; empty where nothing known is like the name.

    Examples:
        >>> from fastad._suggest import did_you_mean
        >>> did_you_mean("learning_rat", ["epochs", "learning_rate"])
        ' (did you mean learning_rate?)'
    """
    found = nearest(name, known)
    return "" if found is None else f" (did you mean {found}?)"
