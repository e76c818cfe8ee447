"""A network over a volume larger than its input: windows that overlap, and their answers blended into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise, product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]
Corner = tuple[int, int, int]
Answer = Callable[[NDArray[np.int16]], Mapping[str, NDArray[np.generic]]]

OVERLAP = 0.25
"""The share of a window that the next one sees again."""

SLACK = 0.15
"""The share of a step by which windows may lie farther apart, all together."""

SIGMA = 0.125
"""Of the bell that weights an answer, in lengths of the window: at its edges a network sees least."""

LEAST_WEIGHT = 1e-3


def window_corners(
    shape_zyx: Shape, window_zyx: Shape, wanted: NDArray[np.bool_], overlap: float = OVERLAP
) -> list[Corner]:
    """Return the first element (z, y, x) of each window that is needed, in order.

    Every wanted element is in a window, and in that one whose middle is nearest to it along each axis. Raises
    ValueError where the volume is smaller than the window.
    """
    if any(size < window for size, window in zip(shape_zyx, window_zyx, strict=True)):
        raise ValueError(f"a volume of {shape_zyx}, expected at least {window_zyx}")
    axes = [_starts(size, window, overlap) for size, window in zip(shape_zyx, window_zyx, strict=True)]
    cells = [
        _cells(starts, window, size) for starts, window, size in zip(axes, window_zyx, shape_zyx, strict=True)
    ]
    numbers = product(*(range(len(starts)) for starts in axes))
    return [
        (axes[0][z], axes[1][y], axes[2][x])
        for z, y, x in numbers
        if wanted[cells[0][z], cells[1][y], cells[2][x]].any()
    ]


def blend(
    volume: NDArray[np.int16],
    corners: Sequence[Corner],
    buffer: NDArray[np.int16],
    *,
    answer: Answer,
    names: Sequence[str],
) -> dict[str, Floats]:
    """Return what a network says of a volume (z, y, x): an array as large for each name, 0 between windows.

    `buffer` is (batch, 1, window z, y, x): it is filled with the windows, batch by batch, and given to
    `answer`, whose named outputs have its shape. Where windows overlap, the mean is taken, weighted by a bell
    over each window. Besides the results one more array of the volume's shape is held, for the weights.
    """
    window = buffer.shape[2:]
    bell = _bell(window)
    sums = {name: np.zeros(volume.shape, np.float32) for name in names}
    weights = np.zeros(volume.shape, np.float32)
    for batch in _batches(corners, len(buffer)):
        places = [_place(corner, window) for corner in batch]
        for index, place in enumerate(places):
            buffer[index, 0] = volume[place]
        outputs = answer(buffer[: len(batch)])
        for index, place in enumerate(places):
            weights[place] += bell
            for name, total in sums.items():
                total[place] += bell * outputs[name][index, 0]
    for plane, weight in enumerate(weights):
        for total in sums.values():
            np.divide(total[plane], weight, out=total[plane], where=weight > 0)
    return sums


def _starts(size: int, window: int, overlap: float) -> list[int]:
    """Return where the windows start along an axis: as few as overlap about so much, evenly spread."""
    step = max(1.0, window * (1 - overlap))
    # One more for a last bit would cost a whole row of windows; without it all overlap a little less.
    slack = min(SLACK, overlap)
    count = 1 + max(0, int(np.ceil((size - window) / step - slack)), int(size > window))
    return [round(start) for start in np.linspace(0, size - window, count).tolist()]


def _cells(starts: Sequence[int], window: int, size: int) -> list[slice]:
    """Return for each window the elements that lie nearest to its middle."""
    bounds = [(one + other + window) // 2 for one, other in pairwise(starts)]
    return [slice(low, high) for low, high in zip([0, *bounds], [*bounds, size], strict=True)]


def _bell(window: Sequence[int]) -> Floats:
    """Return the weights over a window, 1 in its middle."""
    axes = [np.arange(length) - (length - 1) / 2 for length in window]
    bells = [np.exp(-((axis / (SIGMA * len(axis))) ** 2) / 2) for axis in axes]
    weights = bells[0][:, None, None] * bells[1][:, None] * bells[2]
    return np.asarray(np.maximum(weights, LEAST_WEIGHT), np.float32)


def _batches(corners: Sequence[Corner], size: int) -> Iterator[list[Corner]]:
    rest = iter(corners)
    while batch := list(islice(rest, size)):
        yield batch


def _place(corner: Corner, window: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + length) for start, length in zip(corner, window, strict=True))
