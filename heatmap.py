"""Show where in an image a detection comes from, and what attention blocks applied.

    python heatmap.py --weights runs/train/exp/weights/best.pt --source data/images --method gradcam

Results go to runs/heatmap/exp, exp2, ...: one figure per image, and the figures of all maps in heatmaps.csv.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_script
from utils.config import HeatmapConfig, from_options, parse

DESCRIPTION = "Show where in an image a detection comes from, and what attention blocks applied."


def parse_opt(argv: Sequence[str] | None = None) -> HeatmapConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(HeatmapConfig, argv, description=DESCRIPTION, prog="heatmap.py")


def run(**options: object) -> Path:
    """Draw heat maps with the given options (named as the flags, with underscores) and return the run folder.

    Inputs that fail are skipped with a warning. Raises UserError kinds, also if every input fails.
    """
    from utils.engine.heatmapping import draw_heatmaps

    return draw_heatmaps(from_options(HeatmapConfig, **options)).save_dir


def main(config: HeatmapConfig) -> Path:
    """Draw heat maps as `config` says and return the run folder. Raises UserError kinds; PartialError if one failed."""
    from utils.engine.heatmapping import draw_heatmaps

    outcome = draw_heatmaps(config)
    outcome.require_complete()
    return outcome.save_dir


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
