"""Write a checkpoint in the formats of other runtimes: ONNX, TorchScript, OpenVINO, ncnn, TensorRT, CoreML, TFLite.

    python export.py --weights runs/train/exp/weights/best.pt --include onnx

Each file is run by its runtime and compared with torch before it is handed out. It lies beside the weights.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from utils.cli import run_from_python, run_script
from utils.config import ExportConfig, from_options, parse

DESCRIPTION = "Write a checkpoint in the formats of other runtimes, each file compared with torch."


def parse_opt(argv: Sequence[str] | None = None) -> ExportConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(ExportConfig, argv, description=DESCRIPTION, prog="export.py")


def run(**options: object) -> list[Path]:
    """Export with the given options (named as the flags, with underscores) and return the files and folders written.

    Raises UserError kinds; ParityError if a file differs from torch.
    """
    return run_from_python(main, lambda: from_options(ExportConfig, **options))


def main(config: ExportConfig) -> list[Path]:
    """Export as `config` says and return the files and folders written. Raises UserError kinds."""
    from utils.export.exporting import export

    return export(config)


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
