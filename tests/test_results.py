import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.domain.findings import Algorithm, Code, Findings, Outcome, Refusal, Score, Uncertainty
from node.errors import StoreError
from node.results import load_findings, load_objects, save_findings, save_objects

ALGORITHM = Algorithm("chest_xray", "0.1.0", ("members=1",))


def findings(**fields):
    return Findings("chest_xray", ALGORITHM, "1.2", "1.2.3", ("1.2.3.4",), **fields)


def dataset(sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34"):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, generate_uid()
    return dataset


def test_findings_come_back_as_they_were(tmp_path):
    activation = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    uncertainty = Uncertainty(0.01, (0.8, 0.95), 0.4, 0.02)
    scores = (
        Score(Code("233604007", "SCT", "Pneumonia"), 0.9, 0.5, uncertainty, activation),
        Score(Code("75570004", "SCT", "Viral pneumonia"), 0.85, 0.5, uncertainty),
    )

    loaded = load_findings(save_findings(tmp_path, findings(scores=scores)))

    assert loaded.algorithm == ALGORITHM
    assert loaded.sop_instance_uids == ("1.2.3.4",)
    np.testing.assert_array_equal(loaded.scores[0].activation, activation)
    assert loaded.scores[1] == scores[1]


def test_a_refusal_comes_back_as_it_was(tmp_path):
    refused = findings(refusal=Refusal(Outcome.NOT_ELIGIBLE, "a lateral view"))

    assert load_findings(save_findings(tmp_path, refused)) == refused


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04"])
def test_damaged_findings_are_a_store_error(tmp_path, content):
    path = tmp_path / "findings.npz"
    path.write_bytes(content)

    with pytest.raises(StoreError, match="cannot be read"):
        load_findings(path)


def test_objects_appear_only_when_all_are_written(tmp_path):
    folder = tmp_path / "result"

    def breaks_after_one():
        yield "findings_sr", dataset()
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        save_objects(folder, breaks_after_one())

    assert load_objects(folder) == ()
    assert not folder.exists()


def test_objects_are_listed_in_the_order_they_were_written(tmp_path):
    first, second = dataset(), dataset()

    saved = save_objects(tmp_path / "result", [("findings_sr", first), ("summary_sr", second)])

    assert saved == load_objects(tmp_path / "result")
    assert [item.kind for item in saved] == ["findings_sr", "summary_sr"]
    assert [item.sop_instance_uid for item in saved] == [first.SOPInstanceUID, second.SOPInstanceUID]
    assert all(item.path.stat().st_mode & 0o777 == 0o600 for item in saved)
