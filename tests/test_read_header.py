import json
import threading
import warnings
from pathlib import Path

import pytest

from node.domain.attributes import known_attributes
from node.errors import SightlineError
from node.read.header import read_attributes
from tests.datasets import RAMP, coded, instance, radiograph, save


@pytest.mark.parametrize(
    ("attributes", "body_part"),
    [
        ({"BodyPartExamined": "CHEST"}, "CHEST"),
        ({"BodyPartExamined": "Thorax"}, "CHEST"),
        ({"BodyPartExamined": "CHEST ABDOMEN"}, "CHEST ABDOMEN"),
        ({"BodyPartExamined": "HAND", "StudyDescription": "Chest"}, "HAND"),
        ({"AnatomicRegionSequence": coded("816094009", "SCT", "?")}, "CHEST"),
        ({"AnatomicRegionSequence": coded("T-D3000", "SRT", "Chest")}, "CHEST"),
        ({"AnatomicRegionSequence": coded("123", "99X", "Lungs")}, "CHEST"),
        ({"SeriesDescription": "Tórax PA"}, "CHEST"),
        ({"ProtocolName": "W Chest P.A."}, "CHEST"),
        ({"StudyDescription": "CXR 2 views"}, "CHEST"),
        ({"StudyDescription": "Chest and abdomen"}, None),
        ({"StudyDescription": "Thoracic spine"}, "SPINE"),
        ({"StudyDescription": "Routine"}, None),
        ({}, None),
    ],
)
def test_body_part_is_agreed_from_several_attributes(
    tmp_path: Path, attributes: dict[str, object], body_part: str | None
) -> None:
    found = read_attributes([save(radiograph(RAMP, **attributes), tmp_path)])

    assert found.get("body_part") == body_part


@pytest.mark.parametrize(
    ("attributes", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "LL"}, "LATERAL"),
        ({"ViewPosition": "RL"}, "LATERAL"),
        ({"ViewPosition": "LATERAL"}, "LATERAL"),
        ({"ViewPosition": "LLD"}, "LLD"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("272479007", "SCT", "postero-anterior")}, "PA"),
        ({"ViewCodeSequence": coded("R-10206", "SRT", "antero-posterior")}, "AP"),
        ({"ViewCodeSequence": coded("399173006", "SCT", "left lateral")}, "LATERAL"),
        ({"SeriesDescription": "Thorax a.p. liegend"}, "AP"),
        ({"SeriesDescription": "Chest PA and lateral"}, None),
        ({"PatientOrientation": ["A", "F"]}, "LATERAL"),
        ({"PatientOrientation": ["L", "F"]}, None),
    ],
)
def test_view_is_agreed_from_several_attributes(
    tmp_path: Path, attributes: dict[str, object], view: str | None
) -> None:
    found = read_attributes([save(radiograph(RAMP, **attributes), tmp_path)])

    assert found.get("view") == view


@pytest.mark.parametrize(
    ("attributes", "years"),
    [
        ({"PatientAge": "005Y"}, 5.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "026W"}, 0.5),
        ({"PatientAge": "073D"}, 0.2),
        ({"PatientBirthDate": "20000102", "StudyDate": "20250102"}, 25.0),
        ({"PatientBirthDate": "17000102", "StudyDate": "20250102"}, None),
        ({"PatientBirthDate": "2000", "StudyDate": "20250102"}, None),
        ({}, None),
    ],
)
def test_age_is_in_years(tmp_path: Path, attributes: dict[str, object], years: float | None) -> None:
    found = read_attributes([save(radiograph(RAMP, **attributes), tmp_path)])

    assert found.get("patient_age_years") == years


def test_attributes_are_plain_and_name_nobody(tmp_path: Path) -> None:
    dataset = radiograph(
        RAMP, KVP="120.5", ImageType=["ORIGINAL", "PRIMARY"], InstanceNumber="7", PatientSex="F"
    )
    dataset.PatientName = dataset.ReferringPhysicianName = dataset.OperatorsName = "Secret^Name"
    dataset.PatientID = dataset.AccessionNumber = dataset.StudyID = dataset.AdmissionID = "secret"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientAddress = dataset.InstitutionAddress = dataset.ImageComments = "secret"
    dataset.OtherPatientIDs = ["secret"]
    dataset.SeriesDescription = "a description"
    dataset.add_new(0x00091001, "LO", "secret")

    attributes = read_attributes([save(dataset, tmp_path)])

    assert attributes["kvp"] == 120.5
    assert attributes["image_type"] == ("ORIGINAL", "PRIMARY")
    assert attributes["instance_number"] == 7
    assert attributes["patient_sex"] == "F"
    assert attributes["rows"] == 8
    assert attributes["number_of_frames"] == 1
    assert attributes["instance_count"] == 1
    assert attributes["is_localizer"] is False
    assert attributes["called_ae_title"] == ("SIGHTLINE",)
    assert attributes["series_description"] == "a description"
    assert "secret" not in repr(attributes).lower()
    assert "19700101" not in repr(attributes)
    assert set(attributes) <= known_attributes()
    assert json.loads(json.dumps(attributes))


def test_odd_value_costs_only_itself(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = radiograph(
            RAMP, SeriesDescription="x" * 5000, StationName="\x1b[31m", BodyPartExamined="CHEST"
        )
        dataset.add_new("KVP", "LO", "many")
        dataset.add_new("Exposure", "DS", "")
        target = save(dataset, tmp_path)

    attributes = read_attributes([target])

    assert attributes["body_part"] == "CHEST"
    assert not {"kvp", "exposure", "series_description", "station_name"} & attributes.keys()


def test_frontal_image_speaks_for_a_series_with_a_lateral(tmp_path: Path) -> None:
    lateral = save(radiograph(RAMP, ViewPosition="LL", InstanceNumber=1), tmp_path)
    frontal = save(radiograph(RAMP, ViewPosition="PA", InstanceNumber=2), tmp_path)

    attributes = read_attributes([lateral, frontal])

    assert (attributes["view"], attributes["instance_number"], attributes["instance_count"]) == ("PA", 2, 2)


@pytest.mark.parametrize("kind", ["LABEL", "OVERVIEW"])
def test_picture_of_the_glass_does_not_speak_for_a_slide(tmp_path: Path, kind: str) -> None:
    around = radiograph(RAMP, ImageType=["ORIGINAL", "PRIMARY", kind, "NONE"], ViewPosition="AP")
    level = radiograph(RAMP, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], ViewPosition="PA")
    level.SOPInstanceUID = level.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"

    attributes = read_attributes([save(around, tmp_path), save(level, tmp_path)])

    assert (attributes["is_localizer"], attributes["view_position"]) == (False, "PA")


def test_series_of_nothing_but_localizers_is_one(tmp_path: Path) -> None:
    scout = save(radiograph(RAMP, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path)

    assert read_attributes([scout])["is_localizer"] is True


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path: Path) -> None:
    target = save(radiograph(RAMP), tmp_path)
    filters = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [read_attributes([target]) for _ in range(20)]) for _ in range(4)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert warnings.filters == filters


def test_every_file_gives_plain_attributes_or_says_why_not(zoo: list[Path]) -> None:
    for path in zoo:
        try:
            attributes = read_attributes([instance(path)])
        except SightlineError:
            continue
        assert set(attributes) <= known_attributes(), path.name
        json.dumps(attributes)
