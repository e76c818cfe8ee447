"""How long nothing may come, by the pipelines that want the study."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.domain.conditions import parse
from node.index import Index, sqlite_url
from node.quiet import RouteQuiet
from node.receive.folder import store_file
from node.routing import Rule
from node.storage import Storage, Watermark
from tests.sources import write_ct_series, write_radiograph

RULES = [
    Rule("slow", parse({"modality": "CT"}, "when")),
    Rule("usual", parse({"modality": ["CT", "DX"]}, "when")),
]
OWN_S = {"slow": 60.0, "unused": 2.0}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(sqlite_url(tmp_path / "index.sqlite"))
    yield index
    index.close()


def received(index: Index, folder: Path, paths: list[Path]) -> str:
    storage = Storage(folder / "data", Watermark(100, 0))
    instances = [store_file(path, storage).instance for path in paths]
    for one in instances:
        index.record_instance(one)
    return instances[0].study_instance_uid


def test_the_longest_period_of_the_pipelines_that_want_a_study_counts(index: Index, tmp_path: Path) -> None:
    quiet = RouteQuiet(index, RULES, {}, OWN_S, default_s=10.0)

    stack = received(index, tmp_path, write_ct_series(tmp_path).paths)
    radiograph = received(index, tmp_path, write_radiograph(tmp_path).paths)

    assert quiet.period_s(stack) == 60.0
    assert quiet.period_s(radiograph) == 10.0
    assert quiet.shortest_s == 2.0


def test_a_study_that_no_pipeline_wants_has_the_default(index: Index, tmp_path: Path) -> None:
    quiet = RouteQuiet(index, [RULES[0]], {}, OWN_S, default_s=10.0)

    assert quiet.period_s(received(index, tmp_path, write_radiograph(tmp_path).paths)) == 10.0
