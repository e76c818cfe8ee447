"""What leaves over DICOMweb: the bytes of the file, and what the answer of an archive means."""

import http.client
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.deliver.dicomweb import StowDestination, count_by_series, count_instances, find_instances
from node.deliver.http import _Limit
from node.domain.delivery import Reception, Reference
from node.errors import DestinationUnreachableError, UnconfirmableError
from node.samples.dicom import fresh_uid
from node.tls import client_context
from tests.certificates import Authority
from tests.doors import dataset_digest
from tests.instances import CT, encode_dataset, write_instance
from tests.peers import LOOPBACK, free_ports
from tests.peers.orthanc import DICOMWEB_PLUGIN, Orthanc, run_orthanc
from tests.web_doors import opening_web

TIMEOUT_S = 0.5


def destination(port: int, **changes: Any) -> StowDestination:
    fields = {"name": "pacs", "url": f"http://{LOOPBACK}:{port}/dicom-web", "timeout_s": 10.0}
    return StowDestination(**fields | changes)


def write_study(folder: Path, counts: tuple[int, ...] = (1,)) -> dict[Reference, Path]:
    """A study with so many instances in each of its series."""
    study = fresh_uid()
    paths: dict[Reference, Path] = {}
    for count in counts:
        series = fresh_uid()
        for _ in range(count):
            uid = fresh_uid()
            dataset = encode_dataset(
                uid, study_instance_uid=study, series_instance_uid=series, pixels=uid.encode() * 999
            )
            path = write_instance(folder / f"{uid}.dcm", dataset, sop_instance_uid=uid)
            paths[Reference(study, series, CT, uid)] = path
    return paths


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


# --- to a real archive


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("needs Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb)")
    with run_orthanc(tmp_path_factory.mktemp("orthanc"), {}) as archive:
        yield archive


def test_orthanc_takes_objects_once_and_says_that_it_holds_them(orthanc: Orthanc, tmp_path: Path) -> None:
    paths = write_study(tmp_path, (3, 2))
    archive = destination(orthanc.http_port)
    (study,) = {one.study_instance_uid for one in paths}
    arrivals = orthanc.arrivals()

    first, second = archive.deliver([*paths.values()]), archive.deliver([*paths.values()])

    assert {one.reception for one in (*first, *second)} == {Reception.ACCEPTED}
    assert orthanc.arrivals() - arrivals == 5
    for reference, path in paths.items():
        copy = tmp_path / "copy.dcm"
        copy.write_bytes(orthanc.download(orthanc.instances(study)[reference.sop_instance_uid]))
        assert dataset_digest(copy) == dataset_digest(path)
    missing = Reference(study, next(iter(paths)).series_instance_uid, CT, "1.2.3.4")
    elsewhere = Reference("1.2.3", "1.2.3.4", CT, "1.2.3.4.5")
    held = archive.confirm([*paths, missing, elsewhere])
    assert held == {one.sop_instance_uid for one in paths}


def test_orthanc_is_asked_how_many_instances_a_study_has_and_which(orthanc: Orthanc, tmp_path: Path) -> None:
    paths = write_study(tmp_path, (3, 2))
    archive = destination(orthanc.http_port)
    archive.deliver([*paths.values()])
    study, series = (lambda one: (one.study_instance_uid, one.series_instance_uid))(next(iter(paths)))

    assert count_instances(archive.peer, study) == 5
    assert count_instances(archive.peer, "1.2.3") is None
    assert sorted(count_by_series(archive.peer, study).values()) == [2, 3]
    of_series = {one.sop_instance_uid for one in paths if one.series_instance_uid == series}
    assert find_instances(archive.peer, study, series) == of_series
    assert find_instances(archive.peer, study, "1.2.3") == set()


def test_what_is_no_dicom_file_is_refused_and_the_rest_is_sent(orthanc: Orthanc, tmp_path: Path) -> None:
    (good,) = write_study(tmp_path).values()
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no DICOM")

    receipts = destination(orthanc.http_port).deliver([bad, good, tmp_path / "missing.dcm"])

    assert [one.reception for one in receipts] == [
        Reception.REFUSED,
        Reception.ACCEPTED,
        Reception.REFUSED,
    ]


def test_orthanc_answers_a_check_and_a_closed_port_does_not(orthanc: Orthanc) -> None:
    destination(orthanc.http_port).check()

    with pytest.raises(DestinationUnreachableError, match=r"pacs: .*Connection refused"):
        destination(free_ports(1)[0]).check()


# --- to another node


def test_what_goes_out_comes_in_byte_for_byte_and_with_the_token(tmp_path: Path) -> None:
    paths = write_study(tmp_path, (4,))
    with opening_web(tmp_path) as open_door:
        door = open_door(**{"token": "secret"})
        refused = destination(door.port).deliver([*paths.values()])
        accepted = destination(door.port, token="secret").deliver([*paths.values()])  # noqa: S106

    assert {(one.reception, one.reason) for one in refused} == {
        (Reception.POSTPONED, "HTTP 401 Unauthorized")
    }
    assert {one.reception for one in accepted} == {Reception.ACCEPTED}
    assert {each.instance.digest for each in door.stored} == set(map(dataset_digest, paths.values()))


