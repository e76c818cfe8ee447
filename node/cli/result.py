"""`sightline result check`: the conformance gate, by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydicom import dcmread
from pydicom.dataset import Dataset

from node import conformance
from node.cli.output import AsJson, complain, print_json, say
from node.errors import DatasetError
from node.read.dataset import dataset_faults
from node.receive.folder import find_files

app = typer.Typer(help="Look at result objects.", no_args_is_help=True)


@app.command("check")
def check_results(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="The objects of one result, or folders of them.")
    ],
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="An image the result is about, or a folder; may be given again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold result objects against the rules every result must pass before it leaves the node.

    Files that are checked together are objects of one run, and may refer to each other.
    """
    paths = list(find_files(files))
    headers = _read_sources(source or (), paths)
    violations_by_path = _violations(paths, headers)
    skipped = conformance.skipped_rules(headers)
    if as_json:
        accounts = [{"path": str(path), "violations": found} for path, found in violations_by_path.items()]
        print_json({"files": accounts, "skipped_rules": skipped})
    else:
        for path, violations in violations_by_path.items():
            say(f"{path}: {'; '.join(violations) or 'OK'}")
        if skipped:
            say(f"not looked at without --source: {', '.join(skipped)}")
    if any(violations_by_path.values()) or not violations_by_path:
        raise typer.Exit(1)


def _read_sources(given: Sequence[Path], results: Sequence[Path]) -> conformance.Sources:
    """Return the headers of the files given and of the images in the folders; a result is no source.

    Raises DatasetError for a file that is none, and for what is neither file nor folder.
    """
    header_by_uid: dict[str, Dataset] = {}
    for one in given:
        for path in sorted(set(find_files([one])) - set(results)):
            try:
                header_by_uid |= conformance.read_headers([path]).header_by_uid
            except DatasetError:
                if path == one:
                    raise
                complain([f"{path}: no source, for it is no DICOM file"])
    return conformance.Sources(header_by_uid)


def _violations(paths: Sequence[Path], sources: conformance.Sources) -> dict[Path, list[str]]:
    """Return what is wrong with each file, also where it is no DICOM file at all."""
    datasets: dict[Path, Dataset] = {}
    violations_by_path: dict[Path, list[str]] = {path: [] for path in paths}
    for path in paths:
        try:
            with dataset_faults(path.name):
                datasets[path] = dcmread(path)
        except DatasetError as error:
            violations_by_path[path] = [error.message]
    for path, dataset in datasets.items():
        siblings = [one for other, one in datasets.items() if other != path]
        violations_by_path[path] = [str(one) for one in conformance.check(dataset, sources, siblings)]
    return violations_by_path
