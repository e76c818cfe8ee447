"""Round tubes drawn into a box of voxels: vessels, airways, spicules."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from node.samples.sections import Box
from node.samples.shapes import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Tubes:
    """Many round tubes: their ends (n, 3) in patient mm (x, y, z) and the radii (n, 2) there."""

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    radii: NDArray[np.float64]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.starts)

    def chosen(self, which: NDArray[np.bool_]) -> "Tubes":
        """Return some of them."""
        return Tubes(self.starts[which], self.ends[which], self.radii[which])

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lowest and the highest corner (n, 3) of each one's box."""
        reach = self.radii.max(axis=1, initial=0.0)[:, np.newaxis]
        return np.minimum(self.starts, self.ends) - reach, np.maximum(self.starts, self.ends) + reach

    def touching(self, low_xyz: Sequence[float], high_xyz: Sequence[float]) -> "Tubes":
        """Return those whose box meets a box in patient mm."""
        low, high = self.bounds()
        return self.chosen(np.all((low <= high_xyz) & (high >= low_xyz), axis=1))


def join(parts: Sequence[Tubes]) -> Tubes:
    """Return the tubes of all parts."""
    return Tubes(
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        np.concatenate([part.radii for part in parts]),
    )


def paint_tubes(cover: Floats, tubes: Tubes, box: Box) -> None:
    """Raise `cover` (z, y, x) to how much of each voxel lies in a tube.

    A tube thinner than the edge fills no voxel wholly: its peak is that of a Gaussian of the edge's width.
    """
    low, high = tubes.bounds()
    edge = box.edge_mm
    spans = [
        np.stack([np.searchsorted(axis, low[:, k] - edge), np.searchsorted(axis, high[:, k] + edge)], axis=1)
        for axis, k in ((box.z, 2), (box.y, 1), (box.x, 0))
    ]
    peaks = 1 - np.exp(-((tubes.radii.mean(axis=1) / (0.42 * edge)) ** 2) / 2)
    for i in np.flatnonzero(np.all([span[:, 0] < span[:, 1] for span in spans], axis=0)):
        z, y, x = (slice(int(span[i, 0]), int(span[i, 1])) for span in spans)
        depth = _tube_depth(
            tubes.starts[i], tubes.ends[i] - tubes.starts[i], tubes.radii[i], box.crop((z, y, x))
        )
        depth *= np.float32(1 / edge)
        depth += np.float32(0.5)
        np.clip(depth, 0, 1, out=depth)
        depth *= np.float32(peaks[i])
        part = cover[z, y, x]
        np.maximum(part, depth, out=part)


def _tube_depth(
    start: NDArray[np.float64], run: NDArray[np.float64], radii: NDArray[np.float64], box: Box
) -> Floats:
    """Return how deep each voxel (z, y, x) of a box lies in one tube, negative outside."""
    z, y, x = (axis - np.float32(start[k]) for axis, k in ((box.z, 2), (box.y, 1), (box.x, 0)))
    length_2 = float(run @ run) + 1e-6
    steps = [axis * np.float32(run[k] / length_2) for axis, k in ((z, 2), (y, 1), (x, 0))]
    share = steps[0][:, np.newaxis, np.newaxis] + steps[1][:, np.newaxis] + steps[2]
    np.clip(share, 0, 1, out=share)
    distance = np.square(x - share * np.float32(run[0]))
    distance += np.square(y[:, np.newaxis] - share * np.float32(run[1]))
    distance += np.square(z[:, np.newaxis, np.newaxis] - share * np.float32(run[2]))
    np.sqrt(distance, out=distance)
    share *= np.float32(radii[1] - radii[0])
    share += np.float32(radii[0])
    share -= distance
    return np.asarray(share, dtype=np.float32)
