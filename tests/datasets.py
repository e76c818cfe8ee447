"""Small DICOM data sets, made attribute by attribute."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from node.domain.study import Instance

Pixels = NDArray[np.generic]
CR = "1.2.840.10008.5.1.4.1.1.1"
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64


def instance(path: Path, *, modality: str = "CR") -> Instance:
    """Return the file as it would have been received."""
    return Instance("1.2.1", "1.2.2", path.name, CR, "", modality, path, "", "SIGHTLINE", "MODALITY")


def radiograph(pixels: Pixels, **attributes: object) -> Dataset:
    """Return a CR object of these pixels; the attributes replace what it would have."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CR, "1.2.3", "CR"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    with warnings.catch_warnings():
        # Some tests want values that no writer should write.
        warnings.simplefilter("ignore")
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    if "HighBit" not in dataset:
        dataset.HighBit = dataset.BitsStored - 1
    return dataset


def save(dataset: Dataset, folder: Path) -> Instance:
    """Write the data set into the folder, under a new name."""
    path = folder / f"{len(list(folder.iterdir()))}.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(path, enforce_file_format=True)
    return instance(path)


def lut(entries: list[int], first: int, bits: int, *, vr: str = "OW") -> Dataset:
    """Return an item of a Modality or VOI LUT Sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", vr, np.array(entries, dtype="<u2").tobytes() if vr == "OW" else entries)
    return item


def coded(value: str, scheme: str, meaning: str) -> list[Dataset]:
    """Return a code sequence of one item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]
