"""What every synthetic object says of its patient, study, series and equipment."""

from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian


def item(**attributes: object) -> Dataset:
    """A data set of these attributes, by keyword."""
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code_item(code: Code) -> Dataset:
    return item(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning)


def uid(*names: object) -> str:
    """The UID of these names, always the same one."""
    return f"2.25.{uuid5(NAMESPACE_OID, '/'.join(['sightline-source', *map(str, names)])).int}"


NAMES = {"ISO_IR 100": "Prüfmuster^Zoë", "ISO_IR 192": "Próba^Łucja=試料^造影"}


def patient_module(charset: str) -> Dataset:
    """The patient, whose name needs that character set."""
    return item(
        SpecificCharacterSet=charset,
        PatientName=NAMES[charset],
        PatientID="SYNTH-ISSUE-4",
        PatientBirthDate="19600229",
        PatientSex="F",
        PatientAge="064Y",
        PatientComments="Synthetic: no such person exists",
    )


def new_object(names: tuple[object, ...], modality: str, *, charset: str = "ISO_IR 100") -> FileDataset:
    """The modules that every object has; series, study and frame of reference are those of the names."""
    dataset = FileDataset("", {}, preamble=b"\0" * 128)
    dataset.update(patient_module(charset))
    dataset.update(
        item(
            StudyInstanceUID=uid("study", *names),
            StudyDate="20250102",
            StudyTime="091500",
            StudyID="4",
            StudyDescription=f"Synthetic {names[0]}",
            AccessionNumber="A-0401",
            ReferringPhysicianName="",
            TimezoneOffsetFromUTC="+0100",
            Modality=modality,
            SeriesInstanceUID=uid("series", *names),
            SeriesNumber=3,
            SeriesDescription=" ".join(map(str, names[:2])),
            SeriesDate="20250102",
            SeriesTime="091600",
            Manufacturer="Sightline",
            ManufacturerModelName="Synthetic source",
            DeviceSerialNumber="0",
            SoftwareVersions="1",
            FrameOfReferenceUID=uid("frame of reference", *names),
            PositionReferenceIndicator="",
            ContentDate="20250102",
            ContentTime="091700",
            BurnedInAnnotation="NO",
            LossyImageCompression="00",
        )
    )
    return dataset


def save(dataset: FileDataset, folder: Path, name: str) -> Path:
    """Write the object into the folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / name
    dataset.save_as(path, enforce_file_format=True)
    return path
