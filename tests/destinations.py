"""Destinations of the tests: one that does as it is told, in this process."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread

from node.domain.delivery import Receipt, Reception, Reference
from node.errors import UnconfirmableError


@dataclasses.dataclass
class FakeDestination:
    """Takes everything, or gives the receipts it was told to, one a call; it finds what it took."""

    name: str = "pacs"
    receipts: list[Receipt] = dataclasses.field(default_factory=list)
    taken: list[Path] = dataclasses.field(default_factory=list)
    lost: set[str] = dataclasses.field(default_factory=set)
    is_searchable: bool = True
    calls: int = 0

    def deliver(self, paths: Sequence[Path]) -> list[Receipt]:
        self.calls += 1
        if self.receipts:
            return [self.receipts.pop(0)] * len(paths)
        self.taken += paths
        return [Receipt(Reception.ACCEPTED)] * len(paths)

    def confirm(self, objects: Sequence[Reference]) -> frozenset[str]:
        if not self.is_searchable:
            raise UnconfirmableError(self.name, "takes no C-FIND")
        held = {str(dcmread(path).SOPInstanceUID) for path in self.taken} - self.lost
        return frozenset(one.sop_instance_uid for one in objects if one.sop_instance_uid in held)

    def check(self) -> None:
        """It is always there."""
