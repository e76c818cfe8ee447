"""The program that decodes compressed pixel data, in a process that it may take down with it.

Run by path, so that it needs nothing of the node and starts fast; `isolation.py` talks to it.
"""

import resource
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

from pydicom.pixels.decoders.base import get_decoder

MAX_MEMORY_BYTES = 4 << 30


def serve(connection: Connection) -> None:
    """Answer each (transfer syntax, pixel data, plug-in, options) with (array, "") or (None, reason)."""
    while True:
        try:
            syntax, pixel_data, plugin, options = connection.recv()
        except EOFError:
            return
        connection.send(_decode(syntax, pixel_data, plugin, options))


def _decode(syntax: str, pixel_data: bytes, plugin: str, options: dict[str, Any]) -> tuple[Any, str]:
    try:
        return get_decoder(syntax).as_array(pixel_data, raw=True, decoding_plugin=plugin, **options)[0], ""
    except BaseException as error:  # noqa: BLE001 - the edge: a plug-in in Rust panics past Exception
        return None, str(error) or type(error).__name__


def main() -> None:
    """Serve the socket whose number is the first argument."""
    # An interrupted node closes the socket, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A core file would hold a patient's image.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    warnings.simplefilter("ignore")
    serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
