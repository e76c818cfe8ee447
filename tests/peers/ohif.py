"""OHIF, a web viewer that runs in the browser, and a server that puts it before an archive.

`python -m tests.peers.ohif` fetches it once, into a folder that git ignores.
"""

import base64
import hashlib
import http.client
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePath
from typing import Any

from tests.peers import LOOPBACK, REPOSITORY
from tests.peers.orthanc import Orthanc

OHIF_VERSION = "3.13.2"
OHIF_SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""Of the package, in base 64, as the registry states it under `integrity`."""
OHIF = REPOSITORY / ".cache" / f"ohif-{OHIF_VERSION}"
ARCHIVE_PATHS = ("/dicom-web", "/wado")


# --- the files


def fetch_ohif() -> None:
    """Download OHIF as it is published, unless it is there."""
    if OHIF.is_dir():
        return
    address = f"{_registry()}/@ohif/app/-/app-{OHIF_VERSION}.tgz"
    with urllib.request.urlopen(address, timeout=300) as response:  # noqa: S310 - the person's own registry
        unpack_ohif(response.read(), OHIF)


def unpack_ohif(package: bytes, folder: Path) -> None:
    """Write the viewer's files into the folder, which exists only once all are there.

    Raises ValueError where the package is not the one that this repository knows.
    """
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if digest != OHIF_SHA512:
        raise ValueError(f"the package of OHIF {OHIF_VERSION} has SHA-512 {digest}, expected {OHIF_SHA512}")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content and member.name.startswith("package/dist/"):
                path = unfinished / PurePath(member.name).relative_to("package/dist")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    unfinished.rename(folder)


def _registry() -> str:
    npm = shutil.which("npm")
    if not npm:
        return "https://registry.npmjs.org"
    done = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=True)
    return done.stdout.strip().rstrip("/")


# --- the server: viewer and archive under one origin, or the browser would keep them apart


class OhifHandler(SimpleHTTPRequestHandler):
    """Gives the viewer's files and settings, and passes what is for the archive on to it."""

    protocol_version = "HTTP/1.1"
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".wasm": "application/wasm"}

    def __init__(self, *arguments: Any, archive: Orthanc, **options: Any) -> None:
        self.archive = archive
        super().__init__(*arguments, directory=str(OHIF), **options)

    def do_GET(self) -> None:
        if self.path.startswith(ARCHIVE_PATHS):
            self._answer(*self._ask_archive())
        elif self.path == "/app-config.js":
            settings = json.dumps(viewer_settings(f"http://{self.headers['Host']}"))
            self._answer(200, "text/javascript", f"window.config = {settings};".encode())
        else:
            if not Path(self.translate_path(self.path)).is_file():
                self.path = "/"  # an address within the application
            super().do_GET()

    def log_message(self, format: str, *values: Any) -> None:
        """Say nothing: pytest would show a thousand lines beside the one that matters."""

    def _ask_archive(self) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(self.archive.host, self.archive.http_port, timeout=60)
        # Host, because the archive puts it into the addresses in its answers.
        headers = {name: self.headers[name] for name in ("Host", "Accept")}
        try:
            connection.request("GET", self.path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def _answer(self, status: int, content_type: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def viewer_settings(origin: str) -> dict[str, Any]:
    """What OHIF reads from app-config.js."""
    source = {
        "friendlyName": "the archive of the tests",
        "qidoRoot": f"{origin}/dicom-web",
        "wadoRoot": f"{origin}/dicom-web",
        "wadoUriRoot": f"{origin}/wado",
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    }
    namespace = "@ohif/extension-default.dataSourcesModule.dicomweb"
    return {
        "routerBasename": "/",
        "extensions": [],
        "modes": [],
        "investigationalUseDialog": {"option": "never"},
        "studyPrefetcher": {"enabled": False},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [{"sourceName": "dicomweb", "namespace": namespace, "configuration": source}],
    }


@contextmanager
def serve_ohif(archive: Orthanc) -> Iterator[str]:
    """Serve OHIF before the archive; gives the origin."""
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(OhifHandler, archive=archive))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    try:
        fetch_ohif()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"OHIF {OHIF_VERSION} could not be fetched: {error}")
