"""An authority that makes certificates for a test: good, expired, for another host, of nobody we know."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.settings import TlsSettings
from tests.peers import LOOPBACK


@dataclass(frozen=True)
class Authority:
    """Signs certificates, and writes them and itself into a folder."""

    folder: Path
    name: str = "hospital"
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def path(self) -> Path:
        """The file with its own certificate."""
        path = self.folder / f"{self.name}.pem"
        if not path.exists():
            builder = _builder(self.name, self.name, self.private, days=3650, begins_days_ago=1)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            _write(path, builder.sign(self.private, hashes.SHA256()))
        return path

    def issue(
        self,
        name: str,
        *,
        host: str = LOOPBACK,
        days: float = 365,
        begins_days_ago: float = 1,
        password: bytes = b"",
    ) -> TlsSettings:
        """A certificate with its key for one host, and this authority to judge the other side by."""
        private = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.name, private, days=days, begins_days_ago=begins_days_ago)
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host)]), critical=False)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        _write(certificate, builder.sign(self.private, hashes.SHA256()))
        how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pem = serialization.Encoding.PEM
        key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, how))
        return TlsSettings(certificate=certificate, key=key, ca=self.path)


def _builder(
    name: str, issuer: str, private: ec.EllipticCurvePrivateKey, *, days: float, begins_days_ago: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=begins_days_ago))
        .not_valid_after(now + timedelta(days=days))
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
