"""An outbox in a process of its own, over the index of a folder: something that a test can kill."""

import sys
import time
from pathlib import Path

from node.deliver.confirmation import Confirmation
from node.deliver.dimse import DimseDestination
from node.deliver.outbox import Outbox, Outlet
from node.index import Index, sqlite_url
from node.telemetry import Metrics, configure_logging

if __name__ == "__main__":
    index_path, port, title = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    configure_logging("error")
    destination = DimseDestination(name="pacs", host="127.0.0.1", port=port, ae_title=title, timeout_s=5)
    outlet = Outlet(destination, 300, Confirmation("commitment", 1.0))
    Outbox(Index(sqlite_url(index_path)), {"pacs": outlet}, Metrics()).start()
    print("open", flush=True)  # noqa: T201
    time.sleep(600)
