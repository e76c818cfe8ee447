"""The doors beside the DICOM port, built from the configuration: STOW-RS, and watched folders."""

from node.config import read_secret
from node.receive.dicomweb import StowListener, StowSettings
from node.receive.notes import Notes
from node.receive.watched import FolderListener, FolderSettings
from node.settings import ReceiveSettings
from node.storage import Storage

MIB = 1 << 20


def build_stow(receive: ReceiveSettings, storage: Storage, notes: Notes) -> StowListener | None:
    """Return the STOW-RS listener, None where there shall be none.

    Raises ConfigurationError where the token that it needs is not there.
    """
    given = receive.dicomweb
    if not given.is_enabled:
        return None
    settings = StowSettings(
        called_ae_title=receive.title(given.ae_title),
        allowed_hosts=receive.allow_hosts,
        token=read_secret(given.token_env, "receive.dicomweb.token_env"),
        accept_private_classes=receive.accept_private_classes,
        max_instance_bytes=given.max_instance_mib * MIB,
        max_parts=given.max_parts,
        max_requests=given.max_requests,
        read_timeout_s=given.read_timeout_s,
    )
    return StowListener(settings, storage, notes)


def build_folders(receive: ReceiveSettings, storage: Storage, notes: Notes) -> list[FolderListener]:
    """Return a listener for each folder to watch."""
    return [
        FolderListener(
            FolderSettings(
                name,
                given.path,
                receive.title(given.ae_title),
                given.settle_s,
                given.poll_s,
                deletes=given.after == "delete",
            ),
            storage,
            notes,
        )
        for name, given in receive.folders.items()
    ]
