"""`sightline result check`: files that are checked together are objects of one run."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node.cli import app
from node.errors import DatasetError
from tests.runs import LESIONS, SEGMENTATION, Run, make_run
from tests.sources import Written, write_ct_series


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_ct_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def run(written: Written) -> Run:
    return make_run(written)


@pytest.fixture
def files(run: Run, tmp_path: Path) -> dict[str, Path]:
    """The objects of the run, in a folder."""
    folder = tmp_path / "result"
    folder.mkdir()
    paths = {name: folder / f"{name.replace(' ', '-')}.dcm" for name in run.files}
    for name, path in paths.items():
        path.write_bytes(run.files[name])
    return paths


def check(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["result", "check", *map(str, arguments)])
    if isinstance(ended.exception, DatasetError):
        raise ended.exception
    return ended.exit_code, ended.output


def test_a_whole_result_passes_with_its_sources(files: dict[str, Path], written: Written) -> None:
    status, said = check(*files.values(), "--source", written.paths[0].parent)

    assert (status, said.splitlines()) == (0, [f"{path}: OK" for path in files.values()])


def test_a_folder_of_objects_may_be_given(files: dict[str, Path], written: Written) -> None:
    folder = files[LESIONS].parent

    status, said = check(folder, *(word for path in written.paths for word in ("--source", path)))

    assert (status, said.count(": OK")) == (0, len(files))


def test_what_was_not_looked_at_is_said(files: dict[str, Path]) -> None:
    status, said = check(files[SEGMENTATION])

    assert status == 0
    assert "not looked at without --source: same_study, same_patient" in said


def test_a_report_without_its_segmentation_is_refused(files: dict[str, Path], written: Written) -> None:
    status, said = check(files[LESIONS], "--source", written.paths[0].parent, "--json")

    (account,) = json.loads(said)["files"]
    assert status == 1
    assert account["path"] == str(files[LESIONS])
    assert account["violations"][0].startswith("references_exist: ")
    assert json.loads(said)["skipped_rules"] == []


def test_a_file_that_is_no_dicom_is_named_among_the_others(files: dict[str, Path]) -> None:
    note = files[SEGMENTATION].with_name("note.txt")
    note.write_text("not DICOM")

    status, said = check(files[SEGMENTATION], note)

    assert status == 1
    assert f"{files[SEGMENTATION]}: OK" in said
    assert f"{note}: cannot be read as DICOM" in said


def test_what_is_no_image_among_the_sources_is_left_out(files: dict[str, Path], written: Written) -> None:
    folder = files[SEGMENTATION].parent
    (folder / "note.txt").write_text("not DICOM")

    status, said = check(*files.values(), "--source", written.paths[0].parent, "--source", folder)

    assert status == 0
    assert f"{folder / 'note.txt'}: no source" in said


def test_a_source_that_is_no_dicom_is_an_error(files: dict[str, Path]) -> None:
    note = files[SEGMENTATION].with_name("note.txt")
    note.write_text("not DICOM")

    with pytest.raises(DatasetError):
        check(files[SEGMENTATION], "--source", note)
