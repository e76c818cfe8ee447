"""Which object goes where, and how far it got."""

import time
from collections.abc import Sequence

from node.index.database import Database
from node.index.tables import (
    DELIVERIES,
)


class Deliveries(Database):
    """One row for each object and destination."""

    def record_delivery(
        self, sop_instance_uids: Sequence[str], destination: str, state: str, detail: str
    ) -> None:
        """Record how the delivery of some objects to one destination stands."""
        row = {"destination": destination, "state": state, "detail": detail, "at": time.time()}
        with self.connection() as connection:
            for uid in sop_instance_uids:
                connection.execute(self.upsert(DELIVERIES, row | {"sop_instance_uid": uid}))
