"""All rules, in the order in which they are asked: the first that is broken names the cause."""

from node.conformance import (
    annotations,
    coding,
    equipment,
    frames,
    groups,
    identity,
    key_objects,
    modules,
    outlines,
    pictures,
    presentation,
    references,
    segments,
    trees,
)
from node.conformance.rule import Rule

RULES: tuple[Rule, ...] = (
    *modules.CLASSES,
    *identity.RULES,
    *references.RULES,
    *modules.RULES,
    *equipment.RULES,
    *coding.RULES,
    *trees.RULES,
    *groups.RULES,
    *outlines.RULES,
    *frames.RULES,
    *segments.RULES,
    *pictures.RULES,
    *presentation.RULES,
    *key_objects.RULES,
    *annotations.RULES,
)
