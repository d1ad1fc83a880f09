"""Which epoch of a stage is kept.

The mean map on good images alone misleads: a student that has learnt nothing yet, or one that
follows its teacher everywhere, has a low one. What synthesised defects are told apart by comes
first, then the mean map among epochs that do so about equally well.
"""

from collections.abc import Sequence

MARGIN = 0.01  # of quality: less may be chance


def replaces(kept: int | None, scores: Sequence[float], qualities: Sequence[float]) -> bool:
    """Whether the last epoch takes the place of the one that is kept so far.

    Without qualities where its score is lower. With them it must be within `MARGIN` of the best
    quality so far. And the kept epoch no longer is, or has the higher score.

    Args:
        kept: number of that epoch, from 1; None where there is none yet.
        scores: validation score of each epoch, lower is better.
        qualities: of each epoch, higher is better; empty for a stage without.
    """
    if kept is None:
        return True
    is_lower = scores[-1] < scores[kept - 1]
    if not qualities:
        return is_lower
    enough = max(qualities) - MARGIN
    return qualities[-1] >= enough and (qualities[kept - 1] < enough or is_lower)


def reason(kept: int, scores: Sequence[float], qualities: Sequence[float]) -> str:
    """Why epoch number ``kept`` is kept, in a line."""
    if not qualities:
        return f"lowest error on held-out good images, {scores[kept - 1]:.4g}"
    return (
        f"AUROC {qualities[kept - 1]:.3f} on synthesised defects (best {max(qualities):.3f}), "
        f"error on held-out good images {scores[kept - 1]:.4g}"
    )
