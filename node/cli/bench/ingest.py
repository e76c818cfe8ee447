"""`sightline bench ingest`: how fast instances come in, beside DCMTK's storescp and Orthanc."""

import os
from pathlib import Path
from typing import Annotated

import typer

import node
from node.bench.ingest import Amounts, Case, bench_ingest
from node.bench.ingest_files import KINDS
from node.bench.ingest_receivers import ORTHANC, RECEIVERS, STORESCP
from node.cli.output import AsJson, Progression, complain, print_json, print_table, say
from node.errors import ConfigurationError
from node.index import Json

MIB = 1 << 20
COLUMNS = ("instances", "assoc.", "receiver", "1/s", "MB/s", "× storescp", "× Orthanc", "MiB per assoc.")


def measure_ingest(
    kinds: Annotated[list[str] | None, typer.Option("--kind", help=f"Of {', '.join(KINDS)}; all.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the figures are medians.")] = 5,
    share: Annotated[float, typer.Option(min=0.001, max=10, help="Of 500, 40 and 4 instances.")] = 1.0,
    receivers: Annotated[
        list[str] | None, typer.Option("--receiver", help=f"Of {', '.join(RECEIVERS)}; all.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="On the disk to measure.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Receive instances of 0.5, 10 and 200 MB on 1 and 4 associations: node, DCMTK's storescp and Orthanc.

    The node and Orthanc sync what they acknowledge, storescp and "node unsynced" do not. storescp and Orthanc
    run with their defaults.
    """
    amounts = Amounts(
        kinds=_known(kinds, tuple(KINDS), "--kind"),
        rounds=rounds,
        share=share,
        receivers=_known(receivers, RECEIVERS, "--receiver"),
    )
    load_before = os.getloadavg()[0]
    runs = len(amounts.kinds) * len(amounts.associations) * (rounds + 1) * len(amounts.receivers)
    try:
        with Progression("received", runs) as progress:
            cases = bench_ingest(amounts, folder, progress.advance)
    except ConfigurationError as error:
        complain(error.problems)
        raise typer.Exit(2) from error
    if as_json:
        print_json(_account(cases, rounds, load_before))
    else:
        _show(cases, rounds, load_before)


def _known(chosen: list[str] | None, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    for one in chosen or ():
        if one not in known:
            raise typer.BadParameter(f"{one} is none of {', '.join(known)}", param_hint=option)
    return tuple(chosen or known)


def _account(cases: list[Case], rounds: int, load_before: float) -> Json:
    return {
        "benchmark": "ingest",
        "node_version": node.__version__,
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "rounds": rounds,
        "cases": [_describe(case, receiver) for case in cases for receiver in case.rates_by_receiver],
    }


def _describe(case: Case, receiver: str) -> Json:
    kind = KINDS[case.kind]
    ratios = {peer: case.ratio(receiver, peer) for peer in (STORESCP, ORTHANC)}
    return {
        "kind": case.kind,
        "bytes": kind.size_bytes,
        "associations": case.associations,
        "count": case.count,
        "receiver": receiver,
        "instances_per_s": round(case.rate(receiver), 2),
        "all_instances_per_s": [round(rate, 2) for rate in case.rates_by_receiver[receiver]],
        "times": {peer: round(ratio, 4) for peer, ratio in ratios.items() if ratio is not None},
        "memory_per_association_bytes": int(case.memory_per_association(receiver)),
    }


def _show(cases: list[Case], rounds: int, load_before: float) -> None:
    print_table(COLUMNS, [_row(case, receiver) for case in cases for receiver in case.rates_by_receiver])
    say(
        f"\nMedians of {rounds} rounds in turns on {os.cpu_count()} cores, load {load_before:.1f} before; "
        "sender: storescu.\nMemory is what a receiver's processes grew by."
    )


def _row(case: Case, receiver: str) -> list[str]:
    kind, rate = KINDS[case.kind], case.rate(receiver)
    ratios = [case.ratio(receiver, peer) for peer in (STORESCP, ORTHANC)]
    return [
        kind.title,
        str(case.associations),
        receiver,
        f"{rate:.1f}",
        f"{rate * kind.size_bytes / 1e6:.0f}",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{case.memory_per_association(receiver) / MIB:.1f}",
    ]
