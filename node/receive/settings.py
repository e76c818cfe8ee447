"""What a DICOM listener is told: where it listens, whom it lets in, and its limits."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class ApplicationEntity:
    """One called AE title and the calling AE titles it answers to; an empty set answers to all.

    `max_associations` is how many may be open to it at a time; 0 is no limit of its own.
    """

    ae_title: str
    allowed_callers: frozenset[str] = frozenset()
    max_associations: int = 0


@dataclass(frozen=True, slots=True)
class DimseListenerSettings:
    """Where a DIMSE listener listens, whom it lets in, and its limits, which the configuration has checked.

    `allowed_hosts` are addresses or networks (`10.1.0.0/16`); names are not resolved. `max_pdu_bytes` is what
    a sender may send at most in one piece. `idle_timeout_s` ends an association that says nothing,
    `read_timeout_s` one that stops inside a message, or sends less than `min_bytes_per_s` of it for so long;
    `drain_timeout_s` is how long `stop` waits for the rest. `max_associations_per_caller` counts those of one
    calling AE title; 0 is no such limit.
    """

    application_entities: tuple[ApplicationEntity, ...] = (ApplicationEntity("SIGHTLINE"),)
    host: str = "127.0.0.1"
    port: int = 11112
    allowed_hosts: tuple[str, ...] = LOOPBACK
    max_associations: int = 16
    max_associations_per_caller: int = 0
    max_pdu_bytes: int = 1 << 17
    max_instance_bytes: int = 4 << 30
    idle_timeout_s: float = 60.0
    read_timeout_s: float = 30.0
    min_bytes_per_s: float = 0.0
    drain_timeout_s: float = 10.0
    accept_private_classes: bool = False

    def entity(self, called_ae_title: str) -> ApplicationEntity | None:
        """Return the application entity that is called, or None where there is none of that title."""
        return next((each for each in self.application_entities if each.ae_title == called_ae_title), None)

    def admits(self, address: str) -> bool:
        """May a peer at this address open an association?"""
        return is_admitted(address, self.allowed_hosts)


def is_admitted(address: str, allowed_hosts: Iterable[str]) -> bool:
    """Is this address among the addresses and networks?"""
    host = ip_address(address.partition("%")[0])
    if isinstance(host, IPv6Address) and host.ipv4_mapped:
        host = host.ipv4_mapped
    return any(host in ip_network(network) for network in allowed_hosts)
