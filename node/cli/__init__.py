"""The command `sightline`: exit status 0 is done, 1 the work failed, 2 wrong use or configuration."""

import sys

import typer

from node.cli import bench, check, demo, destinations, models, process, result, run, send, studies
from node.cli.output import complain
from node.errors import ConfigurationError, SightlineError

app = typer.Typer(
    name="sightline",
    help="A PACS-integrated AI node: studies in over DICOM, findings with their uncertainty back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("check")(check.check)
app.command("process")(process.process)
app.command("send")(send.send)
app.add_typer(studies.app, name="studies")
app.add_typer(destinations.app, name="destinations")
app.add_typer(result.app, name="result")
app.add_typer(models.app, name="models")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Run the command line; what goes wrong is said in words on standard error."""
    try:
        app()
    except ConfigurationError as error:
        complain(error.problems)
        sys.exit(2)
    except SightlineError as error:
        complain([str(error)])
        sys.exit(1)
