"""Whether a change of the index outlives a power cut."""

from collections.abc import Callable

import sqlalchemy as sa

from node.index import Index


def safety_of(index: Index, change: Callable[[], object]) -> int:
    """What `PRAGMA synchronous` says at the last commit of a change: 2 is synced, 1 may be lost."""
    seen: list[int] = []

    def note(connection: sa.Connection) -> None:
        seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())

    sa.event.listen(index._engine, "commit", note)
    change()
    sa.event.remove(index._engine, "commit", note)
    return seen[-1]
