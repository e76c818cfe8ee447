"""An outbox over an index of its own, with runs that are finished and objects that wait."""

from collections.abc import Sequence
from pathlib import Path

from node.deliver.confirmation import Confirmation
from node.deliver.outbox import Outbox, Outlet
from node.domain.study import Instance
from node.index import Index, Json, sqlite_url
from node.telemetry import Metrics
from tests.instances import CT, encode_dataset, write_instance
from tests.peers import wait_until

STUDY = "1.2.3"


class Post:
    """An index with finished runs, and an outbox over it that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = Index(sqlite_url(folder / "index.sqlite"))
        self.metrics = Metrics()
        self.outbox: Outbox | None = None

    def receive(self) -> None:
        """Have the index know the study that the runs are about, as read to its end."""
        paths = (self.folder / "image.dcm", "0" * 64)
        instance = Instance(
            STUDY, "1.2.3.4", "1.2.3.5", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2", "DX", *paths
        )
        self.index.record_instance(instance)
        (study,) = self.index.open_studies()
        self.index.queue_study(study, "job", "files")

    def add(self, run_id: str, *uids: str, to: Sequence[str] = ("pacs",), **run: str) -> None:
        """Note a finished run of these objects."""
        row = {
            "run_id": run_id,
            "job_id": "job",
            "study_instance_uid": STUDY,
            "series_instance_uid": "1.2.3.4",
        }
        row |= {"pipeline": "p", "subject": run_id, "is_finished": False} | run
        self.index.record_run(row)
        self.index.record_objects(run_id, [self._object(uid, to) for uid in uids])
        self.index.finish_run(run_id, row["study_instance_uid"], "job")

    def _object(self, uid: str, to: Sequence[str]) -> Json:
        path = write_instance(self.folder / f"{uid}.dcm", encode_dataset(uid), sop_instance_uid=uid)
        return {
            "sop_instance_uid": uid,
            "series_instance_uid": "1.2.3.4",
            "kind": "findings_sr",
            "sop_class_uid": CT,
            "path": str(path),
            "destinations": list(to),
        }

    def open(self, outlets: dict[str, Outlet]) -> None:
        self.outbox = Outbox(self.index, outlets, self.metrics)
        self.outbox.start()

    def close(self) -> None:
        if self.outbox:
            self.outbox.stop(drain_s=5)

    def states(self, destination: str = "pacs") -> dict[str, str]:
        return {row["sop_instance_uid"]: row["state"] for row in self.rows(destination)}

    def rows(self, destination: str = "pacs") -> list[Json]:
        runs = self.index.runs("job")
        rows = [one for run in runs for item in run["objects"] for one in item["deliveries"]]
        return [row for row in rows if row["destination"] == destination]

    def wait_for(self, states: dict[str, str], destination: str = "pacs") -> None:
        wait_until(lambda: self.states(destination) == states, f"{states}", 10, 0.01)


def only(destination: object, method: str = "none", timeout_s: float = 30) -> dict[str, Outlet]:
    """One outlet, named pacs, that is tried three times."""
    return {"pacs": Outlet(destination, 3, Confirmation(method, timeout_s))}
