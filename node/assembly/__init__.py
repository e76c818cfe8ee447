"""Which instances make a study, when it is complete, and on what evidence."""

from node.assembly.asking import Archive, Asker
from node.assembly.assembler import Assembler
from node.assembly.evidence import ASKED_FOR, COUNT, FULL, QUIET, RELEASED, Evidence, Patience

__all__ = [
    "ASKED_FOR",
    "COUNT",
    "FULL",
    "QUIET",
    "RELEASED",
    "Archive",
    "Asker",
    "Assembler",
    "Evidence",
    "Patience",
]
