"""`sightline run`: the node."""

import signal
import threading
from pathlib import Path

from node.app import Node, running
from node.checks import check_file, check_start
from node.cli.output import ConfigurationFile
from node.config import load_usable
from node.errors import ConfigurationError
from node.telemetry import configure_logging


def run(config: ConfigurationFile = None) -> None:
    """Receive, read and deliver until told to stop; SIGTERM and Ctrl-C let work under way finish."""
    configuration, problems = load_usable(config)
    if problems or any(one.problem for one in check_start(configuration)):
        # Tell all at once, the destinations too; these alone are no reason not to start: they may come back.
        raise ConfigurationError([f"{one.name}: {one.problem}" for one in check_file(config) if one.problem])
    path = Path(configuration.log.path) if configuration.log.path else None
    configure_logging(configuration.log.level, path)
    is_over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: is_over.set())
    with running(Node(configuration)):
        is_over.wait()
