"""Pictures of where an image is anomalous: the anomaly map in colour over the image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from fastad._files import atomic_path
from fastad.data.images import resize
from fastad.data.masks import resize_masks
from fastad.evaluation.regions import Region

# matplotlib's "inferno" (van der Walt and Smith, CC0) at 17 equal steps: perceptually uniform,
# readable in grey and with any colour vision.
INFERNO = np.array(
    [
        [0, 0, 4], [11, 7, 36], [33, 12, 74], [61, 9, 101], [87, 16, 110], [113, 25, 110],
        [138, 34, 106], [163, 44, 97], [188, 55, 84], [210, 70, 68], [228, 90, 49],
        [241, 115, 29], [249, 142, 9], [252, 172, 17], [249, 203, 53], [242, 234, 105],
        [252, 255, 164],
    ],
    dtype=np.float32,
)  # fmt: skip


def colour_scale(threshold: float) -> float:
    """The map value of the brightest colour: twice the threshold.

    An image becomes anomalous in the middle of the scale. One scale makes pictures comparable.

    Examples:
        >>> from fastad.inference import colour_scale
        >>> colour_scale(threshold=0.25)
        0.5
    """
    return 2.0 * threshold if threshold > 0 else 1.0


def colourise(values: np.ndarray) -> np.ndarray:
    """Values (...) in [0, 1], clipped -> inferno colours (..., 3), float32 in [0, 255]."""
    position = np.clip(values, 0.0, 1.0) * (len(INFERNO) - 1)
    low = np.minimum(position.astype(np.int64), len(INFERNO) - 2)
    part = (position - low)[..., None].astype(np.float32)
    return INFERNO[low] * (1 - part) + INFERNO[low + 1] * part


def overlay(image: np.ndarray, anomaly_map: np.ndarray, scale: float) -> np.ndarray:
    """Put an anomaly map in colour over its image.

    Where the map is 0, the image is unchanged. The colour covers more of the image the higher the
    map is, up to three quarters from half of the scale on.

    Args:
        image: (H, W, 3) uint8.
        anomaly_map: (h, w) floats, which are resized to the image.
        scale: map value of the brightest colour. See `colour_scale`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a wrong shape or type, or a scale that is not positive.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference import overlay
        >>> image = np.full((64, 64, 3), 128, dtype=np.uint8)
        >>> anomaly_map = np.zeros((16, 16))
        >>> anomaly_map[4:8, 4:8] = 1.0
        >>> picture = overlay(image, anomaly_map, scale=1.0)
        >>> picture[0, 0], picture[24, 24]
        (array([128, 128, 128], dtype=uint8), array([221, 223, 155], dtype=uint8))
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if anomaly_map.ndim != 2:
        raise ValueError(f"anomaly_map must be (h, w), got {anomaly_map.shape}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    own = torch.from_numpy(np.ascontiguousarray(anomaly_map, dtype=np.float32))[None]
    level = np.clip(resize(own, image.shape[:2])[0].numpy() / scale, 0.0, 1.0)
    cover = 0.75 * np.minimum(2 * level, 1.0)[..., None]
    return np.rint(image * (1 - cover) + colourise(level) * cover).astype(np.uint8)


def strip(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 by name, side by side under their names: (H', W', 3) uint8.

    All get the size of the first; between them and around the names is white.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    font = ImageFont.load_default(max(10, min(height, width) // 16))
    assert isinstance(font, ImageFont.FreeTypeFont)  # one with a size is
    gap = max(2, width // 50)
    line = sum(font.getmetrics()) + 2 * gap
    column = max(width, *(round(font.getlength(name)) + 2 for name in pictures))
    whole = Image.new("RGB", (len(pictures) * (column + gap) - gap, line + height), "white")
    draw = ImageDraw.Draw(whole)
    for index, (name, picture) in enumerate(pictures.items()):
        left = index * (column + gap) + (column - width) // 2
        resized = resize(torch.from_numpy(picture.copy()).permute(2, 0, 1), (height, width))
        whole.paste(Image.fromarray(resized.permute(1, 2, 0).contiguous().numpy()), (left, line))
        draw.text((left + width / 2, line / 2), name, "black", font, anchor="mm")
    return np.asarray(whole)


def boxed(picture: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the smallest box of each region and its number, from 1."""
    if not regions:
        return picture
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    thick = max(1, min(picture.shape[:2]) // 256)
    font = ImageFont.load_default(max(10, min(picture.shape[:2]) // 24))
    for number, region in enumerate(regions, start=1):
        outline = [*region.corners, region.corners[0]]
        draw.line(outline, "black", 3 * thick)  # seen on white, too
        draw.line(outline, "white", thick)
        x, y = max(region.corners)  # the rightmost, where there is room for the number
        draw.text((x + 2 * thick, y), str(number), "white", font, "lm", stroke_width=thick,
                  stroke_fill="black")  # fmt: skip
    return np.asarray(drawn)


def dimmed(picture: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8, darker outside of a region (h, w) bool, with a thin white border.

    Examples:
        >>> import numpy as np
        >>> from fastad.inference.heatmaps import dimmed
        >>> left = np.arange(64) < 32
        >>> picture = dimmed(np.full((64, 64, 3), 128, dtype=np.uint8), np.tile(left, (64, 1)))
        >>> picture[0, [0, 31, 32], 0]
        array([128, 255,  64], dtype=uint8)
    """
    inside = resize_masks(torch.from_numpy(roi), picture.shape[:2])
    thick = max(1, min(picture.shape[:2]) // 256)
    around = (~inside)[None].float()
    border = torch.nn.functional.max_pool2d(around, 2 * thick + 1, 1, thick)[0].bool() & inside
    drawn = picture.copy()
    drawn[~inside.numpy()] //= 2
    drawn[border.numpy()] = 255
    return drawn


def save_heatmap(
    path: str | Path,
    image: np.ndarray,
    anomaly_map: np.ndarray,
    scale: float,
    explanations: Mapping[str, np.ndarray] | None = None,
    regions: Sequence[Region] = (),
    roi: np.ndarray | None = None,
) -> None:
    """Write ``overlay(image, anomaly_map, scale)`` to a PNG file, atomically.

    Args:
        path: of the file.
        image: (H, W, 3) uint8.
        anomaly_map: (h, w) floats.
        scale: map value of the brightest colour.
        explanations: pictures (h, w, 3) uint8 by name, as of `Detector.explain`. The file then
            shows the image, these pictures, and the overlay side by side.
        regions: of the image; their boxes are drawn over the overlay, with their numbers.
        roi: (h, w) bool, a region of interest. What is outside is drawn darker.

    Raises:
        ValueError: as `overlay`.
        OSError: the file cannot be written.

    Examples:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from fastad.inference import save_heatmap
        >>> image = np.full((48, 64, 3), 128, dtype=np.uint8)
        >>> save_heatmap("heatmap.png", image, anomaly_map=np.eye(16), scale=1.0)
        >>> Image.open("heatmap.png").size  # width, height
        (64, 48)
    """
    coloured = overlay(image, anomaly_map, scale)
    if roi is not None:
        coloured = dimmed(coloured, roi)
    coloured = boxed(coloured, regions)
    if explanations:
        coloured = strip({"image": image, **explanations, "anomaly map": coloured})
    picture = Image.fromarray(coloured)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
