"""The condition language: what matches, how it explains itself, and what it refuses."""

import pytest
from pydicom.datadict import keyword_dict

from node.domain.attributes import DERIVED_FACTS, known_attributes, snake_case
from node.domain.conditions import Check, parse
from node.errors import ConfigurationError

RADIOGRAPH = {
    "modality": "DX",
    "body_part_examined": "CHEST ",
    "series_description": "[PA] Chest\0",
    "image_type": ("ORIGINAL", "PRIMARY"),
    "rows": 2048,
    "kvp": "120 ",
    "pixel_spacing": (0.14, 0.2),
    "is_localizer": False,
    "view_position": "",
    "patient_age_years": 4.5,
}


@pytest.mark.parametrize(
    ("table", "is_match"),
    [
        ({"modality": "DX"}, True),
        ({"modality": "dx"}, True),
        ({"modality": "CR"}, False),
        ({"modality": ["CR", "DX"]}, True),
        ({"modality": ["CR", "MG"]}, False),
        ({"body_part_examined": "chest"}, True),
        ({"body_part_examined": " CHEST"}, True),
        ({"body_part_examined": "CHES"}, False),
        ({"series_description": "*chest"}, True),
        ({"series_description": "[PA]*"}, True),
        ({"series_description": "[ap]*"}, False),
        ({"series_description": "?PA? chest"}, True),
        ({"image_type": "primary"}, True),
        ({"image_type": ["DERIVED", "SECONDARY"]}, False),
        ({"rows": 2048}, True),
        ({"rows": "2048"}, True),
        ({"rows": {"min": 2048}}, True),
        ({"rows": {"max": 2047}}, False),
        ({"rows": {"min": 100, "max": 4096}}, True),
        ({"kvp": {"min": 100}}, True),
        ({"kvp": 120}, True),
        ({"modality": {"min": 0}}, False),
        ({"pixel_spacing": {"max": 0.15}}, True),
        ({"pixel_spacing": {"max": 0.1}}, False),
        ({"patient_age_years": {"min": 1, "max": 5}}, True),
        ({"is_localizer": False}, True),
        ({"is_localizer": True}, False),
        ({"is_localizer": [True, False]}, True),
        ({"modality": {"present": True}}, True),
        ({"modality": {"present": False}}, False),
        ({"view_position": {"present": True}}, False),
        ({"view_position": {"present": False}}, True),
        ({"view_position": "*"}, False),
        ({"laterality": {"present": False}}, True),
        ({"laterality": "L"}, False),
        ({"instance_number": {"min": 0}}, False),
        ({"modality": "DX", "rows": {"min": 1}}, True),
        ({"modality": "DX", "rows": {"min": 4000}}, False),
        ({"not": {"modality": "DX"}}, False),
        ({"not": {"laterality": "L"}}, True),
        ({"not": {"modality": "DX", "rows": {"min": 4000}}}, True),
        ({"any": [{"modality": "CT"}, {"rows": 2048}]}, True),
        ({"any": [{"modality": "CT"}, {"rows": 1}]}, False),
        ({"all": [{"modality": "DX"}, {"rows": 2048}]}, True),
        ({"all": [{"modality": "DX"}, {"rows": 1}]}, False),
        ({"modality": "DX", "any": [{"not": {"rows": 2048}}, {"all": [{"kvp": 120}]}]}, True),
    ],
)
def test_a_condition_matches_the_attributes_of_a_series(table, is_match):
    assert parse(table).matches(RADIOGRAPH) is is_match


def test_an_explanation_shows_every_comparison_with_what_was_wanted_and_what_is_there():
    condition = parse(
        {"modality": ["CR", "DX"], "any": [{"laterality": "L"}, {"rows": {"min": 100, "max": 500}}]}
    )

    explanation = condition.explain(RADIOGRAPH)

    assert not explanation.is_match
    assert explanation.checks == (
        Check("modality", "CR or DX", "DX", True),
        Check("laterality", "L", None, False),
        Check("rows", "100 to 500", 2048, False),
    )
    assert explanation.lines() == [
        "no: all of",
        "  yes: modality is DX, wanted CR or DX",
        "  no: any of",
        "    no: all of",
        "      no: laterality is absent, wanted L",
        "    no: all of",
        "      no: rows is 2048, wanted 100 to 500",
    ]


