"""Test images shared by several processes: scores and maps go through files, so metrics are exact.

The first rank gives the scores and maps to the metrics in the order of the images, as one process
would. So the numbers are those of one process to the last bit, and its memory is bounded alike.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fastad.commands.output import reason
from fastad.data import ImageError, Sample
from fastad.distributed import Parts
from fastad.evaluation.evaluate import Answers, Predict, Read, Skip, answered

SHARED = 4  # batches in a part


class OthersError(Exception):
    """This process is not the first: its part of the work is done, and another one goes on."""


class SharedAnswers:
    """What a detector says of test images, as `fastad.evaluation.evaluate.answered` gives it.

    Args:
        target: the result; the parts lie beside it until `remove`.
        asked: digest of the request.
    """

    def __init__(self, target: Path, asked: str):
        self._target, self._asked = target, asked
        self._parts: Parts | None = None

    def __call__(
        self,
        predict: Predict,
        samples: Sequence[Sample],
        size: tuple[int, int],
        batch_size: int,
        read: Read,
        skip: Skip | None,
    ) -> Iterator[Answers]:
        """Work through the parts that nobody has. Raises `OthersError` on all ranks but the first.

        Raises ImageError for what cannot be read, where there is no ``skip``.
        """
        self._parts = Parts(self._target, self._asked, len(samples), SHARED * batch_size, ".npz")

        def do(part: range, path: Path) -> None:
            bad: list[tuple[int, str]] = []
            own = samples[part.start : part.stop]
            places = {id(sample): i for i, sample in zip(part, own, strict=True)}

            def leave_out(sample: Sample, error: Exception) -> None:
                bad.append((places[id(sample)], reason(error)))

            leaves_out = leave_out if skip is not None else None
            found = list(answered(predict, own, size, batch_size, read, leaves_out))
            none = np.empty(0, np.float32), np.empty((0, 1, 1), np.float32)
            scores, maps = zip(*(one[1:] for one in found), strict=True) if found else zip(none)
            with open(path, "wb") as file:
                np.savez(
                    file,
                    positions=np.array([part[p] for one in found for p in one[0]], np.int64),
                    scores=np.concatenate(scores),
                    maps=np.concatenate(maps),
                    unreadable=np.array(json.dumps(bad)),
                )

        if not self._parts.work(do):
            raise OthersError
        for path in self._parts:
            with np.load(path) as part:
                for position, text in json.loads(str(part["unreadable"])):
                    assert skip is not None  # there would be an error otherwise
                    skip(samples[position], ImageError(text))
                positions = part["positions"].tolist()
                if positions:
                    yield positions, part["scores"], part["maps"]

    def remove(self, results: Sequence[Path]) -> None:
        """Remove the parts, once the results are written."""
        if self._parts is not None:
            self._parts.remove(results)
