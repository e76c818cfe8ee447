from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from node.domain.code import Code
from node.domain.findings import (
    Algorithm,
    Findings,
    Outcome,
    OutOfDistribution,
    PredictionSet,
    Presence,
    Refusal,
    Score,
    Uncertainty,
)
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
    dataset.SeriesInstanceUID = generate_uid()
    return dataset


def test_findings_come_back_as_they_were(tmp_path):
    activation = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    numbers, image = (0.01, (0.8, 0.95), 0.4, 0.02), OutOfDistribution(3.25, 1.5)
    sets = [
        PredictionSet(answers, 0.95)
        for answers in ((), (Presence.ABSENT, Presence.PRESENT), (Presence.PRESENT,))
    ]
    first, *others = (Uncertainty(*numbers, one, image) for one in [*sets, None])
    scores = (
        Score(Code("233604007", "SCT", "Pneumonia"), 0.9, 0.5, first, activation),
        *(Score(Code("75570004", "SCT", "Viral pneumonia"), 0.85, 0.5, other) for other in others),
    )

    loaded = load_findings(save_findings(tmp_path, findings(scores=scores)))

    assert loaded.algorithm == ALGORITHM
    assert loaded.sop_instance_uids == ("1.2.3.4",)
    np.testing.assert_array_equal(loaded.scores[0].activation, activation)
    assert loaded.scores[0].uncertainty == first
    assert loaded.scores[1:] == scores[1:]
    assert [score.doubts for score in loaded.scores] == [score.doubts for score in scores]


def test_findings_of_a_model_that_states_no_more_come_back_as_they_were(tmp_path):
    bare = Score(Code("1", "99TEST", "One"), 0.9, 0.5, Uncertainty(0.01, (0.8, 0.95), 0.4, 0.02))

    assert load_findings(save_findings(tmp_path, findings(scores=(bare,)))) == findings(scores=(bare,))


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
        yield "findings_sr", "", dataset()
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        save_objects(folder, breaks_after_one())

    assert load_objects(folder) == ()
    assert not folder.exists()


def test_objects_are_listed_in_the_order_they_were_written(tmp_path):
    first, second = dataset(), dataset()

    saved = save_objects(tmp_path / "result", [("findings_sr", "", first), ("summary_sr", "", second)])

    assert saved == load_objects(tmp_path / "result")
    assert [item.kind for item in saved] == ["findings_sr", "summary_sr"]
    assert [item.sop_instance_uid for item in saved] == [first.SOPInstanceUID, second.SOPInstanceUID]


class Syncs:
    """Every sync so far: what was synced, and which files had their final place by then."""

    def __init__(self, root):
        self.root = root
        self.seen = []

    def __call__(self, descriptor):
        synced = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(self.root)
        placed = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        self.seen.append((str(synced), {name for name in placed if not name.startswith(".")}))


def test_findings_are_synced_before_they_have_their_name_and_their_folder_after(tmp_path):
    syncs = Syncs(tmp_path)

    save_findings(tmp_path, findings(), sync=syncs)

    assert syncs.seen == [(".findings.npz", set()), (".", {"findings.npz"})]


def test_objects_are_synced_before_their_folder_has_its_name_and_what_names_it_after(tmp_path):
    syncs = Syncs(tmp_path)

    saved = save_objects(tmp_path / "result", [("findings_sr", "", dataset())], sync=syncs)

    inside = [".result/findings_sr.dcm", ".result/manifest.json", ".result"]
    whole = {"result/findings_sr.dcm", "result/manifest.json"}
    assert syncs.seen == [*((name, set()) for name in inside), (".", whole)]
    assert saved[0].path == tmp_path / "result" / "findings_sr.dcm"


def test_what_is_saved_is_for_nobody_but_its_owner(tmp_path):
    save_findings(tmp_path, findings())
    save_objects(tmp_path / "result", [("findings_sr", "", dataset())])

    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}

    assert files == dict.fromkeys(("findings.npz", "findings_sr.dcm", "manifest.json"), 0o600)
    assert (tmp_path / "result").stat().st_mode & 0o777 == 0o700