@pytest.mark.parametrize(
    ("table", "deciding"),
    [
        ({"modality": "CT", "rows": 2048}, [("modality", "CT")]),
        ({"modality": "DX", "rows": 2048}, [("modality", "DX"), ("rows", "2048")]),
        ({"any": [{"modality": "CT"}, {"rows": 2048}]}, [("rows", "2048")]),
        ({"any": [{"modality": "CT"}, {"rows": 1}]}, [("modality", "CT"), ("rows", "1")]),
        ({"not": {"modality": "DX"}}, [("modality", "not DX")]),
        ({"not": {"modality": "DX", "rows": 1}}, [("rows", "not 1")]),
        ({"laterality": {"present": True}}, [("laterality", "present")]),
        ({"modality": {"present": False}}, [("modality", "absent")]),
        ({"rows": {"max": 10.5}}, [("rows", "at most 10.5")]),
        ({"rows": {"min": 4000}}, [("rows", "at least 4000")]),
    ],
)
def test_the_decisive_comparisons_are_those_that_made_the_result(table, deciding):
    decisive = parse(table).explain(RADIOGRAPH).decisive

    assert [(check.attribute, check.wanted) for check in decisive] == deciding


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({}, "when: {} – expected attribute = value"),
        ("DX", 'when: "DX" – expected attribute = value'),
        ({"modalty": "DX"}, "when.modalty: unknown attribute – did you mean modality?"),
        (
            {"BodyPartExamined": "CHEST"},
            "when.BodyPartExamined: unknown attribute – did you mean body_part_examined?",
        ),
        ({"an": [{"modality": "DX"}]}, "when.an: unknown attribute – did you mean any?"),
        ({"qqqqqqqq": 1}, "when.qqqqqqqq: unknown attribute"),
        ({"pixel_data": {"present": True}}, "when.pixel_data: rules cannot look at this attribute"),
        ({"patient_name": "Doe*"}, "when.patient_name: rules cannot look at this attribute"),
        ({"modality": []}, "when.modality: [] – expected text, a number, or a list of these"),
        ({"modality": ["CR", None]}, 'when.modality: ["CR", null] – expected text'),
        ({"modality": True}, "when.modality: true – expected text"),
        ({"is_localizer": "false"}, 'when.is_localizer: "false" – expected true or false'),
        ({"rows": {}}, "when.rows: {} – expected { min = number"),
        ({"rows": {"min": "many"}}, 'when.rows: {"min": "many"} – expected { min = number'),
        ({"rows": {"min": 3, "max": 2}}, 'when.rows: {"min": 3, "max": 2} – expected { min = number'),
        ({"rows": {"min": float("nan")}}, "when.rows: "),
        ({"rows": {"minimum": 3}}, "when.rows.minimum: unknown key – did you mean min?"),
        ({"rows": {"present": "yes"}}, 'when.rows.present: "yes" – expected true or false'),
        ({"rows": {"present": True, "min": 3}}, "when.rows.min: unknown key"),
        ({"any": {"modality": "DX"}}, 'when.any: {"modality": "DX"} – expected a list of tables'),
        ({"any": []}, "when.any: [] – expected a list of tables"),
        ({"any": [{"modality": "DX"}, {}]}, "when.any[1]: {} – expected attribute = value"),
        ({"not": []}, "when.not: [] – expected attribute = value"),
    ],
)
def test_a_malformed_condition_is_refused_with_its_key_and_what_is_allowed(table, problem):
    with pytest.raises(ConfigurationError) as caught:
        parse(table)

    (found,) = caught.value.problems
    assert found.startswith(problem)


def test_all_problems_of_a_condition_are_reported_at_once():
    table = {"modalty": "DX", "not": {"rows": {"mim": 1, "mx": 2}}, "any": [{"kpv": 1}, {"modality": []}]}

    with pytest.raises(ConfigurationError) as caught:
        parse(table, "pipelines.x.when")

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "pipelines.x.when.modalty",
        "pipelines.x.when.not.rows.mim",
        "pipelines.x.when.not.rows.mx",
        "pipelines.x.when.any[0].kpv",
        "pipelines.x.when.any[1].modality",
    ]


@pytest.mark.parametrize(
    ("keyword", "name"),
    [
        ("SeriesInstanceUID", "series_instance_uid"),
        ("SOPInstanceUID", "sop_instance_uid"),
        ("KVP", "kvp"),
        ("BodyPartExamined", "body_part_examined"),
        ("OtherPatientIDs", "other_patient_ids"),
        ("XRay3DAcquisitionSequence", "x_ray_3d_acquisition_sequence"),
        ("ExposureInuAs", "exposure_in_uas"),
        ("XRayTubeCurrentInmA", "x_ray_tube_current_in_ma"),
        ("ExposureTimeInms", "exposure_time_in_ms"),
        ("EntranceDoseInmGy", "entrance_dose_in_mgy"),
        ("CTDIvol", "ctdi_vol"),
        ("T2Preparation", "t2_preparation"),
    ],
)
def test_a_keyword_becomes_the_name_that_a_reader_would_guess(keyword, name):
    assert snake_case(keyword) == name


def test_no_two_keywords_of_the_dictionary_share_a_name():
    keywords = [keyword for keyword in keyword_dict if keyword]

    names = {snake_case(keyword) for keyword in keywords}

    assert len(names) == len(keywords)
    assert all(name.isidentifier() for name in names)


def test_no_attribute_hides_a_combinator():
    assert not known_attributes() & {"any", "all", "not"}
    assert set(DERIVED_FACTS) <= known_attributes()
