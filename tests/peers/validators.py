"""dciodvfy and PixelMed's DicomSRValidator: what they find wrong, less what is wrong with them."""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.peers import need_program

PIXELMED = Path("/usr/share/java/pixelmed.jar")
DRIVER = Path(__file__).with_name("ValidateReports.java")
# The templates are compiled to more XPath operators than Java allows by default.
JAVA_OPTIONS = [f"-Djdk.xml.xpath{limit}Limit=0" for limit in ("TotalOp", "ExprOp", "ExprGrp")]
# The first compiler is enough for a process that lives for seconds: half the time of the default.
JAVA_OPTIONS += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
JVM_TIMEOUT_S = 110

UNKNOWN_CLASS = "Information Object Not found"
YOUNG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.7"}
"""Label Map Segmentation Storage."""

_UNCERTAINTY = "|".join(
    re.escape(item)
    for item in (
        '(371886008,SCT,"+, range of upper measurement uncertainty")',
        '(371885007,SCT,"-, range of lower measurement uncertainty")',
        '(UQ-ILEVEL,99SIGHTLINE,"Uncertainty interval level")',
        '(386136009,SCT,"Standard Deviation")',
    )
)
DEFECTS_OF_DICOM_SR_VALIDATOR = (
    # The wildcard rows of TID 300 and TID 1419 swallow the uncertainty that TID 310 hangs below a value.
    re.compile(
        r"Error: Template (300 Measurement/\[Row 1\] NUM \*/\[Row (9|10)\]"
        r"|1419 ROIMeasurements/\[Row 5\] NUM \*/\[Row (13|14)\]) NUM \*: [0-9.]+: .*"
        rf"/NUM ({_UNCERTAINTY}): Incorrect relationship - expected INFERRED FROM - found HAS PROPERTIES"
    ),
    # Where one measurement group of all has an outline it asks each for one, those of TID 1501 too; where two
    # have, it asks none.
    re.compile(
        r"Error: Template 1410 PlanarROIMeasurements/\[Row 1\] CONTAINER [^/]*/"
        r"\[Row (5\] SCOORD|7\] IMAGE) .*: Missing conditional content item"
    ),
    # It knows an older edition of CID 100.
    re.compile(
        r'Error: Template 1500 .*: Code \(43468-8,LN,"XR unspecified body region"\) '
        r"not found in context group 100"
    ),
)

# It looks for the absent attribute of 3D coordinates in objects with 2D ones.
DEFECT_OF_DCIODVFY = (
    "Error - Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue> = <>"
)


def dciodvfy_errors(paths: Iterable[Path]) -> list[str]:
    """Every error line about these files, each after the file's name."""
    program = need_program("dciodvfy", "dicom3tools")
    return [f"{path.name}: {line}" for path in paths for line in _dciodvfy(program, path)]


def _dciodvfy(program: str, path: Path) -> list[str]:
    done = subprocess.run([program, path], capture_output=True, timeout=60, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    assert lines, f"dciodvfy said nothing of {path.name}, not even which kind of object it is"
    errors = [line for line in lines if line.startswith("Error") or UNKNOWN_CLASS in line]
    errors = [line for line in errors if line.strip() != DEFECT_OF_DCIODVFY]
    return [line for line in errors if not (UNKNOWN_CLASS in line and _is_young(path))]


def _is_young(path: Path) -> bool:
    """Is the object of a class that is younger than dciodvfy?"""
    header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=["SOPClassUID"])
    return header.get("SOPClassUID") in YOUNG_CLASSES


def report_errors(paths: Sequence[Path]) -> list[str]:
    """Every error line of DicomSRValidator about these structured reports that is not a defect of its own."""
    lines = [line for report in _validated(paths) for line in report]
    complete = sum("IOD validation complete" in line for line in lines)
    assert complete == len(paths), f"{complete} of {len(paths)} reports were validated: {lines[-5:]}"
    return [
        line
        for line in lines
        if "Error" in line and not any(defect.search(line) for defect in DEFECTS_OF_DICOM_SR_VALIDATOR)
    ]


def _validated(paths: Sequence[Path]) -> Iterator[list[str]]:
    java = need_program("java", "default-jre-headless")
    if not PIXELMED.exists():
        pytest.skip("needs PixelMed (Debian package libpixelmed-java)")
    if "jdk.compiler" in _run([java, "--list-modules"]):
        yield _run([java, *JAVA_OPTIONS, "-cp", str(PIXELMED), str(DRIVER), *map(str, paths)]).splitlines()
        return
    main = "com.pixelmed.validate.DicomSRValidator"
    for path in paths:
        yield _run([java, *JAVA_OPTIONS, "-cp", str(PIXELMED), main, str(path)]).splitlines()


def _run(command: Sequence[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "JAVA_TOOL_OPTIONS"}
    done = subprocess.run(command, capture_output=True, timeout=JVM_TIMEOUT_S, check=False, env=environment)
    return (done.stdout + done.stderr).decode("utf-8", "replace")
