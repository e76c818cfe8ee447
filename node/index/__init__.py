"""What the node knows of studies, runs, results and deliveries."""

from node.index.arrivals import OpenStudy
from node.index.database import Json, sqlite_url
from node.index.states import ANALYZED, DELIVERED, PENDING, QUEUED, RECEIVING, RETRYING, UNDELIVERABLE
from node.index.store import Index

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
