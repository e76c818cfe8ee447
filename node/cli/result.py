"""`sightline result check`: the conformance gate, by hand."""

from pathlib import Path
from typing import Annotated

import typer
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from node import conformance
from node.cli.output import AsJson, print_json, say

app = typer.Typer(help="Look at result objects.", no_args_is_help=True)


@app.command("check")
def check_results(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Result objects as DICOM files.")],
    source: Annotated[
        list[Path] | None, typer.Option(help="An image the results are about; may be given again.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold result objects against the rules every result must pass before it leaves the node."""
    violations_by_path = {path: _check(path, source or []) for path in files}
    if as_json:
        print_json(
            {"files": [{"path": str(path), "violations": v} for path, v in violations_by_path.items()]}
        )
    else:
        for path, violations in violations_by_path.items():
            say(f"{path}: {'; '.join(violations) or 'OK'}")
    if any(violations_by_path.values()):
        raise typer.Exit(1)


def _check(path: Path, sources: list[Path]) -> list[str]:
    try:
        return [str(one) for one in conformance.check(dcmread(path), sources)]
    except (InvalidDicomError, OSError) as error:
        return [f"cannot be read as DICOM: {type(error).__name__}"]
