"""The configuration: defaults, what it accepts, and every problem at once."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from node import config
from node.config import check_configuration, load, load_usable
from node.domain.conditions import parse
from node.domain.findings import Priority
from node.domain.profile import Profile, ReportClass, SegmentationType
from node.errors import ConfigurationError
from node.settings import (
    ApplicationEntitySettings,
    CommitmentPeerSettings,
    Configuration,
    DestinationSettings,
    DicomwebSettings,
    FolderSettings,
    PipelineSettings,
    ReceiveSettings,
    TlsSettings,
    TriageRule,
)

PACS = 'host = "a"\nport = 104\nae_title = "A"\n'
SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "sightline.toml"
SPLEEN = '''
"""A pipeline of a site's own."""
from dataclasses import dataclass

@dataclass(frozen=True)
class Spleen:
    organ: str
    threshold: float = 0.5
    members: int = 1
    is_fast: bool = False

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError("threshold: expected 0 to 1")

    def analyze(self, series, engine):
        return None

class NoDataclass:
    def analyze(self, series, engine):
        return None
'''


@pytest.fixture
def spleen(tmp_path, monkeypatch):
    (tmp_path / "site_spleen.py").write_text(SPLEEN)
    (tmp_path / "site_broken.py").write_text("raise ImportError('no such wheel')")
    monkeypatch.syspath_prepend(tmp_path)


def problems_of(toml):
    with pytest.raises(ConfigurationError) as caught:
        check_configuration(tomllib.loads(toml))
    return caught.value.problems


# --- what a destination gets


@pytest.mark.parametrize(
    ("objects", "kinds"),
    [
        ('"air"', "findings_sr lesions_sr segmentation parametric_map key_objects"),
        ('"viewer"', "lesions_sr summary_sr segmentation parametric_map secondary_capture"),
        (
            '"classic"',
            "findings_sr lesions_sr summary_sr segmentation parametric_map key_objects presentation_state "
            "secondary_capture",
        ),
        ('["annotations", "findings_sr", "annotations"]', "annotations findings_sr"),
    ],
)
def test_a_preset_or_a_list_names_the_objects(objects, kinds):
    toml = f"[destinations.a]\n{PACS}objects = {objects}"

    settings = check_configuration(tomllib.loads(toml)).destinations["a"]

    assert settings.profile.kinds == tuple(kinds.split())


def test_the_forms_of_objects_are_the_destinations_own():
    toml = (
        f'[destinations.a]\n{PACS}segmentation_type = "fractional"\nomit_empty_frames = false\n'
        f'max_frames = 500\nreport_class = "enhanced"\n[destinations.b]\n{PACS}'
    )

    destinations = check_configuration(tomllib.loads(toml)).destinations

    assert destinations["a"].profile == Profile(
        report_class=ReportClass.ENHANCED,
        segmentation_type=SegmentationType.FRACTIONAL,
        omit_empty_frames=False,
        max_frames=500,
    )
    assert destinations["b"].profile == Profile()


# --- defaults


def test_without_a_file_everything_has_a_default():
    configuration = load(None)

    assert configuration.receive.port == 11112
    assert list(configuration.pipelines) == ["chest_xray", "chest_ct", "slide_tumor"]
    assert configuration.receive.scopes == {"SIGHTLINE": ("*",)}
    assert configuration.destinations == {}


def test_an_empty_file_is_the_default(tmp_path):
    path = tmp_path / "sightline.toml"
    path.touch()

    assert load(path) == load(None)


def test_the_shipped_file_says_the_defaults():
    assert load(SHIPPED) == load(None)


def test_the_shipped_file_documents_every_key():
    given = tomllib.loads(re.sub(r"^# (?=\[|\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE))

    assert set(given) == names(Configuration)
    assert set(given["receive"]) == names(ReceiveSettings)
    assert set(given["receive"]["application_entities"]["SIGHTLINE"]) == names(ApplicationEntitySettings)
    assert set(given["receive"]["dicomweb"]) == names(DicomwebSettings)
    assert set(given["receive"]["folders"]["inbox"]) == names(FolderSettings)
    assert set(given["pipelines"]["chest_xray"]) == names(PipelineSettings)
    assert set(given["destinations"]["pacs"]) == names(DestinationSettings)
    for secured in (given["receive"], given["web"], given["destinations"]["pacs"]):
        assert set(secured["tls"]) == names(TlsSettings)
    (peer,) = given["receive"]["commitment_peers"].values()
    assert set(peer) == names(CommitmentPeerSettings)
    for section in ("assembly", "engine", "retention", "workflow", "web", "log"):
        assert set(given[section]) == names(type(getattr(Configuration(), section)))


def test_the_commented_example_destination_is_valid_and_says_the_defaults():
    text = re.sub(r"^# (?=\[|\w+ = )", "", SHIPPED.read_text(), flags=re.MULTILINE)

    (pacs,) = check_configuration(tomllib.loads(text)).destinations.values()

    assert replace(pacs, tls=None) == DestinationSettings(host="127.0.0.1", port=4242, ae_title="PACS")


def names(cls):
    return set(cls.__dataclass_fields__)


def test_the_file_for_scale_is_valid_and_uses_a_server():
    scaled = load(SHIPPED.with_name("sightline.scaled.toml"))

    assert scaled.engine == replace(load(None).engine, kind="triton", shared_memory_mib=2048)
    assert scaled.workflow.workers == 8


@pytest.mark.parametrize(("value", "means"), [('"auto"', None), ("true", True), ("false", False)])
def test_memory_is_shared_always_never_or_where_it_can_be(value, means):
    given = tomllib.loads(f"[engine]\nshared_memory = {value}")

    assert check_configuration(given).engine.shared_memory is means


# --- what it accepts


def test_a_file_replaces_only_what_it_names(tmp_path):
    path = tmp_path / "sightline.toml"
    path.write_text('data = "/srv/sightline"\n[receive]\nport = 104\n')

    configuration = load(path)

    assert configuration.data == Path("/srv/sightline")
    assert configuration.receive == replace(load(None).receive, port=104)
    assert configuration.pipelines == load(None).pipelines


def test_two_ae_titles_have_their_own_scope():
    configuration = check_configuration(
        tomllib.loads("""
            [receive.application_entities.SIGHTLINE]
            pipelines = ["chest_xray"]
            [receive.application_entities."AI RESEARCH"]
            pipelines = []
            allow_callers = ["PACS"]
        """)
    )

    assert configuration.receive.scopes == {"SIGHTLINE": ("chest_xray",), "AI RESEARCH": ()}
    assert configuration.receive.application_entities["AI RESEARCH"].allow_callers == ("PACS",)


def test_a_new_model_is_one_entry(spleen):
    configuration = check_configuration(
        tomllib.loads("""
            [pipelines.spleen]
            use = "site_spleen:Spleen"
            when = { modality = "CT", body_part_examined = ["ABDOMEN"] }
            priority = "urgent"
            deliver_to = ["pacs"]
            options = { organ = "spleen", threshold = 1 }
            [destinations.pacs]
            host = "pacs.example.org"
            port = 104
            ae_title = "PACS"
        """)
    )

    pipeline = configuration.pipelines["spleen"]
    assert pipeline.when == parse({"modality": "CT", "body_part_examined": ["ABDOMEN"]})
    assert pipeline.priority is Priority.URGENT
    assert pipeline.deliver_to == ("pacs",)
    assert (pipeline.build().organ, pipeline.build().threshold) == ("spleen", 1)


def test_triage_rules_replace_the_default_ones():
    given = tomllib.loads('[[triage]]\nfinding = "75570004"\nat_least = 1\npriority = "stat"')

    assert check_configuration(given).triage == (
        TriageRule(finding="75570004", at_least=1.0, priority=Priority.STAT),
    )


def test_a_triage_rule_asks_for_presence_alone_unless_it_says_more():
    given = tomllib.loads('[[triage]]\nfinding = "Pneumonia"\npriority = "urgent"')

    (rule,) = check_configuration(given).triage

    assert rule.at_least == 0


def test_the_models_of_the_checkout_are_used_where_the_working_folder_has_none(tmp_path, monkeypatch):
    package, elsewhere = tmp_path / "checkout" / "node", tmp_path / "elsewhere"
    for folder in (package, elsewhere, package.parent / "triton_repo"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    monkeypatch.chdir(elsewhere)

    beside = load(None).engine.repository
    named = check_configuration({"engine": {"repository": "./models"}}).engine.repository
    (elsewhere / "triton_repo").mkdir()
    here = load(None).engine.repository

    assert beside == package.parent.resolve() / "triton_repo"
    assert named == Path("models")
    assert here == Path("triton_repo")


# --- what it refuses


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ('[receive]\nport = "abc"', 'receive.port: "abc" – expected an integer 1–65535'),
        ("[receive]\nport = 0", "receive.port: 0 – expected an integer 1–65535"),
        ("[receive]\nport = true", "receive.port: true – expected an integer 1–65535"),
        ("[receive]\nprot = 1", "receive.prot: unknown key – did you mean port?"),
        ("[recieve]\nport = 1", "recieve: unknown key – did you mean receive?"),
        ("zzz = 1", "zzz: unknown key"),
        ("receive = 1", "receive: 1 – expected a table"),
        ("data = 1", "data: 1 – expected the name of a file or folder"),
        ("[assembly]\nquiet_period_s = nan", "assembly.quiet_period_s: NaN – expected a number 0–86400"),
        (
            '[assembly]\nask = "pcas"\n[destinations.pacs]\nhost = "h"\nport = 104\nae_title = "PACS"',
            'assembly.ask: "pcas" – expected a declared destination (pacs), or nothing – did you mean pacs?',
        ),
        ("[assembly]\nquiet_period_s = -1", "assembly.quiet_period_s: -1 – expected a number 0–86400"),
        (
            "[receive]\naccept_private_classes = 1",
            "receive.accept_private_classes: 1 – expected true or false",
        ),
        (
            '[receive]\nallow_hosts = ["pacs"]',
            'receive.allow_hosts[0]: "pacs" – expected an IP address, or a network such as 10.1.0.0/16',
        ),
        ('[receive]\nallow_hosts = "::1"', 'receive.allow_hosts: "::1" – expected a list'),
        ('[web]\nhost = "my host"', 'web.host: "my host" – expected a host name or an IP address'),
        ("[web]\nport = 11112", "web.port: 11112 – expected another port than receive.port"),
        ('[log]\nlevel = "warn"', 'log.level: "warn" – expected debug or info or warning or error'),
        ('[engine]\nkind = "tensorrt"', 'engine.kind: "tensorrt" – expected onnx or triton'),
        ('[engine]\nurl = "http://triton"', 'engine.url: "http://triton" – expected a host and a port'),
        ('[engine]\nurl = "triton"', 'engine.url: "triton" – expected a host and a port'),
        ('[engine]\nshared_memory = "yes"', 'engine.shared_memory: "yes" – expected true, false or "auto"'),
        ('[workflow]\ndatabase = "mysql://x"', 'workflow.database: "mysql://x" – expected sqlite:///FILE'),
        (
            '[receive.application_entities."SEVENTEEN_LETTERS"]',
            'receive.application_entities.SEVENTEEN_LETTERS: "SEVENTEEN_LETTERS" – expected an AE title',
        ),
        (
            '[receive.application_entities." A"]',
            'receive.application_entities." A": " A" – expected an AE title',
        ),
        (
            "[receive.application_entities.A]\nallow_callers = ['B\\C']",
            'receive.application_entities.A.allow_callers[0]: "B\\\\C" – expected an AE title',
        ),
        (
            '[receive.dicomweb]\nae_title = "SIGTHLINE"',
            'receive.dicomweb.ae_title: "SIGTHLINE" – expected an AE title of the node (SIGHTLINE) '
            "– did you mean SIGHTLINE?",
        ),
        (
            '[receive.folders.a]\npath = "a"\nae_title = "B"',
            'receive.folders.a.ae_title: "B" – expected an AE title of the node (SIGHTLINE)',
        ),
        (
            "[retention]\ndays_by_outcome = { no_finding = 30 }",
            'retention.days_by_outcome.no_finding: "no_finding" – expected findings or no_findings or '
            "not_eligible or failed – did you mean no_findings?",
        ),
        ("[receive.folders.a]", "receive.folders.a.path: missing – this key must be given"),
        ('[receive.dicomweb]\ntoken_env = "a b"', 'receive.dicomweb.token_env: "a b" – expected the name of'),
        (
            '[receive.application_entities.A]\npipelines = ["chest_xry"]',
            'receive.application_entities.A.pipelines[0]: "chest_xry" – expected a declared pipeline '
            "(*, chest_xray, chest_ct, slide_tumor) – did you mean chest_xray?",
        ),
        ("[receive.application_entities]", "receive.application_entities: {} – expected at least one entry"),
        (
            "[receive.application_entities.A]\nallow_callers = []",
            "receive.application_entities.A.allow_callers: [] – expected at least one entry",
        ),
        ('[[triage]]\nfinding = "x"\nat_least = 0.5', "triage[0].priority: missing – this key must be given"),
        (
            '[[triage]]\nfinding = "x"\nat_least = 50\npriority = "stat"',
            "triage[0].at_least: 50 – expected a number 0–1",
        ),
        (
            '[[triage]]\nfinding = "x"\nat_least = 0.5\npriority = "urgnt"',
            'triage[0].priority: "urgnt" – expected stat or urgent or routine – did you mean urgent?',
        ),
        (
            '[destinations.a]\nhost = "a"\nport = 1',
            "destinations.a.ae_title: missing – this key must be given, or url",
        ),
        (
            f'[destinations.a]\n{PACS}url = "http://a/dicom-web"',
            'destinations.a.url: "http://a/dicom-web" – expected no url where host, port and ae_title are',
        ),
        (
            '[destinations.a]\nurl = "a/dicom-web"',
            'destinations.a.url: "a/dicom-web" – expected an address such',
        ),
        (
            f'[destinations.a]\n{PACS}token_env = "T"',
            'destinations.a.token_env: "T" – expected url: only DICOMweb takes a token',
        ),
        (
            f'[destinations.a]\n{PACS}objects = ["finding_sr"]',
            'destinations.a.objects[0]: "finding_sr" – expected findings_sr or lesions_sr or summary_sr or '
            "segmentation or parametric_map or presentation_state or key_objects or annotations or "
            "secondary_capture – did you mean findings_sr?",
        ),
        (
            f'[destinations.a]\n{PACS}objects = "viewr"',
            'destinations.a.objects: "viewr" – expected air or viewer or classic – did you mean viewer?',
        ),
        (
            f"[destinations.a]\n{PACS}objects = []",
            "destinations.a.objects: [] – expected at least one entry",
        ),
        (
            f'[destinations.a]\n{PACS}segmentation_type = "fraction"',
            'destinations.a.segmentation_type: "fraction" – expected binary or fractional or labelmap',
        ),
        (
            f"[destinations.a]\n{PACS}max_frames = -1",
            "destinations.a.max_frames: -1 – expected an integer 0–1000000",
        ),
        (f'[destinations."a b"]\n{PACS}', 'destinations."a b": "a b" – expected a name of 1–64 letters'),
        (
            '[destinations.a]\nhost = "localhost"\nport = 11112\nae_title = "A"',
            "destinations.a.port: 11112 – expected an archive, not this node",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_is_allowed(toml, problem):
    (found,) = problems_of(toml)

    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('use = "site_spleen"', 'pipelines.s.use: "site_spleen" – expected where the class is'),
        ('use = "site_splen:Spleen"', 'pipelines.s.use: "site_splen:Spleen" – expected a class that can be'),
        ('use = "site_spleen:Splen"', 'pipelines.s.use: "site_spleen:Splen" – expected a class that can be'),
        (
            'use = "site_broken:Spleen"',
            'pipelines.s.use: "site_broken:Spleen" – expected a class that can be',
        ),
        (
            'use = "site_spleen:NoDataclass"',
            'pipelines.s.use: "site_spleen:NoDataclass" – expected a dataclass',
        ),
        ("options = {}", "pipelines.s.options.organ: missing – Spleen needs it"),
        (
            'options = { organ = "x", treshold = 0.4 }',
            "pipelines.s.options.treshold: unknown key – did you mean threshold?",
        ),
        (
            'options = { organ = "x", threshold = "high" }',
            'pipelines.s.options.threshold: "high" – expected a number',
        ),
        (
            'options = { organ = "x", members = 1.5 }',
            "pipelines.s.options.members: 1.5 – expected an integer",
        ),
        ('options = { organ = "x", is_fast = 1 }', "pipelines.s.options.is_fast: 1 – expected true or false"),
        ('options = { organ = "x", threshold = 7 }', "pipelines.s.options: "),
        (
            'deliver_to = ["pcas"]',
            'pipelines.s.deliver_to[0]: "pcas" – expected a declared destination (pacs)',
        ),
        ("when = {}", "pipelines.s.when: {} – expected attribute = value"),
        ('when = { modalty = "CT" }', "pipelines.s.when.modalty: unknown attribute – did you mean modality?"),
        ('priority = "asap"', 'pipelines.s.priority: "asap" – expected stat or urgent or routine'),
    ],
)
def test_a_wrong_pipeline_is_named_with_its_key_and_what_is_allowed(entry, problem, spleen):
    good = {
        "use": '"site_spleen:Spleen"',
        "when": '{ modality = "CT" }',
        "options": '{ organ = "spleen" }',
    }
    key, _, value = entry.partition(" = ")
    lines = "\n".join(f"{name} = {written}" for name, written in (good | {key: value}).items())

    (found,) = problems_of(f"[pipelines.s]\n{lines}\n[destinations.pacs]\n{PACS}")

    assert found.startswith(problem)


def test_all_problems_of_a_file_are_reported_at_once(spleen):
    problems = problems_of("""
        colour = "blue"
        [receive]
        port = "abc"
        [receive.application_entities.A]
        pipelines = ["spleen"]
        [pipelines.s]
        use = "site_spleen:Spleen"
        when = { modalty = "CT", rows = { mim = 3 } }
        deliver_to = ["archive"]
        options = { organ = "x", treshold = 0.4 }
        [destinations.pacs]
        host = "pacs"
        port = 104
    """)

    assert [problem.split(":")[0] for problem in problems] == [
        "colour",
        "receive.port",
        "pipelines.s.when.modalty",
        "pipelines.s.when.rows.mim",
        "destinations.pacs.ae_title",
        "pipelines.s.deliver_to[0]",
        "receive.application_entities.A.pipelines[0]",
        "pipelines.s.options.treshold",
    ]


def test_a_destination_with_a_wrong_value_is_still_a_declared_destination():
    problems = problems_of("""
        [pipelines.s]
        use = "no colon"
        when = { modality = "CT" }
        deliver_to = ["pacs"]
        [destinations.pacs]
        host = "pacs"
        port = 0
        ae_title = "PACS"
    """)

    assert [problem.split(":")[0] for problem in problems] == ["pipelines.s.use", "destinations.pacs.port"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[receive]\nport 104", "line 2"),
        (b'data = "\xff"', "not a TOML file"),
        (b"a = 1\na = 2", "overwrite"),
    ],
)
def test_a_file_that_is_no_toml_is_one_problem_that_says_where(content, words, tmp_path):
    path = tmp_path / "sightline.toml"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        load(path)

    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: ")
    assert words in problem


def test_a_file_that_is_not_there_is_a_problem_in_words(tmp_path):
    path = tmp_path / "missing.toml"

    with pytest.raises(ConfigurationError, match="cannot be read – No such file"):
        load(path)


def test_what_can_be_used_of_a_bad_file_is_looked_at_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "sightline.toml"
    path.write_text(
        'data = 5\n[receive]\nport = 104\nhots = "x"\n'
        '[destinations.pacs]\nhost = "pacs"\nport = 105\nae_title = "PACS"\ntimeout_s = "soon"\n'
        '[destinations.other]\nhost = "other"\n'
    )

    configuration, problems = load_usable(path)

    assert [problem.partition(":")[0] for problem in problems] == [
        "data",
        "receive.hots",
        "destinations.pacs.timeout_s",
        "destinations.other.ae_title",
        "destinations.other.port",
    ]
    assert configuration.receive.port == 104
    assert list(configuration.destinations) == ["pacs"]
    assert configuration.destinations["pacs"].timeout_s == 30


def test_a_good_file_is_used_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "sightline.toml"
    path.write_text("[receive]\nport = 104\n")

    assert load_usable(path) == (load(path), [])
