"""What the node knows of studies, runs, results and deliveries."""

from node.index.arrivals import OpenStudy
from node.index.database import Json, sqlite_url
from node.index.deliveries import Delivery
from node.index.leaving import FinishedStudy
from node.index.states import (
    ANALYZED,
    CANCELLED,
    CONFIRMED,
    DELIVERED,
    DELIVERY_STATES,
    PENDING,
    QUEUED,
    RECEIVING,
    RETRYING,
    UNDELIVERABLE,
    WITHDRAWN,
)
from node.index.store import Index, index_path, open_index

__all__ = [
    "ANALYZED",
    "CANCELLED",
    "CONFIRMED",
    "DELIVERED",
    "DELIVERY_STATES",
    "PENDING",
    "QUEUED",
    "RECEIVING",
    "RETRYING",
    "UNDELIVERABLE",
    "WITHDRAWN",
    "Delivery",
    "FinishedStudy",
    "Index",
    "Json",
    "OpenStudy",
    "index_path",
    "open_index",
    "sqlite_url",
]
