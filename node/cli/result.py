"""`sightline result check`: the conformance gate, by hand."""

from pathlib import Path
from typing import Annotated

import typer

from node import conformance
from node.cli.output import AsJson, print_json, say
from node.errors import DatasetError

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
    sources = source or []
    violations_by_path = {path: _violations(path, sources) for path in files}
    skipped = conformance.skipped_rules(sources)
    if as_json:
        accounts = [{"path": str(path), "violations": found} for path, found in violations_by_path.items()]
        print_json({"files": accounts, "skipped_rules": list(skipped)})
    else:
        for path, violations in violations_by_path.items():
            say(f"{path}: {'; '.join(violations) or 'OK'}")
        if skipped:
            say(f"not looked at without --source: {', '.join(skipped)}")
    if any(violations_by_path.values()):
        raise typer.Exit(1)


def _violations(path: Path, sources: list[Path]) -> list[str]:
    try:
        return [str(one) for one in conformance.check_file(path, sources)]
    except DatasetError as error:
        return [error.message]
