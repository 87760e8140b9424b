"""The converter: annotations of other tools as a dataset in YOLO layout with its data yaml (docs/convert.md)."""

from typing import TYPE_CHECKING

from utils.config import from_options
from utils.datasets.convert.convert_options import ConvertConfig

if TYPE_CHECKING:
    from utils.datasets.convert.conversion import ConversionReport


def run(**options: object) -> "ConversionReport":
    """Convert a dataset with the given options (named as the flags, with underscores) and return the report."""
    return main(from_options(ConvertConfig, **options))


def main(config: ConvertConfig) -> "ConversionReport":
    """Convert as `config` says. Raises UserError kinds if nothing can be converted; then nothing is written."""
    from utils.datasets.convert.conversion import convert

    return convert(config)
