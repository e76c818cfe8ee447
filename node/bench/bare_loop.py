"""The peer of the engine: a bare ONNX Runtime loop over the same files, in a process of its own.

Run by path, it needs nothing of the node: it is what somebody would write in an afternoon; `inference.py`
talks to it.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import onnxruntime

Arrays = dict[str, Any]
Graph = tuple[str, Mapping[str, str], Mapping[str, str]]
"""A file, and the tensor of the ensemble that each of its inputs takes and each of its outputs gives."""


def open_loop(graphs: Sequence[Graph], threads: int, *, is_spinning: bool) -> Callable[[Arrays], Arrays]:
    """Return the loop: named inputs to every tensor of the ensemble, graph by graph in their order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not is_spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path, _, _ in graphs
    ]

    def infer(inputs: Arrays) -> Arrays:
        tensors = dict(inputs)
        for session, (_, tensor_by_input, tensor_by_output) in zip(sessions, graphs, strict=True):
            feeds = {name: tensors[tensor] for name, tensor in tensor_by_input.items()}
            answers = session.run(list(tensor_by_output), feeds)
            tensors.update(zip(tensor_by_output.values(), answers, strict=True))
        return tensors

    return infer


def serve(connection: Connection, infer: Callable[[Arrays], Arrays]) -> None:
    """Answer each list of inputs with the seconds of each, the last outputs, and the peak memory in bytes."""
    while True:
        try:
            batch = connection.recv()
        except EOFError:
            return
        seconds, outputs = [], {}
        for inputs in batch:
            started = time.perf_counter()
            outputs = infer(inputs)
            seconds.append(time.perf_counter() - started)
        connection.send((seconds, outputs, peak_memory_bytes()))


def peak_memory_bytes() -> int:
    """Return the most that was resident of this process.

    From Linux itself: `getrusage` would count what the parent had resident when it started this process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) << 10


def connect() -> Connection:
    """Return the connection to the benchmark, whose socket is the first argument of the program."""
    # An interrupted benchmark closes the socket, which ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Connection(int(sys.argv[1]))


if __name__ == "__main__":
    ours = connect()
    plan = ours.recv()
    serve(ours, open_loop(plan["graphs"], plan["threads"], is_spinning=plan["is_spinning"]))
