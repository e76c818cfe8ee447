"""The database that the index is in: SQLite file or PostgreSQL."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from node.index.tables import METADATA

Json = dict[str, Any]


class Database:
    """The tables of the index, and how they are read and changed: the classes over it know one part each."""

    def __init__(self, url: str) -> None:
        """Open the database at an SQLAlchemy URL, and make the tables that are missing."""
        self._engine = open_database(url)
        self._shared = threading.local()
        self._upserts: dict[tuple[str, tuple[str, ...]], Any] = {}

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Give a connection for one transaction, or that of the block around it."""
        connection = getattr(self._shared, "connection", None)
        if connection is not None:
            yield connection
            return
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def together(self) -> Iterator[sa.Connection]:
        """Make all that this thread changes in the block one transaction."""
        with self._engine.begin() as connection, self._sharing(connection):
            yield connection

    @contextmanager
    def durable(self) -> Iterator[sa.Connection]:
        """Make all that this thread changes in the block one transaction that a power cut does not undo.

        Nor does it undo those before. What comes after the last such may be forgotten: it is what is found
        again, or asked for again.
        """
        with self._engine.connect() as connection:
            self._synchronize(connection, "FULL")
            try:
                with connection.begin(), self._sharing(connection):
                    yield connection
            finally:
                self._synchronize(connection, "NORMAL")

    @contextmanager
    def _sharing(self, connection: sa.Connection) -> Iterator[None]:
        self._shared.connection = connection
        try:
            yield
        finally:
            self._shared.connection = None

    def _synchronize(self, connection: sa.Connection, when: str) -> None:
        if self._engine.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA synchronous={when}")
            connection.rollback()  # it is no part of a transaction

    def insert(self, table: sa.Table) -> Any:
        """Return the statement that inserts into a table, and can be told what to do on a conflict."""
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    def upsert_of(self, table: sa.Table, *, keep: tuple[str, ...] = ()) -> Any:
        """Return what `upsert` does as a statement that takes its row when it is carried out.

        It is made once: for a short row, that is most of the work.
        """
        name = (table.name, keep)
        if name not in self._upserts:
            key = [column.name for column in table.primary_key]
            statement = self.insert(table)
            others = [column.name for column in table.columns if column.name not in {*key, *keep}]
            changed = {other: statement.excluded[other] for other in others}
            self._upserts[name] = statement.on_conflict_do_update(index_elements=key, set_=changed)
        return self._upserts[name]

    def upsert(self, table: sa.Table, row: Json, *, keep: Iterable[str] = ()) -> Any:
        """Return the statement that inserts a row, or updates all but its key and the columns to keep."""
        key = [column.name for column in table.primary_key]
        changed = {name: row[name] for name in row if name not in key and name not in set(keep)}
        statement = self.insert(table).values(row)
        if not changed:
            return statement.on_conflict_do_nothing(index_elements=key)
        return statement.on_conflict_do_update(index_elements=key, set_=changed)


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
