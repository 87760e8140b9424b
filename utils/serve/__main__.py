"""The local page: drop an image or a clip into a browser, and see what one or two models find.

    python -m utils.serve --weights runs/train/exp/weights/best.pt

The page is at http://127.0.0.1:8000, and its interface for programs at http://127.0.0.1:8000/docs. It is reached from
this machine only, unless --host says otherwise. Nothing is fetched from a network.
"""

import sys
from collections.abc import Sequence

from utils.cli import run_script
from utils.config.flags import parse
from utils.serve.serve_options import ServeConfig

DESCRIPTION = "A local page: drop an image or a clip into a browser, and see what one or two models find."


def parse_opt(argv: Sequence[str] | None = None) -> ServeConfig:
    """Return the options of a command line (without the program's name)."""
    return parse(ServeConfig, argv, description=DESCRIPTION, prog="python -m utils.serve")


def main(config: ServeConfig) -> None:
    """Serve the page until the program is told to end. Raises UserError kinds."""
    from utils.serve.server import serve

    serve(config)


if __name__ == "__main__":
    sys.exit(run_script(main, parse_opt))
