"""`python -m tests.faults --seeds 200 [--first-seed 1] [--engine triton]`: the kills of so many seeds."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.plan import STUDIES, Plan, make_plan
from tests.faults.scene import set_scene
from tests.faults.verdict import find_problems
from tests.faults.warm import Nursery, run_nursery
from tests.peers.triton import INSTALLED, NEED

EMBEDDED, TRITON = "embedded", "triton"
LONGEST_LINE = 300


def main() -> int:
    """Run the seeds; the exit status is 1 where one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--studies", type=int, default=STUDIES, help="how many in each")
    parser.add_argument("--report", type=Path, help="a file for all of it as JSON")
    parser.add_argument("--folder", type=Path, help="where to work; what fails is kept there")
    parser.add_argument("--engine", choices=(EMBEDDED, TRITON), default=EMBEDDED, help="what runs the models")
    arguments = parser.parse_args()
    on_triton = arguments.engine == TRITON
    if on_triton and not INSTALLED.exists():
        parser.error(f"{NEED}; or do without, by --engine {EMBEDDED}")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="sightline-faults-"))
    # Whoever stops it leaves nothing running: an exit goes through every end that was prepared.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    results: list[dict[str, Any]] = []
    with run_nursery() as nursery:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            plan = make_plan(seed, arguments.studies, on_triton=on_triton)
            results.append(run_seed(plan, folder, nursery))
            if arguments.report:
                arguments.report.write_text(json.dumps(_report(results), indent=1))
            _say(results[-1])
    report = _report(results)
    sys.stdout.write("{passed} of {seeds} seeds passed, {blows} blows\n".format(**report))
    return 0 if report["passed"] == report["seeds"] else 1


def run_seed(plan: Plan, folder: Path, nursery: Nursery) -> dict[str, Any]:
    """Return what came of the plan of one seed."""
    began, own = time.monotonic(), folder / f"seed-{plan.seed}"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    done: list[str] = []
    try:
        with set_scene(plan, own, nursery) as scene:
            done = scene.done
            scene.play()
            problems = find_problems(scene)
    except Exception as fault:  # noqa: BLE001 - the others are still to be run, and this one is to be told of
        problems = [f"{type(fault).__name__}: {fault}"]
    if not problems:
        shutil.rmtree(own)
    return {
        "seed": plan.seed,
        "seconds": round(time.monotonic() - began, 1),
        "plan": plan.lines(),
        "done": done,
        "problems": problems,
        "folder": str(own) if problems else "",
    }


def _report(results: list[dict[str, Any]]) -> dict[str, Any]:
    counts = Counter(line.partition(": ")[2] for one in results for line in one["done"])
    return {
        "seeds": len(results),
        "passed": sum(not one["problems"] for one in results),
        "blows": sum(count for words, count in counts.items() if words.endswith(("killed", "full"))),
        "counts": dict(sorted(counts.items())),
        "results": results,
    }


def _say(result: dict[str, Any]) -> None:
    verdict = "FAILED" if result["problems"] else "passed"
    sys.stdout.write(f"seed {result['seed']}: {verdict} in {result['seconds']} s\n")
    if result["problems"]:
        for line in (*result["plan"], *result["done"], *result["problems"], result["folder"]):
            sys.stdout.write(f"    {line[:LONGEST_LINE]}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
