"""A reader at a web viewer: OHIF in headless Chromium, before a real archive."""

import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Picture

from tests.peers import wait_until
from tests.peers.ohif import OHIF, OHIF_VERSION, serve_ohif
from tests.peers.orthanc import DICOMWEB_PLUGIN, Orthanc

if TYPE_CHECKING:
    from playwright.sync_api import Page

WINDOW_PX = {"width": 1600, "height": 1000}
PATIENCE_MS = 60_000
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # it refuses to have one where it runs as root
    "--disable-gpu",
    *("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader"),  # WebGL in software
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"),
]

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]


def need_viewer() -> str:
    """The browser's path; skips the test where a part of the viewer is missing, and says how to get it."""
    chromium = shutil.which("chromium")
    there = {
        "Chromium": chromium,
        "playwright": find_spec("playwright"),
        f"OHIF {OHIF_VERSION}": OHIF.is_dir(),
        "Orthanc's DICOMweb plugin": DICOMWEB_PLUGIN.exists(),
    }
    missing = [name for name, found in there.items() if not found]
    if missing or not chromium:
        pytest.skip(f"needs {', '.join(missing)}: bash tests/run.sh --viewer")
    return chromium


class Viewer:
    """One page of the viewer: what a reader does, and what is then on the screen."""

    def __init__(self, page: "Page", origin: str) -> None:
        self._page = page
        self._origin = origin
        self._errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: message.type == "error" and self._errors.append(message.text))
        page.on("pageerror", lambda error: self._errors.append(str(error)))
        page.add_locator_handler(page.get_by_text("Skip all"), lambda tour: tour.click())

    def open_study(self, study_instance_uid: str) -> None:
        """Open a study and wait for its first image."""
        self._page.goto(f"{self._origin}/viewer?StudyInstanceUIDs={study_instance_uid}")
        self.pixels()

    def open_slide(self, study_instance_uid: str) -> None:
        """Open a study in the mode for slides, with the list of its series."""
        self._page.goto(f"{self._origin}/microscopy?StudyInstanceUIDs={study_instance_uid}")
        self.press("side-panel-header-left")

    def open_series(self, description: str, answer: str = "") -> None:
        """Open the series of this description, and answer what the viewer asks about it."""
        entries = self._page.locator('[data-cy^="study-browser-thumbnail"]')
        entries.filter(has=self._page.get_by_text(description, exact=True)).dblclick()
        if answer:
            self.click(answer)
        # OHIF now and then draws an image before it has the annotations. A new size has it drawn again.
        for width in (WINDOW_PX["width"] - 10, WINDOW_PX["width"]):
            self._page.set_viewport_size({**WINDOW_PX, "width": width})

    def open_list(self, description: str, words: str | re.Pattern[str]) -> None:
        """Open a series whose measurements are listed beside it, with these words.

        OHIF's list for slides stays empty now and then, if it is there later than the outlines. Opened again,
        the series is listed.
        """
        listed = self._page.get_by_text(words).first
        for patience_s in (20, 20):
            self.open_series(description)
            with suppress(AssertionError):
                wait_until(listed.is_visible, "it is listed", patience_s)
                return
        self.open_series(description)
        listed.wait_for()

    def click(self, words: str) -> None:
        """Click what reads exactly so."""
        self._page.get_by_text(words, exact=True).first.click()

    def press(self, name: str, nth: int = 0) -> None:
        """Press a button that has no words, by the name that OHIF's own tests use."""
        self._page.locator(f'[data-cy="{name}"]').nth(nth).click()

    def wait_for(self, words: str | re.Pattern[str]) -> None:
        """Wait until the words are on the page."""
        self._page.get_by_text(words).first.wait_for()

    def text(self) -> str:
        """Return the words on the page."""
        return self._page.locator("body").inner_text()

    def annotations(self) -> list[list[str]]:
        """Return the lines of words beside each shape on the image, once there is one."""
        blocks = self._page.locator("svg.svg-layer text")
        blocks.first.wait_for(state="attached")
        return [block.locator("tspan").all_text_contents() for block in blocks.all()]

    def outlines(self) -> list[Points]:
        """Return the closed lines drawn over the image, each (points, 2) as (row, column) of `pixels`."""
        lines = self._page.locator("svg.svg-layer polyline")
        lines.first.wait_for(state="attached")
        numbers = lines.evaluate_all("all => all.map(one => [...one.points].map(at => [at.y, at.x]))")
        return [np.array(points) for points in numbers]

    def pixels(self, *, unlike: Pixels | None = None) -> Pixels:
        """Return the image as drawn (rows, columns, RGB), once it stands still and is not the given one.

        It holds masks and maps, but no annotations and no words: those are drawn over it.
        """
        drawn = [np.empty(0, np.uint8)]

        def is_drawn() -> bool:
            drawn.append(self._canvas())
            is_new = unlike is None or not np.array_equal(drawn[-1], unlike)
            return bool(is_new and drawn[-1].any() and np.array_equal(drawn[-1], drawn[-2]))

        wait_until(is_drawn, "an image is drawn and stands still", pause_s=0.25)
        return drawn[-1]

    def slide_pixels(self) -> Pixels:
        """Return the slide as it is on the screen (rows, columns, RGB), with what lies on it."""
        shot = self._page.locator('[data-cy="viewport-pane"]').first.screenshot()
        return np.array(Picture.open(io.BytesIO(shot)).convert("RGB"))

    def screenshot(self, path: Path) -> None:
        """Keep the page as a picture."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._page.screenshot(path=path)

    def close(self) -> None:
        """Close the page: it would go on drawing."""
        self._page.close()

    def errors(self) -> list[str]:
        """Return what the viewer complained of, in the browser's console and on the page."""
        shown = [line for line in self.text().splitlines() if "Something went wrong" in line]
        return [*self._errors, *shown]

    def _canvas(self) -> Pixels:
        canvas = self._page.locator("canvas.cornerstone-canvas").first
        content = canvas.evaluate("one => one.toDataURL()").partition(",")[2]
        return np.array(Picture.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


@contextmanager
def run_viewers(archive: Orthanc, profile: Path) -> Iterator[Callable[[], Viewer]]:
    """Start the browser with its profile in an empty folder; gives a function that opens a fresh page.

    With a profile, unlike in private mode, the browser keeps what it compiled: a page opens in half the time.
    """
    chromium = need_viewer()
    from playwright.sync_api import sync_playwright

    with serve_ohif(archive) as origin, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=CHROMIUM_ARGUMENTS, viewport=WINDOW_PX
        )
        yield lambda: Viewer(browser.new_page(), origin)
        browser.close()
