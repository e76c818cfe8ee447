"""The database that the index is in: SQLite file or PostgreSQL."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node.index.tables import METADATA


def open_database(url: str) -> sa.Engine:
    """Open the database at an SQLAlchemy URL, and make the tables that are missing."""
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    METADATA.create_all(engine)
    return engine


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file."""
    return f"sqlite:///{path}"


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let the commands read while the node writes, and wait for each other instead of failing."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
