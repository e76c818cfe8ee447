"""DCMTK's command line tools as modality."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.peers import LOOPBACK, need_program

CALLING = "DCMTK"
SUCCESS = "0x0000"


@dataclass
class Answer:
    """What became of one file: the peer's status with its comment, or why storescu never sent it."""

    status: str = ""
    comment: str = ""
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sending:
    """What storescu said."""

    exit_status: int
    output: str
    answers: dict[Path, Answer]

    @property
    def stored(self) -> list[Path]:
        """The files that the peer took."""
        return [path for path, answer in self.answers.items() if answer.status == SUCCESS]

    @property
    def refused(self) -> dict[Path, Answer]:
        """The files that the peer did not want."""
        refused = (item for item in self.answers.items() if item[1].status not in ("", SUCCESS))
        return dict(refused)

    @property
    def unsent(self) -> dict[Path, str]:
        """The files that got no answer, and storescu's own words on them."""
        unsent = (item for item in self.answers.items() if not item[1].status)
        return {path: "; ".join(answer.complaints) for path, answer in unsent}


def echo(port: int, *, called: str) -> bool:
    """C-ECHO; does the peer answer with Success?"""
    program = need_program("echoscu", "dcmtk")
    arguments = [program, "-to", "5", "-aet", CALLING, "-aec", called, LOOPBACK, str(port)]
    return subprocess.run(arguments, capture_output=True, check=False).returncode == 0


class Modality:
    """storescu, sending files on one association; nothing that happens to one stops the others."""

    def __init__(self, files: Sequence[Path], port: int, *, called: str, options: Sequence[str] = ()) -> None:
        """Start to send; the options are storescu's own."""
        program = need_program("storescu", "dcmtk")
        arguments = [program, "-d", "-nh", "-aet", CALLING, "-aec", called, *options, LOOPBACK, str(port)]
        self._files = files
        # A file, not a pipe: nobody reads while it sends, and a full pipe would stop it.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [*arguments, *map(str, files)],
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TCP_NODELAY": "1"},
        )

    def has_ended(self) -> bool:
        """Is there nothing more to come?"""
        return self._process.poll() is not None

    def wait(self, timeout_s: float = 110) -> Sending:
        """What was sent, once it ended."""
        status = self._process.wait(timeout_s)
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        return Sending(status, output, _read_answers(self._files, output))

    def kill(self) -> None:
        """SIGKILL: it dies without another word to its peer."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._output.close()


def send(files: Sequence[Path], port: int, *, called: str, options: Sequence[str] = ()) -> Sending:
    """C-STORE the files on one association, to the end."""
    with Modality(files, port, called=called, options=options) as modality:
        return modality.wait()


def write_profile(path: Path, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Write a profile that proposes each (SOP class, transfer syntax) by itself; returns the options for it.

    Left alone, storescu proposes uncompressed syntaxes only, and then cannot send what is compressed.
    """
    wanted = sorted(set(pairs))
    syntaxes = sorted({syntax for _, syntax in wanted})
    lines = ["[[TransferSyntaxes]]"]
    lines += [f"[T{index}]\nTransferSyntax1 = {syntax}" for index, syntax in enumerate(syntaxes)]
    lines += ["[[PresentationContexts]]", "[All]"]
    lines += [
        f"PresentationContext{number} = {sop_class}\\T{syntaxes.index(syntax)}"
        for number, (sop_class, syntax) in enumerate(wanted, start=1)
    ]
    lines += ["[[Profiles]]", "[Default]", "PresentationContexts = All", ""]
    path.write_text("\n".join(lines))
    return ["-xf", str(path), "Default"]


def _read_answers(files: Iterable[Path], output: str) -> dict[Path, Answer]:
    answers = {path: Answer() for path in files}
    current = Answer()
    for line in output.splitlines():
        if sending := re.search(r"I: Sending file: (.*)", line):
            current = answers[Path(sending[1])]
        elif received := re.search(r"D: DIMSE Status +: (0x[0-9a-f]{4})", line):
            current.status = received[1]
        elif comment := re.search(r"D: \(0000,0902\) LO \[(.*)\]", line):
            current.comment = comment[1]
        elif complaint := re.match(r"[EF]: (.*)", line):
            current.complaints.append(complaint[1])
    return answers
