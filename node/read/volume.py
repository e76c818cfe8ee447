"""A CT series as one volume in Hounsfield units, its slices in order along the normal.

Words of uncompressed slices go from the file straight to where they are wanted, which may be memory that an
engine shares with its server, and are rescaled there: the volume is all that is held. Compressed frames take
the way of all others, through a decoder in a process of its own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from node.domain.image import Volume
from node.domain.study import Series
from node.errors import GeometryError, OutOfResourcesError, PixelError
from node.read.dataset import dataset_faults, pixel_faults
from node.read.hounsfield import Voxels, convert, rescale
from node.read.plane import Plane, Source, is_ct, is_localizer, make_plane
from node.read.slices import read_headers
from node.read.stack import MAX_PLANES, arrange, count
from node.read.stored import DECODERS, StoredFrames

Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[np.generic]]


def read_volume(series: Series, allocate: Allocate = np.empty) -> Volume:
    """Return the slices of a CT series, or the frames of its enhanced instances, as a volume.

    `allocate` gives the room for the voxels. Raises GeometryError for planes that are no stack (see `stack`),
    PixelError for pixels that are damaged or no Hounsfield units, DatasetError for a file that cannot be read
    or is no CT, OutOfResourcesError where memory is short.
    """
    planes, notes = _planes(series)
    stack = arrange(series.series_instance_uid, planes, _have_same_pixels)
    first = stack.planes[0]
    shape = len(stack.planes), first.rows, first.columns
    hounsfield = _room(series.series_instance_uid, shape, allocate)
    _fill(stack.planes, hounsfield)
    return Volume(
        tuple(plane.source.frame for plane in stack.planes),
        hounsfield,
        np.stack([plane.origin_xyz_mm for plane in stack.planes]),
        first.row_direction_xyz,
        first.column_direction_xyz,
        first.spacing_yx_mm,
        (*notes, *stack.notes),
    )


def _room(uid: str, shape: tuple[int, int, int], allocate: Allocate) -> npt.NDArray[np.int16]:
    try:
        room = allocate(shape, np.int16)
    except MemoryError as error:
        raise OutOfResourcesError(f"{uid}: not enough memory for {shape} voxels") from error
    if room.shape != shape or room.dtype != np.int16 or not room.flags.c_contiguous:
        raise ValueError(f"room of {room.shape} {room.dtype}, expected {shape} int16 in C order")
    return room.view(np.int16)


def _planes(series: Series) -> tuple[list[Plane], list[str]]:
    """Return the planes of all slices, in no order, and what was left out."""
    planes: list[Plane] = []
    others = localizers = 0
    for instance in series.instances:
        for source, values in read_headers(instance):
            if not is_ct(values):
                others += 1
            elif is_localizer(values):
                localizers += 1
            else:
                planes.append(make_plane(source, values))
        if len(planes) > MAX_PLANES:
            raise GeometryError(series.series_instance_uid, f"more than {MAX_PLANES} slices")
    notes = [
        f"{count(number, noun)} left out."
        for number, noun in ((localizers, "localizer"), (others, "object of another kind"))
        if number
    ]
    return planes, notes


# --- pixels


def _fill(planes: Sequence[Plane], hounsfield: Voxels) -> None:
    """Read every plane to its place; those that are coded several at a time, for they take decoders long."""
    coded = []
    for plane, voxels in zip(planes, hounsfield, strict=True):
        if plane.source.offset is None:
            coded.append((plane, voxels))
        else:
            _read_plane(plane, voxels)
    if coded:
        with ThreadPoolExecutor(DECODERS) as executor:
            # Taking the results brings up the first fault, and then nothing more is begun.
            list(executor.map(_read_plane, *zip(*coded, strict=True)))


def _read_plane(plane: Plane, voxels: Voxels) -> None:
    """Fill (rows, columns) with the Hounsfield units of a plane."""
    source = plane.source
    if source.offset is not None:
        _read_words(source, voxels)
        rescale(voxels, plane.scale)
    elif source.dataset is not None:
        with pixel_faults(source.instance.sop_instance_uid):
            frames = StoredFrames(source.instance, source.dataset)
            convert(frames.words(source.frame_number or 1), plane.scale, voxels)


def _read_words(source: Source, voxels: Voxels) -> None:
    room = voxels.view(np.uint8).reshape(-1).data
    instance = source.instance
    with dataset_faults(instance.sop_instance_uid), instance.path.open("rb", buffering=0) as file:
        file.seek(source.offset or 0)
        filled = 0
        while filled < len(room) and (size := file.readinto(room[filled:])):
            filled += size
    if filled < len(room):
        raise PixelError(source.name, f"the file ends after {filled} of {len(room)} bytes of the frame")


def _have_same_pixels(one: Plane, other: Plane) -> bool:
    first, second = (np.empty((plane.rows, plane.columns), np.int16) for plane in (one, other))
    _read_plane(one, first)
    _read_plane(other, second)
    return np.array_equal(first, second)
