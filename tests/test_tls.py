"""Secure connections: only what BCP 195 allows, and each refusal in words."""

import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import ConfigurationError, TlsError
from node.settings import TlsSettings
from node.tls import (
    CurrentContext,
    accept,
    check_certificate,
    client_context,
    explain,
    server_context,
    serving_context,
)
from tests.certificates import Authority
from tests.peers import LOOPBACK

NOBODY = TlsSettings(mutual=False)
Hold = Callable[[CurrentContext[ssl.SSLContext]], ssl.SSLContext]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("hospital"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str = LOOPBACK
) -> tuple[ssl.SSLSocket | TlsError, tuple[str, str] | OSError]:
    """What each side gets of a handshake: a socket; protocol and cipher; or why there is none."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)
    got: list[tuple[str, str] | OSError] = []

    def connect() -> None:
        try:
            with client.wrap_socket(theirs, server_hostname=host) as secure:
                secure.recv(1)  # TLS 1.3 tells here what the server holds of our certificate
                got.append((str(secure.version()), str((secure.cipher() or ("",))[0])))
        except OSError as fault:
            got.append(fault)

    thread = threading.Thread(target=connect)
    thread.start()
    side: ssl.SSLSocket | TlsError
    try:
        side = accept(ours, server)
        side.sendall(b"a")
        side.close()
    except TlsError as fault:
        side = fault
    thread.join(10)
    return side, got[0]


def open_context(**attributes: object) -> ssl.SSLContext:
    """A client that would take anything; `attributes` narrow it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in attributes.items():
        if callable(getattr(context, name)):
            getattr(context, name)(value)
        else:
            setattr(context, name, value)
    return context


# --- versions and ciphers


