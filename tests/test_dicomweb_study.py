"""A whole study over DICOMweb alone: Orthanc sends it by STOW-RS and gets its results by STOW-RS."""

from pathlib import Path

import pytest
from pydicom import dcmread

from node.samples.demo import Sample
from tests.peers import free_ports, wait_until
from tests.peers.node import make_node
from tests.peers.orthanc import DICOMWEB_PLUGIN, run_orthanc


@pytest.mark.slow
def test_a_study_comes_and_its_results_go_over_dicomweb(
    samples: dict[str, Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not DICOMWEB_PLUGIN.exists():
        pytest.skip("needs Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb)")
    (path,) = samples["findings"].write(tmp_path / "sample")
    source = dcmread(path)
    (closed,) = free_ports(1)
    monkeypatch.setenv("NODE_TOKEN", "secret")
    with make_node(tmp_path / "node", {}) as node:
        server = {
            "Url": f"http://127.0.0.1:{node.web_port}/dicom-web/",
            "HttpHeaders": {"Authorization": "Bearer secret"},
        }
        with run_orthanc(tmp_path / "orthanc", {}, {"node": server}) as orthanc:
            node.configure(
                {
                    "receive": {"dicomweb": {"token_env": "NODE_TOKEN"}},
                    "destinations": {
                        "pacs": {"url": f"http://127.0.0.1:{orthanc.http_port}/dicom-web"},
                        "dead": {"url": f"http://127.0.0.1:{closed}/dicom-web", "timeout_s": 1},
                    },
                }
            )
            checked = node.sightline("check", "-c", str(node.configuration_path))
            node.start()
            orthanc.upload(path)

            orthanc.stow_to("node", [source.StudyInstanceUID])

            wait_until(lambda: len(orthanc.instances(source.StudyInstanceUID)) > 3, "the results are there")
            node.wait_for_record(event="objects_confirmed", destination="pacs", by="query")
            node.wait_for_record(event="delivery_postponed", destination="dead")
            held = orthanc.instances(source.StudyInstanceUID)
            (study,) = node.studies()

    assert "destinations.pacs: OK" in checked.stdout
    assert "destinations.dead: dead: " in checked.stdout
    assert study["evidence"] == "association_released"
    made = [item["sop_instance_uid"] for run in study["runs"] for item in run["objects"]]
    assert len(made) >= 3
    assert set(made) <= set(held)
