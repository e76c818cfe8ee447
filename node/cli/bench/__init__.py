"""`sightline bench`: how fast the node is, each time beside a peer measured in the same run."""

import typer

from node.cli.bench.encoding import measure_encoding
from node.cli.bench.growth import measure_growth
from node.cli.bench.inference import measure_inference
from node.cli.bench.ingest import measure_ingest
from node.cli.bench.latency import measure_latency
from node.cli.bench.radiograph import measure_radiograph
from node.cli.bench.reading import measure_reading
from node.cli.bench.slide import measure_slide

app = typer.Typer(help="How fast the node is, beside a peer measured in the same run.", no_args_is_help=True)
app.command("encode")(measure_encoding)
app.command("growth")(measure_growth)
app.command("inference")(measure_inference)
app.command("radiograph")(measure_radiograph)
app.command("read")(measure_reading)
app.command("ingest")(measure_ingest)
app.command("latency")(measure_latency)
app.command("slide")(measure_slide)
