import json
import logging

import pytest
import structlog

from node.errors import DatasetError
from node.telemetry import Metrics, configure_logging


@pytest.fixture
def log_path(tmp_path):
    root, filters = list(logging.root.handlers), structlog.get_config()
    yield tmp_path / "log" / "node.log"
    logging.root.handlers = root
    structlog.configure(**filters)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.filterwarnings("ignore")
def test_a_log_line_is_one_json_object_with_its_context(log_path):
    configure_logging("info", log_path)

    with structlog.contextvars.bound_contextvars(study_instance_uid="1.2.3"):
        structlog.get_logger().info("study_assembled", instances=2)

    (record,) = records(log_path)
    assert record["event"] == "study_assembled"
    assert record["study_instance_uid"] == "1.2.3"
    assert record["instances"] == 2
    assert log_path.stat().st_mode & 0o777 == 0o600


@pytest.mark.filterwarnings("ignore")
def test_the_text_of_a_foreign_exception_is_not_logged(log_path):
    configure_logging("info", log_path)

    try:
        raise ValueError("could not convert 'DOE^JOHN'")
    except ValueError:
        structlog.get_logger().exception("analysis_broke")

    (record,) = records(log_path)
    assert record["exception"] == "ValueError"
    assert record["frames"]
    assert "DOE" not in log_path.read_text()


@pytest.mark.filterwarnings("ignore")
def test_the_text_of_our_own_exception_is(log_path):
    configure_logging("info", log_path)

    try:
        raise DatasetError("1.2.3", "no Rows")
    except DatasetError:
        structlog.get_logger().exception("analysis_broke")

    assert records(log_path)[0]["message"] == "1.2.3: no Rows"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["pydicom", "pynetdicom", "highdicom"])
def test_libraries_that_quote_values_are_silent(log_path, library):
    configure_logging("info", log_path)

    logging.getLogger(library).error("bad value DOE^JOHN")
    logging.getLogger("some.other.library").error("told")

    assert [record["event"] for record in records(log_path)] == ["told"]


def test_metrics_are_in_the_format_prometheus_reads():
    metrics = Metrics()
    metrics.runs_finished.labels("chest_xray", "findings").inc()

    text = metrics.exposition().decode()

    assert 'sightline_runs_finished_total{outcome="findings",pipeline="chest_xray"} 1.0' in text
