"""The server of the local page: models loaded, a port opened, and uvicorn run until the program is told to end."""

import logging
import socket
from typing import TYPE_CHECKING

from utils.errors import ConfigError
from utils.log import LOGGER
from utils.runtimes.packages import require
from utils.serve.serve_options import ServeConfig

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

_ENDING_S = 5  # seconds that requests have when the program is told to end
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(config: ServeConfig) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Args:
        config: The flags.

    Raises:
        ConfigError: If a package is missing or the port is taken.
        UserError: If weights cannot be read.
    """
    require("fastapi", "uvicorn", install="pip install -r requirements-serve.txt")
    from utils.serve.application import build_application
    from utils.serve.served_models import load_models

    with listening_socket(config.host, config.port) as listener:
        models = load_models(config)
        if config.host not in _LOCAL:
            LOGGER.warning(f"WARNING: --host {config.host}: whoever reaches this machine can use the models")
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        LOGGER.info(f"Page: http://{shown}:{port}  Interface: http://{shown}:{port}/docs  (Ctrl-C ends it)")
        application = build_application(models, config)
        server = make_server(application)
        logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)  # what is left at the end
        server.run(sockets=[listener])


def make_server(application: "FastAPI") -> "uvicorn.Server":
    """Return the server of an application. Told to end, it ends within seconds: clips stop, and slow senders are left.

    Args:
        application: What `build_application` made.

    Returns:
        The server, to be run.
    """
    import uvicorn

    settings = uvicorn.Config(
        application,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_ENDING_S,
    )
    server = uvicorn.Server(settings)
    application.state.is_ending = lambda: server.should_exit
    return server


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port that is taken is known before models are loaded.

    Args:
        host: An address or a name of this machine.
        port: 0 takes a free one.

    Returns:
        The socket.

    Raises:
        ConfigError: If the address is not this machine's, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(f"--host {host} --port {port}: {error.strerror or error}; choose another --port") from None
    return listener
