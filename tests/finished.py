"""Studies in every state, with their files in a real spool and their rows in a real index."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.domain.study import Instance
from node.header import FileMeta
from node.index import DELIVERED, Index, sqlite_url
from node.storage import Storage
from tests.doors import ANY_DISK
from tests.instances import CT, EXPLICIT, encode_dataset

DAY_S = 86_400.0


@dataclass
class Archive:
    """A data folder: its spool, its run folders and its index."""

    storage: Storage
    index: Index

    def store(self, study: str, number: int = 1, days_ago: float = 0.0) -> Instance:
        """Receive one instance of a study."""
        uid = f"{study}.1.{number}"
        meta = FileMeta(CT, uid, EXPLICIT, called_ae_title="SIGHTLINE")
        with self.storage.new_instance(meta) as writer:
            writer.write(encode_dataset(uid, study_instance_uid=study, series_instance_uid=f"{study}.1"))
            instance = writer.commit().instance
        self.index.record_instance(instance, time.time() - days_ago * DAY_S)
        return instance

    def read(self, study: str, outcome: str = "findings", *, is_finished: bool = True) -> None:
        """Have a study read, with one result that goes to an archive and is pending."""
        (found,) = (one for one in self.index.open_studies() if one.study_instance_uid == study)
        job, run = f"job-{study}", f"run-{study}".replace(".", "-")
        self.index.queue_study(found, job, "quiet_period")
        row = {"run_id": run, "job_id": job, "study_instance_uid": study, "outcome": outcome}
        self.index.record_run(row | {"series_instance_uid": f"{study}.1", "pipeline": "p"})
        folder = self.storage.run_folder(run)
        (folder / "result.dcm").write_bytes(b"result")
        result = {"sop_instance_uid": f"{study}.9", "series_instance_uid": "5", "sop_class_uid": "1"}
        result |= {"kind": "findings_sr", "path": str(folder / "result.dcm"), "destinations": ["pacs"]}
        self.index.record_objects(run, [result])
        if is_finished:
            self.index.finish_run(run, study, job)

    def deliver(self, study: str, state: str = DELIVERED, days_ago: float = 0.0, **columns: Any) -> None:
        """Note how the delivery of the result stands, and since when."""
        self.index.record_delivery([f"{study}.9"], "pacs", state, **columns)
        at = time.time() - days_ago * DAY_S
        with self.index.connection() as connection:
            connection.exec_driver_sql(
                "UPDATE deliveries SET at = ? WHERE sop_instance_uid = ?", (at, f"{study}.9")
            )

    def finish(self, study: str, days_ago: float, outcome: str = "findings") -> None:
        """A study that came so long ago, was read at once, and whose result was delivered."""
        self.store(study, days_ago=days_ago)
        self.read(study, outcome)
        self.deliver(study, days_ago=days_ago)

    def files(self) -> list[Path]:
        """Every file of instances and results, and every folder of theirs."""
        return [
            path
            for folder in (self.storage.instances_folder, self.storage.runs_folder)
            for path in sorted(folder.rglob("*"))
        ]


def open_archive(folder: Path, storage: Storage | None = None) -> Archive:
    """A data folder; close its index at the end."""
    storage = storage or Storage(folder, ANY_DISK)
    return Archive(storage, Index(sqlite_url(folder / "index.sqlite")))
