"""What the node knows of studies, runs, results and deliveries."""

from node.index.database import sqlite_url
from node.index.store import (
    ANALYZED,
    DELIVERED,
    PENDING,
    QUEUED,
    RECEIVING,
    RETRYING,
    UNDELIVERABLE,
    Index,
    Json,
    OpenStudy,
)

__all__ = [
    "ANALYZED",
    "DELIVERED",
    "PENDING",
    "QUEUED",
    "RECEIVING",
    "RETRYING",
    "UNDELIVERABLE",
    "Index",
    "Json",
    "OpenStudy",
    "sqlite_url",
]
