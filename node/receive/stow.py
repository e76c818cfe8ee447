"""What one STOW-RS request brings: each part goes to the spool as it comes, and has its own answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from node.errors import DatasetError, OutOfResourcesError, RequestTooLargeError
from node.header import FileMeta
from node.receive.multipart import parse_media_type
from node.receive.negotiation import STORAGE_CLASSES, TRANSFER_SYNTAXES
from node.receive.notes import Notes
from node.receive.part10 import FileStream
from node.receive.stow_answer import (
    CANNOT_UNDERSTAND,
    CLASS_NOT_SUPPORTED,
    DATASET_MISMATCH,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    STUDY_MISMATCH,
    SYNTAX_NOT_SUPPORTED,
    Answered,
)
from node.storage import InstanceWriter, Storage

log = structlog.get_logger()

DICOM = "application/dicom"
UID = re.compile(r"[0-9.]{1,64}")


class _RefusedError(DatasetError):
    """A part that is refused, and the Failure Reason that says so."""

    def __init__(self, uid: str, failure: int, message: str) -> None:
        super().__init__(uid, message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Admission:
    """What every request of a listener is held to; an empty study is any."""

    called_ae_title: str
    accept_private_classes: bool
    max_instance_bytes: int
    study_instance_uid: str = ""


class StowReception:
    """Takes the parts of one request; an instance is on disk and announced once its part has ended."""

    def __init__(
        self,
        storage: Storage,
        admission: Admission,
        notes: Notes,
    ) -> None:
        self._storage = storage
        self._admission = admission
        self._notes = notes
        self._file: FileStream | None = None
        self.answered: list[Answered] = []
        self.study_instance_uids: set[str] = set()

    def begin(self, headers: Mapping[str, str]) -> None:
        """A part begins."""
        self._file = FileStream(self._new_writer)
        media_type, _ = parse_media_type(headers.get("content-type", DICOM))
        if media_type != DICOM or headers.get("content-encoding", "identity") != "identity":
            self._file.fail(_RefusedError("part", CANNOT_UNDERSTAND, f"expected {DICOM}, as it is"))

    def write(self, data: bytes) -> None:
        """Take a piece of the part; raises RequestTooLargeError where it grows beyond the limit."""
        if self._file is None:
            return
        self._file.write(data)
        if self._file.length > self._admission.max_instance_bytes:
            mebibytes = self._admission.max_instance_bytes >> 20
            raise RequestTooLargeError(f"an instance is larger than {mebibytes} MiB")

    def end(self) -> None:
        """The part is whole: store the instance, or note why not."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            answer, failure, reason = self._store(file), None, ""
        except (OutOfResourcesError, DatasetError) as fault:
            failure, reason = _failure(fault), getattr(fault, "message", str(fault))
        except Exception:  # the client must be answered, of the other instances too
            failure, reason = PROCESSING_FAILURE, "the node failed, see its log"
            log.exception("instance_failed")
        finally:
            file.discard()
        if failure is not None:
            answer = _refused(file.meta, failure)
            self._notes.on_refused(self._admission.called_ae_title, failure)
            log.warning(
                "instance_refused",
                sop_instance_uid=answer.sop_instance_uid,
                status=f"0x{failure:04X}",
                reason=reason,
            )
        self.answered.append(answer)

    def discard(self) -> None:
        """Forget a part that will not be finished."""
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _new_writer(self, meta: FileMeta) -> InstanceWriter:
        """Return the writer for an instance; raises DatasetError for one of a kind that is not taken."""
        sop_class, syntax = meta.sop_class_uid, meta.transfer_syntax_uid
        is_private = not sop_class.startswith("1.2.840.10008.")
        if sop_class not in STORAGE_CLASSES and not (is_private and self._admission.accept_private_classes):
            raise _RefusedError(meta.sop_instance_uid, CLASS_NOT_SUPPORTED, "SOP class is not stored here")
        if syntax not in TRANSFER_SYNTAXES:
            raise _RefusedError(meta.sop_instance_uid, SYNTAX_NOT_SUPPORTED, "transfer syntax is not known")
        title = self._admission.called_ae_title
        return self._storage.new_instance(
            FileMeta(sop_class, meta.sop_instance_uid, syntax, called_ae_title=title)
        )

    def _store(self, file: FileStream) -> Answered:
        writer = file.complete()
        found, uid = writer.identifiers(), file.meta.sop_instance_uid
        if (found.sop_class_uid, found.sop_instance_uid) != (file.meta.sop_class_uid, uid):
            raise _RefusedError(uid, DATASET_MISMATCH, "SOP UIDs of data set and file meta differ")
        if self._admission.study_instance_uid not in ("", found.study_instance_uid):
            raise _RefusedError(uid, STUDY_MISMATCH, "Study Instance UID is not that of the request")
        stored = writer.commit()
        self.study_instance_uids.add(stored.instance.study_instance_uid)
        self._notes.on_stored([stored])
        uids = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
        named = {name: getattr(stored.instance, name) for name in uids}
        log.info(
            "instance_stored",
            called_ae_title=self._admission.called_ae_title,
            is_new=stored.is_new,
            **named,
        )
        return Answered(found.sop_class_uid, found.sop_instance_uid)


def _failure(fault: OutOfResourcesError | DatasetError) -> int:
    if isinstance(fault, OutOfResourcesError):
        return OUT_OF_RESOURCES
    return fault.failure if isinstance(fault, _RefusedError) else CANNOT_UNDERSTAND


def _refused(meta: FileMeta, failure: int) -> Answered:
    """Return the answer for a refused part: nameless, unless what it calls itself are UIDs."""
    if all(UID.fullmatch(uid) for uid in (meta.sop_class_uid, meta.sop_instance_uid)):
        return Answered(meta.sop_class_uid, meta.sop_instance_uid, failure)
    return Answered("", "", failure)
