"""What the node knows of studies, runs, results and deliveries."""

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
    sqlite_url,
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
