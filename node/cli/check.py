"""`sightline check`: will this configuration work on this machine?"""

from dataclasses import asdict

import typer

from node.checks import check_file
from node.cli.output import AsJson, ConfigurationFile, print_json, say


def check(config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """Look at configuration, ports, models, destinations, disk and clock: a line each, OK or what to do."""
    checks = check_file(config)
    if as_json:
        print_json({"checks": [asdict(one) for one in checks]})
    else:
        for one in checks:
            say(f"{one.name}: {one.problem or 'OK'}")
    if any(one.problem for one in checks):
        raise typer.Exit(2)
