"""What became of studies: runs, their objects, and what was kept back."""

import time
from collections.abc import Sequence, Set
from pathlib import Path

import sqlalchemy as sa

from node.index.database import Database, Json
from node.index.states import CONFIRMED, DELIVERED, PENDING, UNDELIVERABLE, WITHDRAWN
from node.index.tables import (
    DELIVERIES,
    OBJECTS,
    QUARANTINE,
    RUNS,
)

SENT = (DELIVERED, CONFIRMED)
IS_SENT = sa.exists().where(
    DELIVERIES.c.sop_instance_uid == OBJECTS.c.sop_instance_uid, DELIVERIES.c.state.in_(SENT)
)


class Outcomes(Database):
    """Runs of pipelines, and the objects that they made."""

    def record_run(self, run: Json) -> None:
        """Record a run, or what is new of it; `run` has columns of the table by name."""
        with self.connection() as connection:
            connection.execute(self.upsert(RUNS, run))

    def record_seconds(self, run_id: str, stage: str, seconds: float) -> None:
        """Record how long one stage of a run took."""
        at = RUNS.c.run_id == run_id
        with self.connection() as connection:
            known = connection.execute(sa.select(RUNS.c.seconds).where(at)).scalar_one()
            merged = dict(known) | {stage: round(seconds, 3)}
            connection.execute(sa.update(RUNS).where(at).values(seconds=merged))

    def record_objects(self, run_id: str, objects: Sequence[Json]) -> None:
        """Record the objects of a run, in place of earlier ones, each with its `destinations`.

        Earlier ones that an archive has are kept as replaced, others forgotten. What was given up or taken
        back of the same objects waits again: the run was asked for again.
        """
        now = time.time()
        new = {"state": PENDING, "at": now, "queued_at": now, "due_at": now}
        uids = [item["sop_instance_uid"] for item in objects]
        replaced = sa.select(OBJECTS.c.sop_instance_uid).where(
            OBJECTS.c.run_id == run_id, OBJECTS.c.sop_instance_uid.not_in(uids)
        )
        with self.connection() as connection:
            unsent = DELIVERIES.c.state.not_in(SENT)
            connection.execute(
                sa.delete(DELIVERIES).where(DELIVERIES.c.sop_instance_uid.in_(replaced), unsent)
            )
            forgotten = sa.and_(OBJECTS.c.sop_instance_uid.in_(replaced), ~IS_SENT)
            connection.execute(sa.delete(OBJECTS).where(forgotten))
            kept = OBJECTS.c.sop_instance_uid.in_(replaced)
            connection.execute(sa.update(OBJECTS).where(kept).values(is_replaced=True))
            for item in objects:
                columns = {name: item[name] for name in item if name != "destinations"}
                row = {**columns, "run_id": run_id, "is_replaced": False}
                connection.execute(self.upsert(OBJECTS, row))
                for name in item["destinations"]:
                    row = {"sop_instance_uid": item["sop_instance_uid"], "destination": name}
                    connection.execute(self.upsert(DELIVERIES, row | new, keep=new))
            mine = DELIVERIES.c.sop_instance_uid.in_(uids)
            ended = DELIVERIES.c.state.in_([WITHDRAWN, UNDELIVERABLE])
            again = {**new, "attempts": 0, "detail": ""}
            connection.execute(sa.update(DELIVERIES).where(mine, ended).values(again))

    def record_quarantine(self, run_id: str, objects: Sequence[Json]) -> None:
        """Record objects that broke a rule, each with its `violations`."""
        with self.connection() as connection:
            for item in objects:
                connection.execute(self.upsert(QUARANTINE, {**item, "run_id": run_id}))

    def superseded_objects(self, run_id: str, folder: Path | None = None) -> list[Json]:
        """Return the objects of the last reading before this one by the same pipeline of the same subject.

        That is this run, where it had another outcome that an archive has, else the run before. While the new
        objects are made, of this run all count that are not in their `folder`.
        """
        elsewhere = (
            sa.not_(OBJECTS.c.path.startswith(f"{folder}/", autoescape=True)) if folder else sa.false()
        )
        own = sa.select(OBJECTS).where(
            OBJECTS.c.run_id == run_id, sa.or_(OBJECTS.c.is_replaced, sa.and_(elsewhere, IS_SENT))
        )
        mine = sa.select(RUNS).where(RUNS.c.run_id == run_id).subquery()
        same = [RUNS.c[name] == mine.c[name] for name in ("study_instance_uid", "pipeline", "subject")]
        earlier = (
            sa.select(RUNS.c.run_id)
            .where(*same, RUNS.c.planned_at < mine.c.planned_at)
            .where(sa.exists().where(OBJECTS.c.run_id == RUNS.c.run_id))
            .order_by(RUNS.c.planned_at.desc())
            .limit(1)
        )
        query = sa.select(OBJECTS).where(
            OBJECTS.c.run_id == earlier.scalar_subquery(), sa.not_(OBJECTS.c.is_replaced)
        )
        with self.connection() as connection:
            rows = connection.execute(own.order_by(OBJECTS.c.kind)).mappings().all()
            rows = rows or connection.execute(query.order_by(OBJECTS.c.kind)).mappings().all()
            return [dict(row) for row in rows]

    def runs(self, job_id: str) -> list[Json]:
        """Return the runs of a job, each with its `objects`, the `quarantined`, and what it `supersedes`."""
        with self.connection() as connection:
            query = sa.select(RUNS).where(RUNS.c.job_id == job_id).order_by(RUNS.c.pipeline, RUNS.c.run_id)
            runs = [dict(row) for row in connection.execute(query).mappings()]
        return [
            {
                **run,
                "objects": self.objects(run["run_id"]),
                "quarantined": self.quarantined(run["run_id"]),
                "supersedes": [one["sop_instance_uid"] for one in self.superseded_objects(run["run_id"])],
            }
            for run in runs
        ]

    def quarantined(self, run_id: str) -> list[Json]:
        """Return the objects of a run that broke a rule, each with its `violations`."""
        query = sa.select(QUARANTINE).where(QUARANTINE.c.run_id == run_id).order_by(QUARANTINE.c.kind)
        with self.connection() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def objects(self, run_id: str) -> list[Json]:
        """Return the result objects of a run, each with its `deliveries`."""
        current = sa.and_(OBJECTS.c.run_id == run_id, sa.not_(OBJECTS.c.is_replaced))
        query = sa.select(OBJECTS).where(current).order_by(OBJECTS.c.kind)
        with self.connection() as connection:
            objects = [dict(row) for row in connection.execute(query).mappings()]
            for item in objects:
                same = DELIVERIES.c.sop_instance_uid == item["sop_instance_uid"]
                rows = connection.execute(
                    sa.select(DELIVERIES).where(same).order_by(DELIVERIES.c.destination)
                )
                item["deliveries"] = [dict(row) for row in rows.mappings()]
        return objects

    def result_paths(self, sop_instance_uids: Set[str]) -> dict[str, Path]:
        """Return the files of those instances that are results of ours."""
        query = sa.select(OBJECTS.c.sop_instance_uid, OBJECTS.c.path)
        with self.connection() as connection:
            rows = connection.execute(query.where(OBJECTS.c.sop_instance_uid.in_(sop_instance_uids)))
            return {uid: Path(path) for uid, path in rows}

    def result_series(self, series_instance_uids: Set[str]) -> set[str]:
        """Return those of the series that hold results of ours."""
        query = sa.select(OBJECTS.c.series_instance_uid).distinct()
        with self.connection() as connection:
            rows = connection.execute(query.where(OBJECTS.c.series_instance_uid.in_(series_instance_uids)))
            return set(rows.scalars())

    def has_results(self, study_instance_uid: str) -> bool:
        """Did a run over this study make objects?"""
        query = (
            sa.select(sa.literal(1))
            .join_from(OBJECTS, RUNS, OBJECTS.c.run_id == RUNS.c.run_id)
            .where(RUNS.c.study_instance_uid == study_instance_uid)
        )
        with self.connection() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def run_ids_with_objects(self) -> set[str]:
        """Return the runs whose objects are known."""
        with self.connection() as connection:
            return set(connection.execute(sa.select(OBJECTS.c.run_id).distinct()).scalars())
