"""Where a region is, as coordinates in a report: pixels of its picture, or millimeters of the slide."""

import re

import numpy as np
import numpy.typing as npt
from highdicom.spatial import ImageToReferenceTransformer
from highdicom.sr import (
    ContentSequence,
    GraphicTypeValues,
    GraphicTypeValues3D,
    PixelOriginInterpretationValues,
    RelationshipTypeValues,
    Scoord3DContentItem,
    ScoordContentItem,
)

from node.domain.location import Outline
from node.encode import codes
from node.encode.document import CONTAINS
from node.encode.identity import Result
from node.encode.pictures import pictures_of, refer
from node.encode.source import Source
from node.errors import DatasetError
from node.read.dataset import dataset_faults

Points = npt.NDArray[np.float64]

MOST_POINTS = 5000
"""The bytes of one FL element end at 65 534 (PS3.5 7.1.2): 5 461 points in space."""

MAX_COSINE_ERROR = 1e-3


def coordinates(outline: Outline, result: Result) -> ScoordContentItem | Scoord3DContentItem:
    """Return the outline as a closed line on its picture; on a slide, where that has a place, in millimeters.

    Raises DatasetError where the slide's geometry is none, and where the picture has no pixels.
    """
    source = source_of(outline, result)
    points = _closed(outline)
    if is_tiled(source) and (place := _place_on_slide(source)):
        return _on_slide(place(points), source)
    return _on_picture(points, outline, result)


def source_of(outline: Outline, result: Result) -> Source:
    """Return the image that an outline is on."""
    uid = outline.frame.sop_instance_uid
    return next(one for one in result.sources if one.sop_instance_uid == uid)


def is_tiled(source: Source) -> bool:
    """Return whether the image is a level of a slide, so that outlines are on its total pixel matrix."""
    return source.number("TotalPixelMatrixRows") > 0


def _closed(outline: Outline) -> Points:
    """Return the points, the first repeated at the end; every n-th of more than an element can hold."""
    step = -(-len(outline.points_xy) // (MOST_POINTS - 1))
    points = outline.points_xy[::step].astype(np.float64)
    return np.concatenate([points, points[:1]])


def _on_picture(points: Points, outline: Outline, result: Result) -> ScoordContentItem:
    """Return a polyline: in two dimensions there is no polygon."""
    pictures = pictures_of(result, [outline.frame])
    if not pictures:
        raise DatasetError(outline.frame.sop_instance_uid, "has no pixels to outline anything on")
    origin = PixelOriginInterpretationValues.VOLUME if is_tiled(pictures[0].source) else None
    item = ScoordContentItem(
        codes.IMAGE_REGION,
        GraphicTypeValues.POLYLINE,
        points,
        pixel_origin_interpretation=origin,
        relationship_type=CONTAINS,
    )
    source = refer(codes.SOURCE, pictures[0], RelationshipTypeValues.SELECTED_FROM)
    item.ContentSequence = ContentSequence([source])
    return item


def _on_slide(points_xyz_mm: Points, source: Source) -> Scoord3DContentItem:
    # A triangle is coplanar by itself; highdicom's test of the rest takes memory by the square of the points.
    item = Scoord3DContentItem(
        codes.IMAGE_REGION,
        GraphicTypeValues3D.POLYGON,
        points_xyz_mm[[0, 1, 0]],
        source.text("FrameOfReferenceUID"),
        relationship_type=CONTAINS,
    )
    item.GraphicData = points_xyz_mm.flatten().tolist()
    return item


def _place_on_slide(source: Source) -> ImageToReferenceTransformer | None:
    """Return what takes pixels of a level to millimeters of the slide; None where the level has no place."""
    header = source.header
    if not re.fullmatch(r"[0-9.]{1,64}", source.text("FrameOfReferenceUID")):
        return None
    with dataset_faults(source.sop_instance_uid):
        origins = header.get("TotalPixelMatrixOriginSequence") or ()
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        measures = (shared[0].get("PixelMeasuresSequence") or ()) if shared else ()
        if not (origins and measures and header.get("ImageOrientationSlide")):
            return None
        origin = [origins[0].get(f"{axis}OffsetInSlideCoordinateSystem", 0.0) for axis in "XYZ"]
        place = ImageToReferenceTransformer(origin, header.ImageOrientationSlide, measures[0].PixelSpacing)
    _check_geometry(np.array(header.ImageOrientationSlide, np.float64), place.affine, source)
    return place


def _check_geometry(cosines: Points, affine: Points, source: Source) -> None:
    """Raise DatasetError where the rows and columns of a level do not stand upright on each other."""
    rows, columns = cosines.reshape(2, 3)
    errors = np.abs([rows @ rows - 1, columns @ columns - 1, rows @ columns])
    if not np.isfinite(affine).all() or errors.max() > MAX_COSINE_ERROR:
        raise DatasetError(source.sop_instance_uid, "the total pixel matrix has no place on the slide")
