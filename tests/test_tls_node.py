"""A node and its peers over secure connections: DCMTK and a browser's client as the other ends."""

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from node.app import Node, running
from node.checks import check_machine, check_start
from node.config import check_configuration
from node.deliver.association import Peer, echo
from node.deliver.dimse import send_files
from node.deliver.summary import Answer
from node.errors import ConfigurationError, DestinationUnreachableError
from node.receive.dimse import Extras
from node.settings import Configuration, DestinationSettings, ReceiveSettings, TlsSettings, WebSettings
from node.tls import CurrentContext, client_context, ends_by_use, server_context, serving_context
from node.web import WebServer
from tests.certificates import Authority
from tests.doors import SIGHTLINE, Door, OpenDoor, dataset_digest, opening
from tests.instances import encode_dataset, write_instance
from tests.peers import LOOPBACK, dcmtk, end_process, free_ports, need_program, wait_until
from tests.peers.node import run_sightline

ARCHIVE = "ARCHIVE"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


@contextmanager
def storescp(settings: TlsSettings, folder: Path) -> Iterator[int]:
    """DCMTK's receiver, which speaks TLS alone and asks for a certificate; its port."""
    program, (port,) = need_program("storescp", "dcmtk"), free_ports(1)
    folder.mkdir()
    files = [str(settings.key), str(settings.certificate), "+cf", str(settings.ca)]
    process = subprocess.Popen(
        [program, "+tls", *files, "-aet", ARCHIVE, "-od", str(folder), str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _is_open(port), "storescp")
        yield port
    finally:
        end_process(process)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


# --- out


def test_results_go_to_dcmtk_over_tls(hospital: Authority, tmp_path: Path) -> None:
    path = write_instance(tmp_path / "a.dcm", encode_dataset())
    with storescp(hospital.issue("archive"), tmp_path / "archive") as port:
        peer = Peer(LOOPBACK, port, ARCHIVE, tls=partial(client_context, hospital.issue("node")))

        echo(peer)
        summary = send_files([path] * 3, peer)

    assert [file.answer for file in summary.files] == [Answer.ACCEPTED] * 3
    assert len(list((tmp_path / "archive").iterdir())) == 1


@pytest.mark.parametrize(
    ("archive", "node", "words"),
    [
        ({"host": "pacs.elsewhere"}, {}, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (
            {"days": -1, "begins_days_ago": 9},
            {},
            "the peer's certificate is refused: certificate has expired",
        ),
    ],
)
def test_an_archive_that_is_not_whom_we_meant_gets_nothing(
    hospital: Authority, tmp_path: Path, archive: dict[str, object], node: dict[str, object], words: str
) -> None:
    with storescp(hospital.issue("archive", **archive), tmp_path / "archive") as port:  # type: ignore[arg-type]
        context = partial(client_context, hospital.issue("node", **node))  # type: ignore[arg-type]

        with pytest.raises(DestinationUnreachableError, match=words):
            echo(Peer(LOOPBACK, port, ARCHIVE, tls=context))


def test_an_archive_that_speaks_no_tls_is_told_from_one_that_is_not_there(hospital: Authority) -> None:
    (closed,) = free_ports(1)
    page = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    (port,) = free_ports(1)
    server = WebServer(page, LOOPBACK, port)
    server.start()
    context = partial(client_context, hospital.issue("node"))

    with pytest.raises(DestinationUnreachableError, match="the peer does not speak TLS"):
        echo(Peer(LOOPBACK, port, ARCHIVE, tls=context))
    with pytest.raises(DestinationUnreachableError, match="Connection refused"):
        echo(Peer(LOOPBACK, closed, ARCHIVE, tls=context))

    server.stop()


def test_send_speaks_tls_where_it_is_told_to(hospital: Authority, tmp_path: Path) -> None:
    path, ours = write_instance(tmp_path / "a.dcm", encode_dataset()), hospital.issue("node")
    own = ["--tls-certificate", str(ours.certificate), "--tls-key", str(ours.key), "--tls-ca", str(ours.ca)]
    with storescp(hospital.issue("archive"), tmp_path / "archive") as port:
        arguments = ["send", str(path), "--to", f"{ARCHIVE}@{LOOPBACK}:{port}"]

        sent = run_sightline(*arguments, *own)
        refused = run_sightline(*arguments, "--tls", "--json")

    assert sent.returncode == 0, sent.stderr
    assert refused.returncode == 1
    comment = json.loads(refused.stdout)["files"][0]["comment"]
    assert "the peer's certificate is refused: self-signed certificate in certificate chain" in comment


# --- in


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[OpenDoor]:
    with opening(tmp_path) as open_one:
        yield open_one


def secured_door(open_door: OpenDoor, settings: TlsSettings, **limits: object) -> Door:
    return open_door(extras=Extras(tls=partial(server_context, settings)), **limits)


def storescu(port: int, settings: TlsSettings, path: Path) -> int:
    """Send with DCMTK by TLS; its exit status."""
    program = need_program("storescu", "dcmtk")
    files = [str(settings.key), str(settings.certificate), "+cf", str(settings.ca)]
    arguments = [program, "+tls", *files, "-aec", SIGHTLINE, LOOPBACK, str(port), str(path)]
    return subprocess.run(arguments, capture_output=True, check=False).returncode


def refusals(records: Sequence[Mapping[str, object]]) -> list[object]:
    wait_until(lambda: [one for one in records if one["event"] == "connection_refused"], "the refusal", 5)
    return [one["reason"] for one in records if one["event"] == "connection_refused"]


def test_what_dcmtk_sends_over_tls_is_stored(
    open_door: OpenDoor, hospital: Authority, tmp_path: Path
) -> None:
    door = secured_door(open_door, hospital.issue("node"))
    path = write_instance(tmp_path / "a.dcm", encode_dataset(pixels=bytes(3_000_000)))

    assert storescu(door.port, hospital.issue("scanner"), path) == 0

    (stored,) = door.stored
    assert dataset_digest(stored.instance.path) == dataset_digest(path)


def test_our_own_sender_reaches_our_own_door_over_tls(
    open_door: OpenDoor, hospital: Authority, tmp_path: Path
) -> None:
    door = secured_door(open_door, hospital.issue("node"))
    path = write_instance(tmp_path / "a.dcm", encode_dataset(pixels=bytes(300_000)))

    scanner = partial(client_context, hospital.issue("scanner"))
    summary = send_files([path] * 20, replace(door.peer(), tls=scanner))

    assert [file.answer for file in summary.files] == [Answer.ACCEPTED] * 20


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ("expired", "the peer's certificate is refused: certificate has expired"),
        ("stranger", "the peer's certificate is refused: unable to get local issuer certificate"),
        ("plain", "the peer does not speak TLS"),
        ("nobody", "the peer shows no certificate"),
    ],
)
def test_who_may_not_come_in_is_refused_with_one_line(
    open_door: OpenDoor, hospital: Authority, tmp_path: Path, peer: str, reason: str
) -> None:
    door = secured_door(open_door, hospital.issue("node"))
    path = write_instance(tmp_path / "a.dcm", encode_dataset())

    with capture_logs() as records:
        if peer == "plain":
            assert not dcmtk.echo(door.port, called=SIGHTLINE)
        elif peer == "nobody":
            context = partial(client_context, TlsSettings(ca=hospital.path, mutual=False))
            assert send_files([path], replace(door.peer(), tls=context)).failures
        else:
            known = hospital if peer == "expired" else Authority(tmp_path, "stranger")
            days = -1 if peer == "expired" else 9
            settings = known.issue("scanner", days=days, begins_days_ago=9)
            assert storescu(door.port, replace(settings, ca=hospital.path), path) != 0

        reasons = refusals(records)

    assert reasons[0] == reason
    assert len(reasons) == len(records), "more than the one line"
    assert not door.stored


