"""The dataset checker: what is wrong with a dataset, file by file and as a whole (docs/check.md)."""

from typing import TYPE_CHECKING

from utils.config import from_options
from utils.datasets.check.check_options import CheckConfig

if TYPE_CHECKING:
    from utils.datasets.check.checker import Report


def run(**options: object) -> "Report":
    """Check a dataset with the given options (named as the flags, with underscores) and return the report."""
    return main(from_options(CheckConfig, **options))


def main(config: CheckConfig) -> "Report":
    """Check as `config` says. Raises UserError kinds if nothing can be checked."""
    from utils.datasets.check.checker import check
    from utils.plots.fonts import drawing_fonts

    with drawing_fonts(config.font):
        return check(config)
