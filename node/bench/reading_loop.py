"""One reading of a series, by the node or by a peer, in a process of its own; `reading.py` starts it."""

import gc
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from node.bench.memory import forget_peak, peak
from node.bench.plain_read import Voxels, read_with_pydicom, read_with_simpleitk
from node.bench.reading_inputs import find_series
from node.domain.study import Series
from node.read.volume import read_volume


def _by_node(series: Series) -> Voxels:
    return read_volume(series).hounsfield


def _by_simpleitk(series: Series) -> Voxels:
    return read_with_simpleitk([one.path for one in series.instances])


def _by_pydicom(series: Series) -> Voxels:
    return read_with_pydicom([one.path for one in series.instances])


READ_BY_WAY: Mapping[str, Callable[[Series], Voxels]] = MappingProxyType(
    {"node": _by_node, "simpleitk": _by_simpleitk, "pydicom": _by_pydicom}
)


def measure(read: Callable[[Series], Voxels], series: Series) -> dict[str, Any]:
    """Return the seconds that a reading took, the memory beyond what was held before, and what was read."""
    gc.collect()
    before = forget_peak()
    started, started_cpu = time.perf_counter(), time.process_time()
    voxels = read(series)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return {
        "seconds": ended - started,
        "cpu_s": ended_cpu - started_cpu,
        "extra_memory_bytes": peak() - before,
        "volume_bytes": voxels.size * np.dtype(np.int16).itemsize,
        # SimpleITK widens to 32 bits where words are signed; the units are the same.
        "voxels_sha256": hashlib.sha256(np.ascontiguousarray(voxels, np.int16).data).hexdigest(),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    reading, small, folder = READ_BY_WAY[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    # Libraries are loaded and tables made once in a process; the node does that when it starts.
    reading(find_series(small))
    sys.stdout.write(json.dumps(measure(reading, find_series(folder))))
