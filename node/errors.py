"""Every exception the node raises on purpose.

SightlineError
├── PermanentError            the job ends and the reason is reported
│   ├── ConfigurationError      a key, value or file of the configuration
│   ├── DatasetError            a data set that cannot be read as DICOM, or lacks what it must have
│   ├── PixelError              pixel data that is absent, damaged, or not decodable here
│   ├── GeometryError           spacing, orientation or positions that contradict each other
│   ├── ModelError              a model that is missing, damaged, or fed the wrong input
│   ├── ConformanceError        a result that must not leave the node
│   ├── UnconfirmableError      a destination that cannot say what it holds
│   ├── StoreError              a store that holds something else than its index says
│   ├── TlsError                a peer with which no secure connection can be had
│   ├── MalformedRequestError   a request that breaks the rules of its protocol
│   └── RequestTooLargeError    a request, or a part of one, beyond the limits
└── TransientError            worth another try later
    ├── DestinationUnreachableError   no association, no answer, or "try later"
    ├── EngineUnavailableError        the engine cannot answer now, or not in time
    └── OutOfResourcesError           disk or memory is short now

StoppedError stands apart: nothing went wrong, and the work is left to the next start.
"""


class SightlineError(Exception):
    """Anything the node raises on purpose; its text is fit for a log: UIDs, no patient."""


class PermanentError(SightlineError):
    """Another try cannot help: the job ends with this reason."""


class TransientError(SightlineError):
    """Another try may help: the workflow makes it, with back-off."""


class ConfigurationError(PermanentError):
    """The configuration cannot be used; `problems` holds every reason found, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


class _UidError(PermanentError):
    """A permanent fault of one object, named by its UID or file name."""

    def __init__(self, uid: str, message: str) -> None:
        # Both may quote what a peer sent: no line of a log or a terminal is to be forged with it.
        uid, message = _printable(uid), _printable(message)
        super().__init__(f"{uid}: {message}")
        self.uid = uid
        self.message = message


class DatasetError(_UidError):
    """A data set cannot be read as DICOM, or lacks an attribute it must have."""


class PixelError(_UidError):
    """Pixel data is absent, damaged, or in an encoding that cannot be decoded here."""


class GeometryError(_UidError):
    """Spacing, orientation or positions contradict each other."""


class ModelError(_UidError):
    """A model is missing or damaged, or was given an input it does not take."""


class ConformanceError(_UidError):
    """A result breaks a rule of the conformance gate and must not leave."""


class StoreError(_UidError):
    """A file in the store is missing or is not what the index says."""


class UnconfirmableError(_UidError):
    """A destination (in place of the UID) has no way to say what it holds, or does not tell this node."""


class TlsError(PermanentError):
    """A peer does not show who it is, is not whom we meant, or speaks no TLS that is safe."""


class MalformedRequestError(PermanentError):
    """A request breaks the rules of its protocol."""


class RequestTooLargeError(PermanentError):
    """A request, or a part of one, is beyond the limits."""


class DestinationUnreachableError(TransientError):
    """A destination gives no association or no answer, or asks to try later."""

    def __init__(self, destination: str, message: str) -> None:
        super().__init__(f"{destination}: {message}")
        self.destination = destination


class EngineUnavailableError(TransientError):
    """The engine cannot answer at the moment, or not in time: no connection, a model that is not loaded."""

    def __init__(self, engine: str, message: str) -> None:
        super().__init__(f"{engine}: {message}")
        self.engine = engine


class OutOfResourcesError(TransientError):
    """Disk or memory is short at the moment."""


class StoppedError(BaseException):
    """The node stops, and this work is broken off.

    No Exception, as asyncio's CancelledError is none: what is taken for a fault would be tried again, or get
    the outcome `failed`, while nobody waits for it any more.
    """
