"""Everything that can be replaced: what the node asks of a listener, engine, pipeline and destination."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from node.domain.card import ModelCard
from node.domain.delivery import CommitmentReport, Receipt, Reference
from node.domain.findings import Findings, Priority
from node.domain.study import Series

Arrays = Mapping[str, npt.NDArray[np.generic]]


class Listener(Protocol):
    """Takes studies in from somewhere, stores them, and acknowledges what is safe on disk."""

    def start(self) -> None:
        """Open the door; returns once it is open."""

    def stop(self) -> None:
        """Take nothing new, finish what is under way, close."""


class Engine(Protocol):
    """Runs the models of one repository."""

    def infer(self, model: str, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return the named outputs, batch first; a batch the model cannot take is divided.

        Raises ModelError for an unknown model, an input of another shape or type than it takes, and an
        answer that is not what its configuration promises or holds no numbers; TransientError where the
        engine cannot answer now.
        """

    def prioritized(self, priority: Priority) -> "Engine":
        """Return this engine for one run: where requests queue, its requests wait in that class."""

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return an array to be filled and given to `infer`; a large one need not be copied on its way."""

    def card(self, model: str) -> ModelCard:
        """Return the card of a model; raises ModelError where there is none."""

    def check(self, model: str) -> None:
        """Raise ModelError unless the model is there, whole (sha256), and answers.

        Raises TransientError where the engine cannot answer now.
        """

    def close(self) -> None:
        """Break off what is under way and let go of what is held."""


class Pipeline(Protocol):
    """Turns one series into findings. An implementation is a frozen dataclass: its fields are its options."""

    @property
    def model(self) -> str:
        """The model in the repository whose card speaks for this pipeline."""

    def analyze(self, series: Series, engine: Engine) -> Findings:
        """Return what is in the series; raises PermanentError where it cannot be read."""


def models_of(pipeline: Pipeline) -> tuple[str, ...]:
    """Return every model that a pipeline asks: the one that speaks for it, then those of fields `…_model`.

    One that is empty is none.
    """
    names: list[str] = [one.name for one in fields(pipeline)] if is_dataclass(pipeline) else []
    others = (str(getattr(pipeline, one)) for one in names if one.endswith("_model"))
    return (pipeline.model, *filter(None, others))


class Destination(Protocol):
    """Takes result objects out."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    def deliver(self, paths: Sequence[Path]) -> Sequence[Receipt]:
        """Send the files, over one connection where that can be; return the answer to each, in their order.

        Where there is no connection at all, every object is postponed. Delivering one twice must do no harm.
        """

    def confirm(self, objects: Sequence[Reference]) -> frozenset[str]:
        """Return the SOP Instance UIDs of those objects that the archive, asked for them, says it holds.

        By C-FIND or QIDO. Raises DestinationUnreachableError where another try may bring an answer, and
        UnconfirmableError where the archive does not answer such questions.
        """

    def check(self) -> None:
        """Raise DestinationUnreachableError unless the peer answers."""


@runtime_checkable
class CommittingDestination(Destination, Protocol):
    """A destination that can also be asked to take responsibility for what it got (storage commitment)."""

    def ask_commitment(
        self,
        objects: Sequence[Reference],
        transaction_uid: str,
        *,
        on_report: Callable[[CommitmentReport], bool],
        has_answered: Callable[[], bool],
    ) -> None:
        """Ask; the archive's report goes to `on_report`, or by a connection of its own to the listener.

        Returns as soon as `has_answered`, and otherwise after a short wait. Raises
        DestinationUnreachableError where another try may help, and UnconfirmableError where the archive has
        no storage commitment, or refuses.
        """
