"""Tiles of an image: where they lie so that they cover it, whole and with the overlap that was asked for."""

from typing import NamedTuple


class ImageTile(NamedTuple):
    """A part of an image, in its pixels; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


def tile_starts(length: int, size: int, overlap: float) -> list[int]:
    """Return where tiles begin along one side of an image.

    Args:
        length: Pixels of the side.
        size: Pixels of a tile.
        overlap: Least share of a tile that it has in common with the next, 0 to below 1.

    Returns:
        Rising positions, the first 0. The last tile is shifted inside, so that it is whole too; it overlaps more.

    Example:
        >>> tile_starts(1920, 640, 0.2)
        [0, 512, 1024, 1280]
    """
    step = max(size - int(size * overlap), 1)
    last = max(length - size, 0)
    return [*range(0, last, step), last]


def tiles_of(shape: tuple[int, int], size: int, overlap: float) -> list[ImageTile]:
    """Return the tiles of an image, row after row.

    Args:
        shape: (height, width) of the image in pixels.
        size: Side of a tile in pixels; along a side of the image that is shorter, tiles are as long as that.
        overlap: Least share of a tile's side that neighbors have in common, 0 to below 1.

    Returns:
        Tiles of one shape that cover every pixel; one, if the image is no larger than a tile.
    """
    height, width = (min(side, size) for side in shape)
    return [
        ImageTile(left, top, left + width, top + height)
        for top in tile_starts(shape[0], size, overlap)
        for left in tile_starts(shape[1], size, overlap)
    ]
