"""What only the running machine can tell of a configuration: ports, models, destinations, disk, clock."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from node.config import load_usable, read_secret
from node.errors import EngineUnavailableError, SightlineError
from node.index import open_index
from node.interfaces import models_of
from node.parts import build_destination, build_engine
from node.receive.watched import make_folders
from node.receiver import listener_settings
from node.settings import Configuration, DestinationSettings, ReceiveSettings
from node.tls import DOORS, SOON_DAYS, check_certificate, client_context, tls_by_use

OLDEST_PLAUSIBLE_TIME = 1_767_225_600  # 2026-01-01: a clock before this node was written is wrong
GIB = 1024**3

Errors = tuple[type[SightlineError], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `problem` says what to do, and is empty where all is well."""

    name: str
    problem: str = ""


def check_file(path: Path | None) -> list[Check]:
    """Return every check of a configuration file: its problems, and how the rest does on this machine."""
    configuration, problems = load_usable(path)
    return [*(Check(*one.split(": ", 1)) for one in problems), *check_machine(configuration)]


def check_machine(configuration: Configuration) -> Iterator[Check]:
    """Yield how a configuration does on this machine: ports, models, folder, destinations, disk, clock."""
    yield from check_start(configuration, waits=False)
    yield _checked("disk", lambda: _look_at_disk(configuration))
    yield _checked("clock", _look_at_clock)
    for name, settings in configuration.destinations.items():
        yield _checked(f"destinations.{name}", partial(_look_at_destination, name, settings))
        yield from check_reports(name, configuration)


def check_reports(name: str, configuration: Configuration) -> Iterator[Check]:
    """Yield whether a destination that is asked for storage commitment could report to the node."""
    settings = configuration.destinations[name]
    if settings.confirm == "commitment" and settings.host:
        look = partial(_look_at_reports, settings, configuration.receive)
        yield _checked(f"destinations.{name}.confirm", look)


def check_start(configuration: Configuration, *, waits: bool = True) -> Iterator[Check]:
    """Yield what a node cannot start without: its ports, its models, its folder.

    It can start without an engine that may come back, and so waits for one; a person is told of it.
    """
    receive, web = configuration.receive, configuration.web
    yield _checked(f"receive.port {receive.port}", lambda: _bind(receive.host, receive.port))
    yield _checked(f"web.port {web.port}", lambda: _bind(web.host, web.port))
    yield from _check_tls(configuration, is_start=waits)
    yield from _check_models(configuration, (EngineUnavailableError,) if waits else ())
    yield _checked(f"data {configuration.data}", lambda: open_index(configuration.data).close())
    if variable := receive.dicomweb.token_env:
        look = partial(_look_at_secret, variable, "receive.dicomweb.token_env")
        yield _checked("receive.dicomweb", look)
    for name, folder in receive.folders.items():
        yield _checked(f"receive.folders.{name}.path {folder.path}", partial(make_folders, folder.path))


def _check_tls(configuration: Configuration, *, is_start: bool) -> Iterator[Check]:
    """Yield what is wrong with certificates; a start is not held up by one that ends soon.

    Nor by one for an archive that has ended: it gets its results when there is a new one.
    """
    for use, settings in tls_by_use(configuration).items():
        is_server = use in DOORS
        look = partial(
            check_certificate, settings, is_server=is_server, soon_days=0 if is_start else SOON_DAYS
        )
        yield _checked(
            f"{use}.tls", partial(client_context, settings) if is_start and not is_server else look
        )


def _check_models(configuration: Configuration, forgiven: Errors) -> Iterator[Check]:
    with closing(build_engine(configuration.engine)) as engine:
        for name, entry in configuration.pipelines.items():
            own, *others = models_of(entry.build())
            yield _checked(f"pipelines.{name} model", partial(engine.check, own), forgiven)
            for model in others:
                yield _checked(f"pipelines.{name} model {model}", partial(engine.check, model), forgiven)


def _checked(name: str, look: Callable[[], object], forgiven: Errors = ()) -> Check:
    try:
        with suppress(*forgiven):
            look()
    except (SightlineError, OSError) as error:
        return Check(name, str(error))
    return Check(name)


def _bind(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise OSError(
                f"cannot listen on {host}:{port}: {reason}; choose another, or stop what holds it"
            ) from error


def _look_at_disk(configuration: Configuration) -> None:
    usage = shutil.disk_usage(configuration.data)
    limits = configuration.receive
    used_percent = 100 * (1 - usage.free / usage.total)
    if used_percent > limits.max_used_percent or usage.free < limits.min_free_gib * GIB:
        raise OSError(
            f"{used_percent:.0f} % used, {usage.free / GIB:.1f} GiB free; the node refuses instances above "
            f"{limits.max_used_percent:.0f} % or below {limits.min_free_gib:g} GiB: make room"
        )


def _look_at_secret(variable: str, key: str) -> None:
    read_secret(variable, key)


def _look_at_destination(name: str, settings: DestinationSettings) -> None:
    build_destination(name, settings).check()


def _look_at_reports(settings: DestinationSettings, receive: ReceiveSettings) -> None:
    """Raise unless the archive's reports of storage commitment would be let in."""
    title, instead = settings.calling_ae_title, 'or confirm = "query"'
    if title not in receive.application_entities:
        raise OSError(
            f"the archive reports to {title}, none of receive.application_entities: add it, {instead}"
        )
    with suppress(socket.gaierror):  # told by the destination's own check
        hosts = {str(found[4][0]) for found in socket.getaddrinfo(settings.host, settings.port)}
        if not any(listener_settings(receive).admits(host) for host in hosts):
            raise OSError(
                f"receive.allow_hosts keeps the archive's reports out: add {settings.host}, {instead}"
            )
    callers = receive.application_entities[title].allow_callers
    if "*" not in callers and settings.ae_title not in callers:
        raise OSError(
            f"allow_callers of {title} keeps {settings.ae_title} out, which reports: add it, {instead}"
        )


def _look_at_clock() -> None:
    if time.time() < OLDEST_PLAUSIBLE_TIME:
        raise OSError("the clock is in the past; set it, or results will carry wrong dates")
