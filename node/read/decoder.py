"""The program that decodes compressed pixel data, in a process that it may take down with it.

Run by path, so that it needs next to nothing of the node and starts fast; `isolation.py` talks to it.
"""

import resource
import signal
import socket
import sys
import warnings
from typing import Any

import numpy as np
from pydicom.pixels.decoders.base import get_decoder

from node.read.messages import Buffer, Bytes, receive, send

MAX_MEMORY_BYTES = 4 << 30
MAX_REASON_LENGTH = 1000


def serve(connection: socket.socket) -> None:
    """Answer each job, whose payload is pixel data, with dtype, shape and the frame, or with the reason."""
    while True:
        try:
            job, pixel_data = receive(connection)
        except EOFError:
            return
        send(connection, *_decode(pixel_data, **job))


def _decode(
    pixel_data: Bytes, syntax: str, plugin: str, options: dict[str, Any]
) -> tuple[dict[str, Any], Buffer]:
    try:
        decoder = get_decoder(syntax)
        frame = decoder.as_array(pixel_data.tobytes(), raw=True, decoding_plugin=plugin, **options)[0]
    except BaseException as error:  # noqa: BLE001 - the edge: a plug-in in Rust panics past Exception
        return {"reason": (str(error) or type(error).__name__)[:MAX_REASON_LENGTH]}, b""
    return {"dtype": frame.dtype.str, "shape": frame.shape}, np.ascontiguousarray(frame).data


def main() -> None:
    """Serve the socket whose number is the first argument."""
    # An interrupted node closes the socket, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A core file would hold a patient's image.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    warnings.simplefilter("ignore")
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
