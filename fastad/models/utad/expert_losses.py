"""What the networks of UTAD's second stage learn besides looking real.

After MUNIT (Huang et al., ECCV 2018, eq. 1 to 4). There images of two kinds come without pairs;
here every image has its impression, so pictures are compared with what they shall be, and none has
to be rebuilt within its own kind.
"""

from torch import Tensor

from fastad.models.utad.expert import ExpertNet
from fastad.models.utad.impression_losses import widened


def translation_losses(
    expert: ExpertNet, images: Tensor, impressions: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Losses by name for (N, 3, H, W) in [0, 1], and the impressions with details.

    ``image``: mean absolute differences of both pictures from what they shall be. ``detail`` and
    ``content``: those of the codes, made of the pictures again, from the codes that they are of.
    """
    content, detail, coarse = expert.encode(images, impressions)
    made, naive = expert.to_image(coarse, detail), expert.to_impression(content)
    content_again, detail_again, coarse_again = expert.encode(made, naive)
    losses = {
        "image": _distance(made, images) + _distance(naive, impressions),
        "detail": _distance(detail_again, detail),
        "content": _distance(content_again, coarse) + _distance(coarse_again, content),
    }
    return losses, made


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return (widened(found) - widened(wanted)).abs().mean()
