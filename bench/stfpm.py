"""What anomalib 2's STFPM computes, in plain PyTorch: the benches compare with it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
Network = Callable[[Tensor], list[Tensor]]


@torch.inference_mode()
def stfpm(teacher: Network, student: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (N, 3, H, W) in [0, 1] -> scores (N,) and maps (N, 1, H, W), in float32."""
    size = (images.shape[-2], images.shape[-1])
    images = (images - MEAN) / DEVIATION
    joined = torch.ones(len(images), 1, *size)
    for of_teacher, of_student in zip(teacher(images), student(images), strict=True):
        difference = F.normalize(of_teacher) - F.normalize(of_student)
        distance = 0.5 * torch.norm(difference, p=2, dim=1, keepdim=True) ** 2
        joined *= F.interpolate(distance, size, mode="bilinear", align_corners=False)
    return joined.amax((1, 2, 3)), joined
