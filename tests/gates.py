"""Gates before the models of a real Triton server: what waits behind one, waits for certain."""

import shutil
from pathlib import Path

from tests.peers import REPOSITORY, wait_until
from tests.peers.triton import TRITON_REPO, Triton

PROGRAM = REPOSITORY / "tests" / "peers" / "gated_model.py"


def link_shipped_models(target: Path) -> Path:
    """Make a repository of links to the files of the shipped one; return it."""
    for config in TRITON_REPO.glob("*/config.pbtxt"):
        shutil.copytree(
            config.parent,
            target / config.parent.name,
            ignore=shutil.ignore_patterns("__pycache__"),
            copy_function=lambda source, link: Path(link).symlink_to(Path(source).resolve()),
        )
    return target


def put_gates(repository: Path) -> None:
    """Put a gate, which is open, before each model that has a program."""
    for program in repository.glob("*/1/model.py"):
        shipped = program.read_text()
        # It may be a link, and what it leads to is to stay as it is.
        program.unlink()
        program.write_text(PROGRAM.read_text())
        program.with_name("shipped.py").write_text(shipped)


def shut(triton: Triton, *models: str) -> None:
    """Have models begin nothing more."""
    for model in models:
        (triton.repository / model / "held").unlink(missing_ok=True)
        (triton.repository / model / "shut").touch()


def let_through(triton: Triton, *models: str) -> None:
    """Have models go on, with all that waits."""
    for model in models:
        (triton.repository / model / "shut").unlink()


def wait_in_hands(triton: Triton, model: str) -> None:
    """Wait until a model that is shut has taken a batch from its queue: what comes then is in another."""
    wait_until(lambda: _held(triton, model), f"{model} has a batch in its hands")


def wait_at_gate(triton: Triton, model: str, count: int) -> None:
    """Wait until so many requests have come to a model that is shut: some in its hands, the others queued."""
    wait_until(lambda: _held(triton, model) + triton.waiting(model) == count, f"{count} wait for {model}")


def _held(triton: Triton, model: str) -> int:
    path = triton.repository / model / "held"
    return int(path.read_text() or 0) if path.exists() else 0