# --- to archives that answer otherwise


class Script(BaseHTTPRequestHandler):
    """Answers as it is told."""

    answer: Callable[["Script"], None]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        type(self).answer(self)

    do_GET = do_POST  # noqa: N815    # the name that the library looks for

    def log_message(self, *_arguments: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(self, status: int, content: Any = "", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def scripted(answer: Callable[[Script], None]) -> Iterator[int]:
    handler = type("Scripted", (Script,), {"answer": staticmethod(answer)})
    with Server((LOOPBACK, 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def said(stored: list[tuple[str, int]] = [], failed: list[tuple[str, int]] = []) -> dict[str, Any]:  # noqa: B006
    """A store response: the references and their codes, 0 for none."""

    def items(pairs: list[tuple[str, int]], tag: str) -> dict[str, Any]:
        return {
            "vr": "SQ",
            "Value": [
                {"00081155": {"vr": "UI", "Value": [uid]}}
                | ({tag: {"vr": "US", "Value": [code]}} if code else {})
                for uid, code in pairs
            ],
        }

    return {"00081199": items(stored, "00081196"), "00081198": items(failed, "00081197")}


@pytest.mark.parametrize(
    ("status", "code", "reception"),
    [
        (409, 0xA700, Reception.POSTPONED),
        (409, 0x0110, Reception.POSTPONED),
        (409, 0xA900, Reception.REFUSED),
        (409, 0xC000, Reception.REFUSED),
        (409, 0x0122, Reception.REFUSED),
        (409, 0x0111, Reception.ACCEPTED),
        (200, 0xA700, Reception.POSTPONED),
        (202, 0, Reception.POSTPONED),
    ],
)
def test_a_failure_reason_says_whether_another_try_may_help(
    tmp_path: Path, status: int, code: int, reception: Reception
) -> None:
    ((reference, path),) = write_study(tmp_path).items()

    def answer(script: Script) -> None:
        script.body()
        script.reply(status, said(failed=[(reference.sop_instance_uid, code)]))

    with scripted(answer) as port:
        (receipt,) = destination(port).deliver([path])

    assert receipt.reception == reception


def test_each_object_has_its_own_answer_and_a_warning_is_told(tmp_path: Path) -> None:
    paths = write_study(tmp_path, (4,))
    stored, warned, failed, _unnamed = (one.sop_instance_uid for one in paths)

    def answer(script: Script) -> None:
        script.body()
        script.reply(202, said([(stored, 0), (warned, 0xB007)], [(failed, 0xA900)]))

    with scripted(answer) as port, capture_logs() as logs:
        receipts = destination(port).deliver([*paths.values()])

    assert [one.reception for one in receipts] == [
        Reception.ACCEPTED,
        Reception.ACCEPTED,
        Reception.REFUSED,
        Reception.POSTPONED,
    ]
    (told,) = (one for one in logs if one["event"] == "delivery_warned")
    assert (told["sop_instance_uid"], told["status"]) == (warned, "0xB007")


@pytest.mark.parametrize(
    ("status", "content", "reception"),
    [
        (200, b"", Reception.ACCEPTED),
        (200, b"[[[", Reception.ACCEPTED),
        (202, b"", Reception.POSTPONED),
        (409, b"no JSON", Reception.REFUSED),
        (400, b"", Reception.REFUSED),
        (415, b"", Reception.REFUSED),
        (302, b"", Reception.POSTPONED),
        (401, b"", Reception.POSTPONED),
        (404, b"", Reception.POSTPONED),
        (429, b"", Reception.POSTPONED),
        (500, b"", Reception.POSTPONED),
        (503, b"", Reception.POSTPONED),
        (999, b"", Reception.POSTPONED),
    ],
)
def test_a_status_alone_says_enough(
    tmp_path: Path, status: int, content: bytes, reception: Reception
) -> None:
    def answer(script: Script) -> None:
        script.body()
        script.reply(status, content, Location="http://elsewhere/")

    with scripted(answer) as port:
        (receipt,) = destination(port).deliver([*write_study(tmp_path).values()])

    assert receipt.reception == reception
    assert reception is Reception.ACCEPTED or f"HTTP {status}" in receipt.reason


def test_too_large_together_is_sent_one_by_one(tmp_path: Path) -> None:
    sizes: list[int] = []

    def answer(script: Script) -> None:
        sizes.append(script.body().count(b"Content-Type: application/dicom"))
        script.reply(413 if sizes[-1] > 1 else 200)

    with scripted(answer) as port:
        receipts = destination(port).deliver([*write_study(tmp_path, (3,)).values()])

    assert sizes == [3, 1, 1, 1]
    assert {one.reception for one in receipts} == {Reception.ACCEPTED}


def hang(_script: Script) -> None:
    time.sleep(3)


def hang_after_reading(script: Script) -> None:
    script.body()
    time.sleep(3)


def drop(script: Script) -> None:
    script.rfile.read(100)
    script.connection.shutdown(socket.SHUT_RDWR)


def drip(script: Script) -> None:
    script.body()
    for _ in range(100):
        script.wfile.write(b"H")
        time.sleep(0.1)


def speak_nonsense(script: Script) -> None:
    script.body()
    script.wfile.write(b"\0\1\2\3 nonsense\r\n\r\n")


@pytest.mark.parametrize("misbehave", [hang, hang_after_reading, drop, drip, speak_nonsense])
def test_an_archive_without_a_whole_answer_is_tried_again_and_holds_nobody(
    tmp_path: Path, misbehave: Callable[[Script], None]
) -> None:
    with scripted(misbehave) as port:
        begun = time.monotonic()
        (receipt,) = destination(port, timeout_s=TIMEOUT_S).deliver([*write_study(tmp_path).values()])

    assert receipt.reception == Reception.POSTPONED
    assert time.monotonic() - begun < 4 * TIMEOUT_S


def test_a_secure_request_whose_time_is_over_stays_secure(hospital: Authority) -> None:
    """The library's `shutdown` drops TLS before it ends the connection: a piece between goes out plain."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = http.client.HTTPConnection("pacs")
        context = client_context(hospital.issue("node"))
        connection.sock = context.wrap_socket(ours, server_hostname="pacs", do_handshake_on_connect=False)

        _Limit(connection, 0)._end()

        with pytest.raises(ssl.SSLError):
            connection.sock.send(b"patient")
        connection.sock.close()
        assert b"patient" not in theirs.recv(1000)


def test_an_answer_before_all_is_sent_is_read(tmp_path: Path) -> None:
    uid = fresh_uid()
    path = write_instance(
        tmp_path / "large.dcm", encode_dataset(uid, pixels=bytes(30 << 20)), sop_instance_uid=uid
    )

    def answer(script: Script) -> None:
        script.rfile.read(1000)
        script.reply(503, b"full")
        script.connection.shutdown(socket.SHUT_WR)
        while script.rfile.read(1 << 20):
            pass

    with scripted(answer) as port:
        (receipt,) = destination(port).deliver([path])

    assert (receipt.reception, receipt.reason) == (Reception.POSTPONED, "HTTP 503 Service Unavailable")


# --- questions


def test_pages_are_read_to_the_end_however_short(tmp_path: Path) -> None:
    uids = [f"1.2.{number}" for number in range(25)]

    def answer(script: Script) -> None:
        offset = int(script.path.partition("offset=")[2].partition("&")[0])
        page = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids[offset : offset + 10]]
        script.reply(200, page) if page else script.reply(204, b"")

    with scripted(answer) as port:
        assert find_instances(destination(port).peer, "1.2", "1.3") == set(uids)


def test_an_archive_that_ignores_pages_is_asked_no_further() -> None:
    asked: list[str] = []

    def answer(script: Script) -> None:
        asked.append(script.path)
        script.reply(200, [{"00080018": {"vr": "UI", "Value": ["1.2.3"]}}])

    with scripted(answer) as port:
        assert find_instances(destination(port).peer, "1.2", "1.3") == {"1.2.3"}

    assert len(asked) == 2


def test_an_archive_that_has_always_one_more_page_holds_nobody() -> None:
    asked: list[str] = []

    def answer(script: Script) -> None:
        asked.append(script.path)
        time.sleep(0.08)
        script.reply(200, [{"00080018": {"vr": "UI", "Value": [f"1.2.{len(asked)}"]}}])

    with scripted(answer) as port:
        begun = time.monotonic()
        with pytest.raises(DestinationUnreachableError, match="no end to a QIDO-RS request"):
            find_instances(destination(port, timeout_s=TIMEOUT_S).peer, "1.2", "1.3")

    assert time.monotonic() - begun < 6 * TIMEOUT_S


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (404, b"", UnconfirmableError),
        (403, b"", UnconfirmableError),
        (200, b"<html>", UnconfirmableError),
        (200, b'{"a": 1}', UnconfirmableError),
        (503, b"", DestinationUnreachableError),
    ],
)
def test_an_archive_that_does_not_answer_a_question_is_told_from_one_that_does_not_now(
    status: int, content: bytes, error: type[Exception]
) -> None:
    with scripted(lambda script: script.reply(status, content)) as port, pytest.raises(error):
        count_instances(destination(port).peer, "1.2")


@pytest.mark.parametrize("value", [[], ["x"], [True], [-1], [None], "7", [{"a": 1}]])
def test_a_count_that_is_none_is_no_answer(value: Any) -> None:
    match = {
        "0020000D": {"vr": "UI", "Value": ["1.2"]},
        "00201208": {"vr": "IS", "Value": value},
    }

    with scripted(lambda script: script.reply(200, [match])) as port:
        assert count_instances(destination(port).peer, "1.2") is None
