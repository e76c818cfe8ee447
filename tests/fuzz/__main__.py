"""The command: hostile bytes for minutes, or one input again by its number, or by its file."""

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

from node.telemetry import configure_logging
from tests.fuzz.bodies import Bodies
from tests.fuzz.loop import Outcome, attempt, run, try_one
from tests.fuzz.network import Receiver
from tests.fuzz.readers import Headers, Pixels
from tests.fuzz.seeds import make_seeds
from tests.fuzz.segments import Segments

TARGETS: dict[str, Any] = {
    "headers": Headers,
    "pixels": Pixels,
    "receiver": Receiver,
    "bodies": Bodies,
    "journal": Segments,
}


def fuzz(names: list[str], *, seed: int, seconds: float, failures: Path) -> list[Outcome]:
    """Try each target for its share of the time."""
    outcomes = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-fuzz-")))
        configure_logging("error", folder / "log")
        logging.disable()
        seeds = make_seeds(folder / "seeds")
        for name in names:
            target = TARGETS[name](seeds, folder)
            stack.callback(getattr(target, "close", lambda: None))
            outcomes.append(run(name, target, seed=seed, seconds=seconds / len(names), failures=failures))
    return outcomes


def replay(name: str, *, seed: int, number: int | None, path: Path | None) -> str:
    """Why one input fails: that of a number, or that of a file."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sightline-fuzz-")))
        configure_logging("error", folder / "log")
        target = TARGETS[name](make_seeds(folder / "seeds"), folder)
        stack.callback(getattr(target, "close", lambda: None))
        if path:
            return try_one(lambda: target.attempt(path.read_bytes(), Random(seed)))
        return attempt(name, target, seed=seed, number=number or 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="all, if not given")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="where bad inputs go")
    parser.add_argument("--number", type=int, help="try this one input again")
    parser.add_argument("--file", type=Path, help="try the input in this file")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.number is not None or options.file:
        fault = replay(names[0], seed=options.seed, number=options.number, path=options.file)
        sys.stdout.write(fault or "nothing wrong\n")
        return int(bool(fault))
    outcomes = fuzz(names, seed=options.seed, seconds=60 * options.minutes, failures=options.failures)
    for outcome in outcomes:
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.writelines(f"  {one}\n" for one in outcome.failures)
    return int(any(outcome.failures for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
