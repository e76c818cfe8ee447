"""`sightline models`: the model repository, and what a Triton server has of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from node.cli.output import AsJson, ConfigurationFile, print_json, print_table, say
from node.config import load
from node.engines.repository import ModelConfig, ModelRepository
from node.engines.triton import TritonEngine
from node.errors import ConfigurationError, ModelError, TransientError
from node.index import Json
from node.parts import build_triton_engine
from node.settings import EngineSettings

TRITON = "triton"
SHOWN_TENSORS = 3

app = typer.Typer(help="The model repository, and what a server has of it.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's folder in the repository.")]


@app.command("list")
def list_models(config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """List the models of the repository: version, members, what they take and give, state on the server."""
    settings = load(config).engine
    repository, states = ModelRepository(settings.repository), _states(settings)
    models = [_describe(repository, name, states) for name in repository.names()]
    if as_json:
        print_json({"models": models})
        return
    columns = ("model", "version", "batch", "in → out", "server")
    print_table(columns, [_row(model) for model in models])


@app.command("show")
def show_model(name: Name, config: ConfigurationFile = None, as_json: AsJson = False) -> None:
    """Show the card of one model, and its tensors."""
    repository = ModelRepository(load(config).engine.repository)
    described = _describe(repository, name, {})
    document = repository.card_document(name)
    if as_json:
        print_json({"model": described, "card": document})
        return
    for key in ("name", "version", "intended_use", "notice", "exported", "part_of", "sha256"):
        if key in document:
            say(f"{key:14} {document[key]}")
    for kind in ("inputs", "outputs"):
        say("")
        rows = [(one["name"], one["shape"], one["type"]) for one in described[kind]]
        print_table((kind, "shape of one item", "type"), rows)
    weights = [(entry["model"], entry["sha256"]) for entry in document.get("weights", [])]
    if weights:
        say("")
        print_table(("made of", "sha256"), weights)


@app.command("load")
def load_model(name: Name, config: ConfigurationFile = None) -> None:
    """Have the Triton server load a model and its members, from its files as they are now; and try it."""
    with _server(load(config).engine) as engine:
        engine.load(name)
        engine.check(name)
    say(f"{name} is loaded, and answers")


@app.command("unload")
def unload_model(name: Name, config: ConfigurationFile = None) -> None:
    """Have the Triton server unload a model; requests under way are finished."""
    with _server(load(config).engine) as engine:
        engine.unload(name)
    say(f"{name} is unloaded")


@contextmanager
def _server(settings: EngineSettings) -> Iterator[TritonEngine]:
    if settings.kind != TRITON:
        raise ConfigurationError(
            [f'engine.kind: "{settings.kind}" – models are loaded on a "{TRITON}" server']
        )
    engine = build_triton_engine(settings)
    try:
        yield engine
    finally:
        engine.close()


def _states(settings: EngineSettings) -> dict[str, str]:
    """Return each model's state on the server; of one that does not answer why, as that of the model "*"."""
    if settings.kind != TRITON:
        return {}
    with _server(settings) as engine:
        try:
            return {name: state or "not loaded" for name, state in engine.state_by_model().items()}
        except TransientError as error:
            return {"*": str(error)}


def _describe(repository: ModelRepository, name: str, states: dict[str, str]) -> Json:
    """Return a model in plain values; one that is damaged says so."""
    try:
        config, document = repository.config(name), repository.card_document(name)
    except ModelError as error:
        return {"name": name, "problem": error.message}
    return {
        "name": name,
        "version": str(document.get("version", "")),
        "folder": repository.version(name),
        "members": list(config.networks) if config.is_ensemble else [],
        "max_batch_size": config.max_batch_size,
        **_tensors(config),
        "server": states.get(name, states.get("*", "")),
    }


def _tensors(config: ModelConfig) -> Json:
    return {
        kind: [{"name": one.name, "shape": list(one.shape), "type": one.dtype.__name__} for one in tensors]
        for kind, tensors in (("inputs", config.inputs), ("outputs", config.outputs))
    }


def _row(model: Json) -> list[str]:
    if "problem" in model:
        return [model["name"], "", "", model["problem"], ""]
    sides = [_first([one["name"] for one in model[kind]]) for kind in ("inputs", "outputs")]
    return [model["name"], model["version"], str(model["max_batch_size"]), " → ".join(sides), model["server"]]


def _first(names: list[str]) -> str:
    """Return the first names, and how many there are in all: a combining model has dozens."""
    more = f" … ({len(names)})" if len(names) > SHOWN_TENSORS else ""
    return ", ".join(names[:SHOWN_TENSORS]) + more
