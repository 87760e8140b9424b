"""YOLOv5's utils.downloads: files are found on disk, and fetched only if that is asked for."""

from pathlib import Path

from utils.checkpoint import find_weights
from utils.errors import ConfigError


def attempt_download(
    file: str | Path, repo: str = "ultralytics/yolov5", release: str = "v6.1", download: bool = False
) -> str:
    """Return the path of a checkpoint that is on disk; with `download` published weights are fetched.

    Args:
        file: The path.
        repo: Must be YOLOv5's.
        release: Not used: published weights are those of v6.1.
        download: Whether they may be fetched; v6.1 does so unasked.

    Returns:
        The path.

    Raises:
        CheckpointError: If it is not there; for published weights the line names their address.
        ConfigError: If another repository is asked for.
    """
    if repo != "ultralytics/yolov5":
        raise ConfigError(f"attempt_download: {repo} is not asked; fetch {file} yourself and give its path")
    return str(find_weights(str(file).strip().replace("'", ""), download))


def is_url(url: str | Path, check: bool = False) -> bool:
    """Return whether a text is an address; nothing is asked.

    Args:
        url: The text.
        check: Not followed.

    Returns:
        Whether it begins like one.
    """
    scheme, separator, rest = str(url).partition("://")
    return bool(separator and scheme.isalpha() and rest)
