"""The synthetic sources that `tests.sources` writes, by the kind of object."""
