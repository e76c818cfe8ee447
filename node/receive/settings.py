"""What a DICOM listener is told: where it listens, whom it lets in, and its limits."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from node.errors import ConfigurationError

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class ApplicationEntity:
    """One called AE title and the calling AE titles it answers to; an empty set answers to all."""

    ae_title: str
    allowed_callers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DimseListenerSettings:
    """Where a DIMSE listener listens, whom it lets in, and its limits.

    `allowed_hosts` are addresses or networks (`10.1.0.0/16`); names are not resolved. `max_pdu_bytes` is what
    senders are asked to send at most in one piece. `idle_timeout_s` ends an association that says nothing,
    `read_timeout_s` one that stops inside a message; `drain_timeout_s` is how long `stop` waits for the rest.
    """

    application_entities: tuple[ApplicationEntity, ...] = (ApplicationEntity("SIGHTLINE"),)
    host: str = "127.0.0.1"
    port: int = 11112
    allowed_hosts: tuple[str, ...] = LOOPBACK
    max_associations: int = 32
    max_pdu_bytes: int = 1 << 17
    idle_timeout_s: float = 60.0
    read_timeout_s: float = 30.0
    drain_timeout_s: float = 10.0
    accept_private_classes: bool = False
    networks: tuple[IPv4Network | IPv6Network, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise ConfigurationError with everything that is wrong."""
        problems = [*self._title_problems(), *self._limit_problems()]
        networks = []
        for host in self.allowed_hosts:
            try:
                networks.append(ip_network(host, strict=False))
            except ValueError:
                problems.append(f"allowed_hosts: {host!r} is no address and no network like 10.1.0.0/16")
        if problems:
            raise ConfigurationError(problems)
        object.__setattr__(self, "networks", tuple(networks))

    def _title_problems(self) -> list[str]:
        titles = [entity.ae_title for entity in self.application_entities]
        callers = [title for entity in self.application_entities for title in entity.allowed_callers]
        problems = [
            f"application_entities: {title!r} is no AE title (1 to 16 ASCII characters, no backslash)"
            for title in [*titles, *callers]
            if not is_ae_title(title)
        ]
        if not titles or len(titles) != len(set(titles)):
            problems.append("application_entities: at least one AE title, and none twice")
        return problems

    def _limit_problems(self) -> list[str]:
        allowed = {
            "port": (0, 65535),
            "max_associations": (1, 10_000),
            "max_pdu_bytes": (4096, 1 << 24),
            "idle_timeout_s": (1, 86_400),
            "read_timeout_s": (0.1, 86_400),
            "drain_timeout_s": (0, 86_400),
        }
        return [
            f"{name}: {getattr(self, name)} is not within {low} to {high}"
            for name, (low, high) in allowed.items()
            if not low <= getattr(self, name) <= high
        ]

    def entity(self, called_ae_title: str) -> ApplicationEntity | None:
        """Return the application entity that is called, or None where there is none of that title."""
        return next((each for each in self.application_entities if each.ae_title == called_ae_title), None)

    def admits(self, address: str) -> bool:
        """May a peer at this address open an association?"""
        host = ip_address(address.partition("%")[0])
        if isinstance(host, IPv6Address) and host.ipv4_mapped:
            host = host.ipv4_mapped
        return any(host in network for network in self.networks)


def is_ae_title(text: str) -> bool:
    """Is this an AE title (PS3.5 6.2, AE) that means something?"""
    is_plain = text.isascii() and text.isprintable() and "\\" not in text
    return is_plain and text == text.strip() and 1 <= len(text) <= 16
