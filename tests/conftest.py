"""Fixtures: the node and its peers as real programs, sample studies, and fakes of what can be replaced."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from node.engines.triton import TritonEngine
from node.samples.demo import RADIOGRAPHS, Sample
from tests.peers import REPOSITORY
from tests.peers.archive import Recorder, run_recorder
from tests.peers.node import Node, make_node
from tests.peers.orthanc import Orthanc, run_orthanc
from tests.peers.triton import EXPLICIT, Triton, make_triton
from tests.peers.viewer import Viewer, need_viewer, run_viewers
from tests.small_models import NewEngine, make_engine, write_small_models
from tests.web_doors import OpenWebDoor, opening_web

# DCMTK, and Orthanc which is built on it, leave Nagle's algorithm on unless told so.
os.environ.setdefault("TCP_NODELAY", "1")

SHARED_DATA = REPOSITORY.parent / "shared" / "data"
SCREENSHOTS = REPOSITORY / ".artifacts" / "viewer"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with run_recorder() as archive:
        yield archive


@pytest.fixture
def new_node(tmp_path: Path) -> Iterator[Callable[[Mapping[str, Any]], Node]]:
    """Makes nodes that are not started yet; all are ended with the test."""
    with ExitStack() as stack:

        def make(configuration: Mapping[str, Any]) -> Node:
            folder = tmp_path / f"node-{len(list(tmp_path.glob('node-*')))}"
            return stack.enter_context(make_node(folder, configuration))

        yield make


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server with the shipped models, for tests that leave it as they found it."""
    with make_triton(tmp_path_factory.mktemp("triton")) as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of one operation each, for any engine."""
    path = tmp_path_factory.mktemp("small") / "repository"
    write_small_models(path)
    return path


@pytest.fixture(scope="session")
def small_triton(small_repository: Path) -> Iterator[Triton]:
    """A server with the small models, for tests that leave it as they found it."""
    options = (*EXPLICIT, "--load-model", "*")
    with make_triton(small_repository.parent, repository=small_repository, options=options) as server:
        server.start()
        yield server


@pytest.fixture
def new_engine(small_repository: Path) -> Iterator[NewEngine]:
    """Makes engines on a Triton server; all are closed with the test."""
    with ExitStack() as stack:

        def make(url: str, path: Path = small_repository, **changes: Any) -> TritonEngine:
            return stack.enter_context(closing(make_engine(url, path, **changes)))

        yield make


@pytest.fixture(scope="session")
def zoo() -> list[Path]:
    """Real DICOM files of many makers, some broken on purpose."""
    folder = SHARED_DATA / "zoo"
    if not folder.is_dir():
        pytest.skip("needs the collection of DICOM files in ../shared/data/zoo")
    return sorted(path for path in folder.iterdir() if path.name not in ("MANIFEST.csv", "README.md"))


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """The radiographs of the demo, by the outcome that their truth demands."""
    return {sample.expected_outcome: sample for sample in RADIOGRAPHS}


@pytest.fixture(scope="session")
def positive(samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study with a finding."""
    (path,) = samples["findings"].write(tmp_path_factory.mktemp("positive"))
    return path


# --- a viewer before an archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """The archive that the viewer shows."""
    need_viewer()
    with run_orthanc(tmp_path_factory.mktemp("orthanc"), {}) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def new_viewer(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Viewer]]:
    """What opens a fresh page of the viewer."""
    with run_viewers(archive, tmp_path_factory.mktemp("browser")) as new:
        yield new


@pytest.fixture
def viewer(new_viewer: Callable[[], Viewer], request: pytest.FixtureRequest) -> Iterator[Viewer]:
    """A fresh page, of which a picture is kept at the end, and which must not have complained."""
    viewer = new_viewer()
    yield viewer
    viewer.screenshot(SCREENSHOTS / f"{request.node.name.removeprefix('test_')}.png")
    errors = viewer.errors()
    viewer.close()
    assert errors == []


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenWebDoor]:
    """Makes doors for STOW-RS, each on a port of its own."""
    with opening_web(tmp_path) as open_one:
        yield open_one
