"""Whether a series is what a model was made for."""

import pytest

from node.domain.card import Requirement
from node.domain.study import Series
from node.eligibility import check_eligibility
from node.errors import ConfigurationError

REQUIREMENTS = (
    Requirement("modality", {"modality": ["CR", "DX"]}, "is not a CR or DX projection radiograph"),
    Requirement("view", {"not": {"view": "LATERAL"}}, "is a lateral view"),
    Requirement(
        "size", {"rows": {"min": 200}, "columns": {"min": 200}}, "has fewer than 200 rows or columns"
    ),
)
FRONTAL = {"modality": "DX", "view": "PA", "rows": 2048, "columns": 1024}


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, ""),
        ({"view": None}, ""),
        ({"modality": "MG"}, "the series is not a CR or DX projection radiograph (modality MG)"),
        ({"modality": None}, "the series is not a CR or DX projection radiograph (modality absent)"),
        ({"view": "LATERAL"}, "the series is a lateral view (view LATERAL)"),
        ({"rows": 64}, "the series has fewer than 200 rows or columns (rows 64)"),
        ({"rows": 64, "columns": 64}, "the series has fewer than 200 rows or columns (rows 64, columns 64)"),
        (
            {"modality": "MG", "view": "LATERAL"},
            "the series is not a CR or DX projection radiograph (modality MG); "
            "the series is a lateral view (view LATERAL)",
        ),
    ],
)
def test_a_series_outside_the_intended_use_is_refused_with_every_reason_and_its_value(attributes, reason):
    series = Series("1.2", "1.2.3", (), FRONTAL | attributes)

    eligibility = check_eligibility(series, REQUIREMENTS)

    assert eligibility.is_eligible is (reason == "")
    assert "; ".join(eligibility.reasons) == reason
    assert eligibility.reason == (f"outside intended use: {reason}" if reason else "")


def test_a_model_without_requirements_takes_every_series():
    assert check_eligibility(Series("1.2", "1.2.3", (), {}), ()).is_eligible


def test_a_requirement_that_is_no_condition_opens_no_gate():
    malformed = Requirement("modality", {"modalty": "DX"}, "is not a radiograph")

    with pytest.raises(ConfigurationError, match=r"requirement modality\.modalty: unknown attribute"):
        check_eligibility(Series("1.2", "1.2.3", (), FRONTAL), (malformed,))
