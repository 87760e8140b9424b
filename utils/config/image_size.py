"""What `--imgsz` says where it takes one side, or height and width."""

from utils.errors import ConfigError


def both_sides(imgsz: tuple[int, ...]) -> tuple[int, int]:
    """Return (height, width) of one side or of both. Raises ConfigError for more."""
    if len(imgsz) not in (1, 2):
        raise ConfigError(f"--imgsz {' '.join(map(str, imgsz))}: expected one side, or height and width")
    return imgsz[0], imgsz[-1]
