"""What the commands print: JSON for programs, tables and progress for people."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

ConfigurationFile = Annotated[
    Path | None, typer.Option("-c", "--config", help="The configuration; without it, the embedded default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]

_people = Console(highlight=False)
_complaints = Console(stderr=True, highlight=False)


def print_json(value: object) -> None:
    """Print one JSON object on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Print a line on standard output."""
    typer.echo(text)


def complain(problems: Iterable[str]) -> None:
    """Print problems on standard error, one a line."""
    for problem in problems:
        typer.echo(f"sightline: {problem}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table that is cut to the width of a terminal, and whole anywhere else."""
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    if _people.is_terminal:
        _people.print(table)
    else:
        Console(width=240, highlight=False).print(table)


class Progression:
    """Progress on standard error of a known number of things: a bar on a terminal, a line each elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._tenths = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = (
            Progress(*columns, console=_complaints, transient=True) if _complaints.is_terminal else None
        )
        self._task = self._bar.add_task(title, total=total) if self._bar else None

    def __enter__(self) -> "Progression":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_fault: object) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def within(self, done: int, total: int, what: str) -> None:
        """Tell how far the one under way has come; without a terminal after each tenth."""
        tenths = 10 * done // total
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=f"{self._title} ({done}/{total} {what})")
        elif tenths > self._tenths:
            typer.echo(f"{self._title} {self._done + 1}/{self._total}: {done}/{total} {what}", err=True)
        self._tenths = tenths

    def advance(self, what: str) -> None:
        """Note that one more is done."""
        self._done += 1
        self._tenths = 0
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=1, description=f"{self._title} {what}")
        else:
            typer.echo(f"{self._title} {self._done}/{self._total} {what}", err=True)
