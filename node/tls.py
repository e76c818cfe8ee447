"""Secure connections by the BCP 195 TLS profiles of DICOM (PS3.15 B.12): contexts, and words for what fails.

TLS 1.2 and 1.3 only, with keys that are made for one connection and ciphers that notice a changed byte.
"""

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog
from cryptography import x509

from node.errors import ConfigurationError, TlsError
from node.settings import Configuration, TlsSettings

T = TypeVar("T")
Context = TypeVar("Context", bound=ssl.SSLContext)

log = structlog.get_logger()

# RFC 9325 section 4.2 for TLS 1.2; all ciphers of TLS 1.3 are of this kind, and OpenSSL lists them apart.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
SOON_DAYS = 30
DOORS = frozenset({"receive", "web"})

# OpenSSL's name of what went wrong, in words that tell an administrator where to look.
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer shows no certificate",
    "NO_SHARED_CIPHER": "the peer offers only ciphers that are not safe",
    "UNSUPPORTED_PROTOCOL": "the peer speaks a version of TLS older than 1.2",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS",
    "HTTP_REQUEST": "the peer does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": "the peer ended the connection",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer speaks no version of TLS that is safe",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer accepts none of our ciphers, or wants a certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate of ours",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know the authority of our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer says that our certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not accept our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not accept our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer does not accept our certificate",
}


class ClientContext(ssl.SSLContext):
    """The context of an outgoing connection; `refusal` says in words why there is none, where TLS is why."""

    refusal: str = ""


class _ClientSocket(ssl.SSLSocket):
    """Keeps the reason of a failure: pynetdicom reports only that there is no connection.

    Not in the handshake alone: in TLS 1.3 a server tells at the first read what it holds of our certificate.
    """

    def connect(self, addr: Any) -> None:
        """Connect, and shake hands."""
        try:
            self._noting(super().connect, addr)
        except OSError:
            self.close()  # pynetdicom forgets a socket that it could not connect
            raise

    def do_handshake(self, block: bool = False) -> None:
        """Do the handshake."""
        if isinstance(self.context, ClientContext):
            self.context.refusal = ""
        self._noting(super().do_handshake, block)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read some bytes."""
        return self._noting(super().recv, buflen, flags)

    def _noting(self, call: Callable[..., T], *arguments: Any) -> T:
        try:
            return call(*arguments)
        except OSError as fault:
            if isinstance(self.context, ClientContext):
                self.context.refusal = explain(fault)
            raise


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context of a door of ours; raises ConfigurationError where its files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context)
    _load_own(context, settings)
    if settings.mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        if settings.ca is None:
            raise ConfigurationError(["ca: missing – it says whose certificates are accepted"])
        _load_authorities(context, settings.ca)
    return context


def client_context(settings: TlsSettings) -> ClientContext:
    """Return the context of a connection of ours to the outside, which checks the name of the host.

    Raises ConfigurationError where its files cannot be used.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _ClientSocket
    _restrict(context)
    if settings.certificate:
        _load_own(context, settings)
    if settings.ca:
        _load_authorities(context, settings.ca)
    else:
        context.load_default_certs()
    return context


class CurrentContext(Generic[Context]):
    """The context of a use; call it for each connection: it is made anew when one of its files has changed.

    New files that cannot be used are told of, and the old ones used on: they may be changed one by one.
    """

    def __init__(self, settings: TlsSettings, make: Callable[[TlsSettings], Context]) -> None:
        """Raise ConfigurationError where the files cannot be used."""
        self._settings, self._make = settings, make
        self._lock = threading.Lock()
        # Before they are read: a change meanwhile is noticed at the next call.
        self._state = _state(settings)
        self._context = make(settings)

    def __call__(self) -> Context:
        """Return the context for a connection that begins now."""
        with self._lock:
            if (state := _state(self._settings)) != self._state:
                self._state = state
                self._renew()
            return self._context

    def _renew(self) -> None:
        names = {"certificate": str(self._settings.certificate)}
        try:
            self._context = self._make(self._settings)
        except ConfigurationError as fault:
            log.warning("certificate_unusable", reason=str(fault), **names)
        else:
            log.info("certificate_renewed", **names)


