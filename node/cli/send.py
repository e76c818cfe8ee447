"""`sightline send`: DICOM files to any archive."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.output import AsJson, Progression, print_json, print_table, say
from node.deliver.association import Peer
from node.deliver.dimse import send_files
from node.deliver.summary import SentFile
from node.errors import ConfigurationError
from node.receive.folder import find_files
from node.settings import TlsSettings
from node.telemetry import configure_logging
from node.tls import ClientContext, CurrentContext, client_context


def parse_address(text: str, calling_ae_title: str, tls: CurrentContext[ClientContext] | None = None) -> Peer:
    """Return the peer in `AET@HOST:PORT`; raises ConfigurationError where it is not of that form."""
    ae_title, _, place = text.rpartition("@")
    host, _, port = place.rpartition(":")
    if not (0 < len(ae_title) <= 16 and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigurationError([f"{text!r} – expected AET@HOST:PORT, such as PACS@10.1.2.3:104"])
    return Peer(host.strip("[]"), int(port), ae_title, calling_ae_title, tls=tls)


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH…", help="DICOM files, or folders of them.")],
    to: Annotated[str, typer.Option(metavar="AET@HOST:PORT", help="The archive.")],
    calling: Annotated[str, typer.Option(metavar="AET", help="How to call ourselves there.")] = "SIGHTLINE",
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS; the archive must be who it says.")] = False,
    certificate: Annotated[
        Path | None, typer.Option("--tls-certificate", metavar="FILE", help="What we show the archive.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, if not in the same file.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", metavar="FILE", help="Who vouches for the archive, if not the system."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send files by C-STORE, as they are, and say how each was answered."""
    configure_logging("error")
    settings = TlsSettings(certificate=certificate, key=key, ca=ca)
    is_secure = tls or settings != TlsSettings()
    context = CurrentContext(settings, client_context) if is_secure else None
    peer, files = parse_address(to, calling, context), list(find_files(paths))
    with Progression("sent", len(files)) as progress:
        summary = send_files(files, peer, lambda sent: progress.advance(f"{sent.path.name}: {sent.answer}"))
    counts = {str(answer): number for answer, number in summary.count_by_answer.items()}
    if as_json:
        print_json({"counts": counts, "files": [_describe(sent) for sent in summary.files]})
    else:
        print_table(("file", "answer"), [(sent.path.name, sent.reason) for sent in summary.failures])
        say(", ".join(f"{number} {answer}" for answer, number in counts.items()) or "no file to send")
    if summary.failures or not files:
        raise typer.Exit(1)


def _describe(sent: SentFile) -> dict[str, object]:
    return {
        "path": str(sent.path),
        "sop_instance_uid": sent.sop_instance_uid,
        "answer": sent.answer.value,
        "status": sent.status,
        "comment": sent.comment,
    }
