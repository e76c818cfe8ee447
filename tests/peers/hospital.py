"""A node between two archives that want different things of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.peers.node import Node, make_node
from tests.peers.orthanc import Orthanc, run_orthanc


class Hospital(NamedTuple):
    """The node, and the archives by the presets that they are sent."""

    node: Node
    classic: Orthanc
    air: Orthanc


@contextmanager
def run_hospital(folder: Path, repository: Path, changes: dict[str, Any]) -> Iterator[Hospital]:
    """Run a node with the models of a repository, and both archives; `changes` are its other settings."""
    with run_orthanc(folder / "classic", {}) as classic, run_orthanc(folder / "air", {}) as air:
        settings = {
            "assembly": {"quiet_period_s": 0.5},
            "engine": {"repository": str(repository)},
            "destinations": {
                "classic": _address(classic) | {"objects": "classic"},
                "air": _address(air) | {"objects": "air", "segmentation_type": "fractional"},
            },
        }
        with make_node(folder / "node", settings | changes) as node:
            node.start()
            yield Hospital(node, classic, air)


def _address(archive: Orthanc) -> dict[str, Any]:
    address = {"host": archive.host, "port": archive.port, "ae_title": archive.ae_title}
    # They do not know where the node listens, and would report to nobody.
    return address | {"confirm": "query"}
