import pytest

from node.assembly import ASKED_FOR, QUIET, RELEASED, Assembler, completeness
from node.index import Index, OpenStudy, sqlite_url
from tests.test_index import STUDY, instance


def study(*modalities, is_retry=False):
    return OpenStudy(STUDY, 0.0, 0, is_retry, frozenset(modalities))


@pytest.mark.parametrize(
    ("modalities", "is_released", "quiet_s", "evidence"),
    [
        (["DX"], True, 0.0, RELEASED),
        (["CR", "DX"], True, 0.0, RELEASED),
        (["DX"], False, 9.9, None),
        (["DX"], False, 10.0, QUIET),
        (["CT"], True, 0.0, None),
        (["CT"], True, 10.0, QUIET),
        (["DX", "CT"], True, 0.0, None),
    ],
)
def test_evidence_by_modality_release_and_quiet(modalities, is_released, quiet_s, evidence):
    found = completeness(study(*modalities), is_released=is_released, quiet_s=quiet_s, quiet_period_s=10.0)

    assert found == evidence


def test_a_retry_waits_for_nothing():
    found = completeness(study("CT", is_retry=True), is_released=False, quiet_s=0.0, quiet_period_s=10.0)

    assert found == ASKED_FOR


@pytest.fixture
def index(tmp_path):
    index = Index(sqlite_url(tmp_path / "index.sqlite"))
    yield index
    index.close()


def test_a_released_radiograph_is_told_of_and_a_growing_stack_is_not(index):
    index.record_instance(instance("1.1", modality="DX"))
    index.record_instance(instance("2.1", modality="CT", study="9.9"))
    told = []
    assembler = Assembler(index, 60.0, lambda one, evidence: told.append((one.study_instance_uid, evidence)))

    assembler.note_release(frozenset({STUDY, "9.9"}))
    assembler.assemble()

    assert told == [(STUDY, RELEASED)]


def test_the_watch_survives_a_round_that_fails(index):
    index.record_instance(instance("1.1", modality="DX"))
    told = []

    def fail_once(study, evidence):
        told.append(evidence)
        if len(told) == 1:
            raise RuntimeError("first round")
        index.queue_study(study, "job", evidence)

    assembler = Assembler(index, 0.0, fail_once)
    assembler.start()
    assembler.note_release(frozenset({STUDY}))
    for _ in range(100):
        if len(told) > 1:
            break
        assembler._is_stopping.wait(0.05)
    assembler.stop()

    # The first round may come before the release, in it, or after it.
    assert told in ([RELEASED, QUIET], [QUIET, QUIET], [QUIET, RELEASED])
