"""The programs of benchmarks: each works in a process of its own, and answers a line with a line of JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import node
from node.errors import ModelError


class Program:
    """A program of ours that was started."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        """Take the name that errors have."""
        self._name, self._process = name, process

    def ask(self, asked: str) -> dict[str, Any]:
        """Return the answer; raises ModelError where the process ended instead."""
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise ModelError(self._name, "its process has no pipes")
        try:
            process.stdin.write(asked + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise ModelError(self._name, f"{asked}: its process ended with status {process.wait()}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def running(name: str, path: Path, plan: Mapping[str, Any]) -> Iterator[Program]:
    """Start a program, which gets the plan as its argument, and let it end after the block."""
    # -P: no module of the standard library may be taken from the program's folder.
    process = subprocess.Popen(  # noqa: S603 - this interpreter, a program of ours
        [sys.executable, "-P", str(path), json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(node.__file__).parents[1])},
    )
    try:
        yield Program(name, process)
    finally:
        process.communicate()
