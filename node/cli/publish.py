"""Results where a person looks for them: copies of the objects with PNG previews, and a table."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import dcmread

from node.cli.output import print_table, say
from node.cli.studies import top_finding
from node.domain.study import Instance
from node.encode import preview_png
from node.index import Json


def publish(account: Json, folder: Path) -> Json:
    """Copy the objects of a study into a folder, pictures as PNG beside them; return the copies' account."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [run | {"objects": _copies(run, folder)} for run in account["runs"]]
    return account | {"runs": runs}


def publish_slide(file: Path, instances: Sequence[Instance], folder: Path) -> Json:
    """Copy what a scanner's file became into the sub-folder `source`, which the results refer to.

    Return what the account says of it: the file, and the copies, the finest level first.
    """
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    copies = [source / f"level-{level}.dcm" for level, _ in enumerate(instances)]
    for instance, copy in zip(instances, copies, strict=True):
        shutil.copyfile(instance.path, copy)
    return {"file": str(file.resolve()), "source": [str(copy.resolve()) for copy in copies]}


def _copies(run: Json, folder: Path) -> list[Json]:
    copies = []
    for item in run["objects"]:
        path = folder / f"{run['pipeline']}-{item['kind']}-{item['sop_instance_uid'][-8:]}.dcm"
        shutil.copyfile(item["path"], path)
        if item["kind"] == "secondary_capture":
            preview_png(dcmread(path), path.with_suffix(".png"))
        copies.append(item | {"path": str(path.resolve())})
    return copies


def print_accounts(studies: Iterable[Json]) -> None:
    """Print a table with a line for each run."""
    columns = ("study", "pipeline", "outcome", "top finding", "priority", "objects", "seconds", "reason")
    print_table(columns, [row for study in studies for row in _rows(study)])


def say_conversions(studies: Iterable[Json]) -> None:
    """Print which study each scanner's file became: nothing else in the table tells."""
    for study in studies:
        if copies := study.get("source"):
            name, uid = Path(study["file"]).name, study["study_instance_uid"]
            say(f"{name} became study {uid}: {len(copies)} objects in {Path(copies[0]).parent}")


def _rows(study: Json) -> list[list[str]]:
    name = study["sample"] or study["study_instance_uid"]
    rows = [
        [
            name,
            run["pipeline"],
            run["outcome"],
            top_finding(run["scores"]),
            run["priority"],
            str(len(run["objects"])),
            f"{sum(run['seconds'].values()):.1f}",
            run["reason"],
        ]
        for run in study["runs"]
    ]
    return rows or [[name, "", "not_eligible", "", "", "0", "", "no rule wants it"]]