@pytest.mark.parametrize(
    ("version", "expected"), [(ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")]
)
def test_versions_that_are_safe_are_spoken(
    hospital: Authority, version: ssl.TLSVersion, expected: str
) -> None:
    server = server_context(replace(hospital.issue("node"), mutual=False))

    _, got = shake(server, open_context(minimum_version=version, maximum_version=version))

    assert isinstance(got, tuple), got
    assert got[0] == expected


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # that they are deprecated is why they are tried
@pytest.mark.parametrize("name", ["TLSv1", "TLSv1_1"])
def test_versions_that_are_not_safe_are_refused(hospital: Authority, name: str) -> None:
    server = server_context(replace(hospital.issue("node"), mutual=False))
    # OpenSSL 3 itself speaks them only at security level 0: the client must be able to for this to say much.
    client = open_context(set_ciphers="ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = ssl.TLSVersion[name]

    side, got = shake(server, client)

    assert isinstance(side, TlsError)
    assert "older than 1.2" in str(side)
    assert isinstance(got, ssl.SSLError)


@pytest.mark.parametrize(
    "ciphers",
    ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES256-CCM8"],
)
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(
    hospital: Authority, ciphers: str
) -> None:
    server = server_context(replace(hospital.issue("node"), mutual=False))

    side, _ = shake(server, open_context(maximum_version=ssl.TLSVersion.TLSv1_2, set_ciphers=ciphers))

    assert isinstance(side, TlsError)
    assert str(side) == "the peer offers only ciphers that are not safe"


@pytest.mark.parametrize("make", [server_context, client_context])
def test_every_cipher_makes_keys_for_one_connection_and_notices_changes(
    hospital: Authority, make: Callable[[TlsSettings], ssl.SSLContext]
) -> None:
    ciphers = [str(each["name"]) for each in make(hospital.issue("node")).get_ciphers()]

    assert len(ciphers) > 4
    assert all(
        name.startswith(("TLS_", "ECDHE-")) and ("GCM" in name or "POLY1305" in name) for name in ciphers
    )


# --- who the peer is


def test_two_sides_that_know_each_other_connect(hospital: Authority) -> None:
    server, client = server_context(hospital.issue("node")), client_context(hospital.issue("scanner"))

    _, got = shake(server, client)

    assert isinstance(got, tuple), got
    assert client.refusal == ""


def test_a_peer_without_a_certificate_is_refused(hospital: Authority) -> None:
    client = client_context(replace(NOBODY, ca=hospital.path))

    side, _ = shake(server_context(hospital.issue("node")), client)

    assert str(side) == "the peer shows no certificate"
    assert client.refusal == "the peer wants a certificate of ours"


def test_a_peer_without_a_certificate_is_served_where_none_is_asked_for(hospital: Authority) -> None:
    server = server_context(replace(hospital.issue("node"), mutual=False))

    _, got = shake(server, client_context(replace(NOBODY, ca=hospital.path)))

    assert isinstance(got, tuple), got


def test_a_peer_with_an_expired_certificate_is_refused(hospital: Authority) -> None:
    client = client_context(hospital.issue("old", days=-1, begins_days_ago=10))

    side, _ = shake(server_context(hospital.issue("node")), client)

    assert str(side) == "the peer's certificate is refused: certificate has expired"
    assert client.refusal == "the peer says that our certificate has expired"


def test_a_peer_of_an_authority_that_we_do_not_know_is_refused(
    hospital: Authority, stranger: Authority
) -> None:
    client = client_context(replace(stranger.issue("scanner"), ca=hospital.path))

    side, _ = shake(server_context(hospital.issue("node")), client)

    assert str(side) == "the peer's certificate is refused: unable to get local issuer certificate"
    assert client.refusal == "the peer does not know the authority of our certificate"


@pytest.mark.parametrize("hold", [CurrentContext.__call__, serving_context], ids=["asked", "held"])
def test_an_authority_is_trusted_as_long_as_its_file_says(
    hospital: Authority, stranger: Authority, tmp_path: Path, hold: Hold
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(hospital.path.read_bytes())
    current = CurrentContext(replace(hospital.issue("node"), ca=trusted), server_context)
    held = hold(current)
    known, other = (
        client_context(replace(one.issue("scanner"), ca=hospital.path)) for one in (hospital, stranger)
    )

    before = [isinstance(shake(held, one)[0], TlsError) for one in (known, other)]
    trusted.write_bytes(stranger.path.read_bytes())
    held = held if hold is serving_context else hold(current)
    after = [isinstance(shake(held, one)[0], TlsError) for one in (known, other)]

    assert (before, after) == ([False, True], [True, False])


@pytest.mark.parametrize(
    ("days", "host", "words"),
    [
        (365, "pacs.elsewhere", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        (-1, LOOPBACK, "certificate has expired"),
    ],
)
def test_a_server_that_is_not_whom_we_meant_is_refused(
    hospital: Authority, days: float, host: str, words: str
) -> None:
    server = server_context(hospital.issue("pacs", host=host, days=days, begins_days_ago=10))
    client = client_context(hospital.issue("node"))

    shake(server, client)

    assert client.refusal == f"the peer's certificate is refused: {words}"


def test_a_server_of_an_unknown_authority_is_refused_where_the_system_decides(hospital: Authority) -> None:
    client = client_context(NOBODY)

    shake(server_context(replace(hospital.issue("pacs"), mutual=False)), client)

    assert client.refusal == "the peer's certificate is refused: unable to get local issuer certificate"


def test_a_peer_that_speaks_no_tls_is_refused_in_words(hospital: Authority) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"\1\0\0\0\0\xcd\0\1\0\0" + b" " * 64)

    with theirs, pytest.raises(TlsError, match="the peer does not speak TLS"):
        accept(ours, server_context(hospital.issue("node")))


def test_a_peer_that_says_nothing_does_not_hold_a_thread_for_ever(hospital: Authority) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.1)

    with theirs, pytest.raises(TlsError, match="did not finish the handshake in time"):
        accept(ours, server_context(hospital.issue("node")))


def test_a_fault_of_the_network_is_told_as_such() -> None:
    assert explain(ConnectionResetError(104, os.strerror(104))) == "Connection reset by peer"


# --- files


def test_good_files_have_no_problem(hospital: Authority) -> None:
    check_certificate(hospital.issue("node"), is_server=True)
    check_certificate(hospital.issue("node"), is_server=False)
    check_certificate(NOBODY, is_server=False)


@pytest.mark.parametrize(
    ("days", "begins_days_ago", "words"),
    [
        (-1, 10, "expired on "),
        (29.5, 10, "in 29 days: renew it"),
        (365, -2, "not valid before "),
    ],
)
def test_a_certificate_out_of_its_time_is_a_problem(
    hospital: Authority, days: float, begins_days_ago: float, words: str
) -> None:
    settings = hospital.issue("node", days=days, begins_days_ago=begins_days_ago)

    with pytest.raises(ConfigurationError, match=words):
        check_certificate(settings, is_server=True)


def test_that_a_certificate_will_end_is_no_problem_to_who_does_not_ask(hospital: Authority) -> None:
    check_certificate(hospital.issue("node", days=2), is_server=True, soon_days=0)


def test_files_that_cannot_be_used_are_named_with_what_is_wrong(hospital: Authority, tmp_path: Path) -> None:
    good, other = hospital.issue("node"), hospital.issue("other")
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no PEM")
    wrong = {
        "none.crt: cannot be read – No such file": replace(good, certificate=tmp_path / "none.crt"),
        "none.key: cannot be read – No such file": replace(good, key=tmp_path / "none.key"),
        "none.pem: cannot be read – No such file": replace(good, ca=tmp_path / "none.pem"),
        "the key is not that of the certificate": replace(good, key=other.key),
        "nonsense.pem: no certificates of authorities": replace(good, ca=nonsense),
        "no certificate with a key in PEM form": replace(good, certificate=nonsense),
        "ca: missing": replace(good, ca=None),
    }

    for words, settings in wrong.items():
        with pytest.raises(ConfigurationError, match=words):
            server_context(settings)


def test_the_password_of_a_key_is_in_the_variable_that_is_named(
    hospital: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hospital.issue("locked", password=b"open sesame")
    named = replace(settings, key_password_env="NODE_KEY")  # noqa: S106 - the name of the variable
    monkeypatch.setenv("NODE_KEY", "open sesame")

    check_certificate(named, is_server=True)
    with pytest.raises(ConfigurationError, match="password is missing or wrong: key_password_env"):
        check_certificate(settings, is_server=True)

    monkeypatch.setenv("NODE_KEY", "wrong")
    with pytest.raises(ConfigurationError, match="password is missing or wrong: key_password_env"):
        check_certificate(named, is_server=True)
