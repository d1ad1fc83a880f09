"""Large images in tiles without seams: maps from tiles that equal the map of the whole image.

Networks run on tiles. What they find, distances at each place of each level, is put together and
judged as a whole: means by position, interpolation, pooling and thresholds know nothing of tiles.
Open `reach` for how much around a tile its networks must see, `windows` for where tiles lie, and
`dataset` for the tiles that a training sees.
"""

from fastad.tiles.dataset import TileDataset
from fastad.tiles.prediction import Tiling
from fastad.tiles.reach import Reach, reach_of

__all__ = ["Reach", "TileDataset", "Tiling", "reach_of"]
