"""The peer of the engine: a bare ONNX Runtime loop over the same files, in a process of its own.

Run by path, it needs nothing of the node: it is what somebody would write in an afternoon; `ways.py` talks
to it.
"""

import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

Arrays = dict[str, Any]
Infer = Callable[[Arrays], Arrays]
Graph = tuple[str, Mapping[str, str], Mapping[str, str]]
"""A file, and the tensor of the ensemble that each of its inputs takes and each of its outputs gives."""


def open_loop(
    graphs: Sequence[Graph], threads: int, *, is_spinning: bool, is_batched: bool
) -> Callable[[Arrays], Arrays]:
    """Return the loop: named inputs, batch first, to every tensor of the ensemble, graph by graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not is_spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path, _, _ in graphs
    ]

    def infer(inputs: Arrays) -> Arrays:
        tensors = {name: array if is_batched else array[0] for name, array in inputs.items()}
        for session, (_, tensor_by_input, tensor_by_output) in zip(sessions, graphs, strict=True):
            feeds = {name: tensors[tensor] for name, tensor in tensor_by_input.items()}
            answers = session.run(list(tensor_by_output), feeds)
            tensors.update(zip(tensor_by_output.values(), answers, strict=True))
        return tensors if is_batched else {name: array[np.newaxis] for name, array in tensors.items()}

    return infer


def serve(connection: Connection, infer: Infer, prepare: Infer = lambda inputs: inputs) -> None:
    """Answer each list of inputs with the seconds of each and of all, the last outputs, and the peak memory.

    So many as are told are run at the same time; what `prepare` does is not measured.
    """
    while True:
        try:
            batch, concurrency = connection.recv()
        except EOFError:
            return
        ready = [prepare(_arrays(inputs)) for inputs in batch]
        seconds, wall_s, outputs = _run(infer, ready, concurrency)
        connection.send((seconds, wall_s, outputs, peak_memory_bytes()))
        # What was prepared may lie in shared memory, of which there is not much.
        del ready, outputs


def _run(infer: Infer, batch: list[Arrays], concurrency: int) -> tuple[list[float], float, Arrays]:
    def timed(inputs: Arrays) -> tuple[float, Arrays]:
        started = time.perf_counter()
        outputs = infer(inputs)
        return time.perf_counter() - started, outputs

    with ThreadPoolExecutor(concurrency) as pool:
        started = time.perf_counter()
        taken = list(pool.map(timed, batch))
        wall_s = time.perf_counter() - started
    wanted = {name: np.array(array) for name, array in taken[-1][1].items() if array.nbytes < 1 << 20}
    return [one[0] for one in taken], wall_s, wanted


def _arrays(inputs: Any) -> Arrays:
    """Return the arrays, or those that were only described: one of so many bytes is not sent here."""
    return inputs if isinstance(inputs, dict) else {inputs[0]: _volume(*inputs[1:])}


@cache
def _volume(shape: tuple[int, ...], seed: int) -> Any:
    """Return one volume of int16 in the batch, in the range of CT."""
    return np.random.default_rng(seed).integers(-1024, 3072, (1, *shape), dtype=np.int16)


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
    names = ("graphs", "threads", "is_spinning", "is_batched")
    serve(ours, open_loop(**{name: plan[name] for name in names}))