def test_a_host_that_is_not_allowed_gets_no_handshake(open_door: OpenDoor, hospital: Authority) -> None:
    door = secured_door(open_door, hospital.issue("node"), allowed_hosts=("10.1.2.3",))

    with capture_logs() as records, pytest.raises(DestinationUnreachableError):
        echo(replace(door.peer(), tls=partial(client_context, hospital.issue("scanner"))))

    assert refusals(records) == ["host not allowed"]


def test_a_peer_that_does_not_finish_the_handshake_keeps_nobody_out(
    open_door: OpenDoor, hospital: Authority
) -> None:
    door = secured_door(open_door, hospital.issue("node"), read_timeout_s=0.3)
    with capture_logs() as records, socket.create_connection((LOOPBACK, door.port)) as silent:
        silent.sendall(b"\x16\x03\x01")

        echo(replace(door.peer(), tls=partial(client_context, hospital.issue("scanner"))))

        assert refusals(records) == ["the peer did not finish the handshake in time"]


# --- the web server


def get(port: int, settings: TlsSettings, path: str = "/") -> bytes:
    context = client_context(settings)
    with closing(http.client.HTTPSConnection(LOOPBACK, port, timeout=5, context=context)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


def test_pages_are_served_over_https_to_who_shows_a_certificate(hospital: Authority) -> None:
    page = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    (port,) = free_ports(1)
    server = WebServer(page, LOOPBACK, port, server_context(hospital.issue("node")))
    server.start()

    known = hospital.issue("browser")
    assert get(port, known) == b"hello"
    with pytest.raises(OSError, match=r"CERTIFICATE_REQUIRED|without response"):
        get(port, TlsSettings(ca=known.ca, mutual=False))

    server.stop()


# --- renewed while the node runs


def shown(port: int, settings: TlsSettings) -> int:
    """The serial number of the certificate that a door shows."""
    with (
        socket.create_connection((LOOPBACK, port), timeout=5) as connection,
        client_context(settings).wrap_socket(connection, server_hostname=LOOPBACK) as secured,
    ):
        certificate = secured.getpeercert()
    assert certificate
    return int(certificate["serialNumber"], 16)


def serial(settings: TlsSettings) -> int:
    assert settings.certificate
    return x509.load_pem_x509_certificate(settings.certificate.read_bytes()).serial_number


@pytest.fixture(params=["web", "dicom"])
def secured_port(request: pytest.FixtureRequest, hospital: Authority, open_door: OpenDoor) -> Iterator[int]:
    current = CurrentContext(hospital.issue("door"), server_context)
    if request.param == "dicom":
        yield open_door(extras=Extras(tls=current)).port
        return
    page = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    (port,) = free_ports(1)
    server = WebServer(page, LOOPBACK, port, serving_context(current))
    server.start()
    yield port
    server.stop()


def test_a_door_shows_a_renewed_certificate_and_until_it_is_whole_the_old_one(
    secured_port: int, hospital: Authority
) -> None:
    scanner = hospital.issue("scanner")
    door = hospital.issue("door")
    assert shown(secured_port, scanner) == serial(door)
    old = serial(door)

    with capture_logs() as logs:
        renewed = hospital.issue("renewed")
        door.certificate.write_bytes(renewed.certificate.read_bytes())
        before = [shown(secured_port, scanner) for _ in range(3)]
        door.key.write_bytes(renewed.key.read_bytes())
        after = shown(secured_port, scanner)

    assert before == [old] * 3
    assert after == serial(renewed)
    told = [one["event"] for one in logs if one["event"].startswith("certificate_")]
    assert told == ["certificate_unusable", "certificate_renewed"]


def test_a_renewed_certificate_is_shown_to_an_archive(hospital: Authority, tmp_path: Path) -> None:
    node = hospital.issue("node", days=-1, begins_days_ago=9)
    with storescp(hospital.issue("archive"), tmp_path / "archive") as port:
        peer = Peer(LOOPBACK, port, ARCHIVE, tls=CurrentContext(node, client_context))
        with pytest.raises(DestinationUnreachableError):
            echo(peer)

        hospital.issue("node")

        echo(peer)


# --- what an administrator is told


@pytest.fixture
def secured(hospital: Authority, tmp_path: Path) -> Configuration:
    receive, web, archive = free_ports(3)
    tls = hospital.issue("node", days=100)
    return Configuration(
        data=tmp_path / "data",
        receive=ReceiveSettings(port=receive, tls=tls),
        web=WebSettings(port=web, tls=tls),
        pipelines={},
        destinations={"pacs": DestinationSettings(host=LOOPBACK, port=archive, ae_title=ARCHIVE, tls=tls)},
    )


USES = ["receive.tls", "destinations.pacs.tls", "web.tls"]


def tls_problems(checks: Iterator[object]) -> dict[str, str]:
    return {one.name: one.problem for one in checks if one.name in USES}  # type: ignore[attr-defined]


def test_good_certificates_are_checked_at_start_and_by_hand(secured: Configuration) -> None:
    expected = dict.fromkeys(USES, "")

    assert tls_problems(check_start(secured)) == expected
    assert tls_problems(check_machine(secured)) == expected


def test_a_certificate_that_ends_soon_is_told_by_check_and_holds_no_start_up(
    secured: Configuration, hospital: Authority
) -> None:
    hospital.issue("node", days=12.5)

    problems = tls_problems(check_machine(secured))

    assert list(problems) == USES
    assert all(problem.endswith("in 12 days: renew it") for problem in problems.values())
    assert tls_problems(check_start(secured)) == dict.fromkeys(USES, "")


def test_a_node_does_not_start_behind_a_door_that_nobody_would_enter(
    secured: Configuration, hospital: Authority
) -> None:
    hospital.issue("node", days=-1, begins_days_ago=9)

    problems = tls_problems(check_start(secured))

    assert "expired on" in problems["receive.tls"]
    assert "expired on" in problems["web.tls"]
    assert problems["destinations.pacs.tls"] == ""


def test_a_file_that_is_missing_is_named_with_its_section(
    secured: Configuration, hospital: Authority
) -> None:
    tls = replace(hospital.issue("node"), key=Path("/nowhere.key"))
    pacs = replace(secured.destinations["pacs"], tls=tls)

    problems = tls_problems(check_start(replace(secured, destinations={"pacs": pacs})))

    assert problems["destinations.pacs.tls"] == "/nowhere.key: cannot be read – No such file or directory"


def test_when_certificates_end_is_known_by_their_use(secured: Configuration) -> None:
    ends = ends_by_use(secured)

    assert [f"{use}.tls" for use in ends] == USES
    assert all(99 <= (each - datetime.now(UTC)).days <= 100 for each in ends.values())


def test_a_node_behind_tls_tells_how_long_its_certificates_are_good(
    secured: Configuration, hospital: Authority
) -> None:
    peer = hospital.issue("monitor")
    with running(Node(secured)):
        echo(Peer(LOOPBACK, secured.receive.port, SIGHTLINE, tls=partial(client_context, peer)))
        lines = get(secured.web.port, peer, "/metrics").decode().splitlines()

    told = dict(
        line.split(" ") for line in lines if line.startswith("sightline_tls_certificate_expiry_seconds{")
    )
    assert sorted(told) == [
        f'sightline_tls_certificate_expiry_seconds{{use="{use}"}}'
        for use in ("destinations.pacs", "receive", "web")
    ]
    assert all(99 * 86_400 < float(seconds) <= 100 * 86_400 for seconds in told.values())


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"receive": {"tls": {"ca": "a"}}}, "receive.tls.certificate: missing"),
        ({"receive": {"tls": {"certificate": "a"}}}, "receive.tls.ca: missing"),
        ({"web": {"tls": {"mutual": False}}}, "web.tls.certificate: missing"),
        ({"destinations": {"a": {"tls": {}}}}, "destinations.a.tls.certificate: missing"),
        (
            {"web": {"tls": {"certificate": "a", "key_password_env": "my secret"}}},
            "web.tls.key_password_env:",
        ),
    ],
)
def test_what_a_secure_connection_lacks_is_told(table: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError) as fault:
        check_configuration(table)

    assert any(one.startswith(problem) for one in fault.value.problems), fault.value.problems


def test_a_secure_connection_needs_no_more_than_it_uses() -> None:
    pacs = {"host": "pacs", "port": 104, "ae_title": "PACS", "tls": {"mutual": False}}
    web = {"tls": {"certificate": "a", "mutual": False}}

    configuration = check_configuration({"web": web, "destinations": {"pacs": pacs}})

    assert configuration.destinations["pacs"].tls == TlsSettings(mutual=False)