def serving_context(current: CurrentContext[ssl.SSLContext]) -> ssl.SSLContext:
    """Return a context for a server that wants one for good: it gives each connection the current one."""
    context = current()

    def give_current(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current()

    context.sni_callback = give_current
    return context


def accept(connection: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return the secure connection to a peer that called; raises TlsError with the reason where it has none.

    Waits for the peer, with the connection's time-out: call it in no thread that others depend on.
    """
    try:
        return context.wrap_socket(connection, server_side=True)
    except OSError as fault:
        raise TlsError(explain(fault)) from fault


def explain(fault: OSError) -> str:
    """Return in words why a secure connection failed; nothing that the peer sent is repeated."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {fault.verify_message.rstrip('.')}"
    if isinstance(fault, TimeoutError):
        return "the peer did not finish the handshake in time"
    if isinstance(fault, ssl.SSLError):
        return _WORDS.get(fault.reason or "", f"TLS failed: {fault.reason or type(fault).__name__}")
    return fault.strerror or type(fault).__name__


def expires_at(certificate: Path) -> datetime:
    """Return when the first certificate of a file ends; raises ConfigurationError where there is none."""
    return min(each.not_valid_after_utc for each in _certificates(certificate))


def check_certificate(settings: TlsSettings, *, is_server: bool, soon_days: float = SOON_DAYS) -> None:
    """Raise ConfigurationError unless the files can be used, now and for some days more."""
    _try(settings, is_server=is_server)
    if settings.certificate is None:
        return
    now, path = datetime.now(UTC), settings.certificate
    for certificate in _certificates(path):
        if certificate.not_valid_before_utc > now:
            raise ConfigurationError(
                [f"{path}: not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"]
            )
    ends = expires_at(path)
    if ends <= now:
        raise ConfigurationError([f"{path}: expired on {ends:%Y-%m-%d}"])
    if (days := (ends - now).days) < soon_days:
        raise ConfigurationError([f"{path}: expires on {ends:%Y-%m-%d}, in {days} days: renew it"])


def tls_by_use(configuration: Configuration) -> dict[str, TlsSettings]:
    """Return how each connection of a node is secured, by its section; those that are not are left out."""
    return {name.removesuffix(".tls"): settings for name, settings in _settings_in(configuration, "")}


def _settings_in(value: object, name: str) -> Iterator[tuple[str, TlsSettings]]:
    if isinstance(value, TlsSettings):
        yield name, value
        return
    inner: Mapping[str, object] = value if isinstance(value, Mapping) else {}
    if is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
    for key, one in inner.items():
        yield from _settings_in(one, f"{name}.{key}".lstrip("."))


def ends_by_use(configuration: Configuration) -> dict[str, datetime]:
    """Return when the node's own certificates end, by the section that names them.

    Those are left out that could not be used now.
    """
    ends: dict[str, datetime] = {}
    for use, settings in tls_by_use(configuration).items():
        if settings.certificate:
            with suppress(ConfigurationError):
                _try(settings, is_server=use in DOORS)
                ends[use] = expires_at(settings.certificate)
    return ends


def _try(settings: TlsSettings, *, is_server: bool) -> None:
    """Raise ConfigurationError unless the files can be used."""
    if is_server:
        server_context(settings)
    else:
        client_context(settings)


def _state(settings: TlsSettings) -> list[tuple[int, int, int] | None]:
    """Return what changes when somebody changes the files; a file that is missing has nothing."""
    paths = [path for path in (settings.certificate, settings.key, settings.ca) if path]
    states: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            found = path.stat()
            states.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            states.append(None)
    return states


def _restrict(context: ssl.SSLContext) -> None:
    """Allow what BCP 195 allows."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


def _load_own(context: ssl.SSLContext, settings: TlsSettings) -> None:
    """Give a context our certificate and its key."""
    if settings.certificate is None:
        raise ConfigurationError(["certificate: missing – a door needs one"])
    certificate, key = settings.certificate, settings.key or settings.certificate
    _read(certificate)
    is_locked = b"ENCRYPTED" in _read(key)
    # Always a password: without one, OpenSSL would ask for it at a terminal that nobody sees.
    password = os.environ.get(settings.key_password_env, "")
    try:
        context.load_cert_chain(certificate, key, lambda: password)
    except (ssl.SSLError, ValueError) as fault:
        words = "no certificate with a key in PEM form"
        if getattr(fault, "reason", None) == "KEY_VALUES_MISMATCH":
            words = "the key is not that of the certificate"
        elif is_locked:
            words = (
                "the key's password is missing or wrong: key_password_env names the variable that holds it"
            )
        raise ConfigurationError([f"{certificate}, {key}: {words}"]) from fault


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    _read(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as fault:
        raise ConfigurationError([f"{path}: no certificates of authorities in PEM form"]) from fault


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as fault:
        raise ConfigurationError([f"{path}: no certificate in PEM form"]) from fault


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ConfigurationError([f"{path}: cannot be read – {fault.strerror}"]) from fault
