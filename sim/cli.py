"""The command `sparseloom`: a thin face over what `sim` does.

Results go to standard output, progress and errors to standard error. Exit codes: 0 all went well; 1 the hardware's run
failed or differs from the golden machine; 2 something that the user gave is wrong (one sentence says what).
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hwgen.arch import Arch, UserError, load, preset_names
from sim.console import print_error, print_json, progress, standard_output
from sim.device import SimulationError
from sim.verilate import BuildError

app = typer.Typer(
    name="sparseloom",
    help="PyTorch model + architecture -> Verilog of a sparse accelerator, its program, and a checked run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
ArchOption = Annotated[str, typer.Option("--arch", metavar="NAME|FILE", help="Preset, or path of a .yaml file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the files.")]
StallsOption = Annotated[float, typer.Option(metavar="P", help="Chance that a memory channel stalls in a cycle.")]
SparsityOption = Annotated[str, typer.Option(metavar="N:M|dense", help="Weights kept of each group.")]
# Of the commands that prune attention:
LayersOption = Annotated[int | None, typer.Option(metavar="K", help="The first K layers; default: all.")]
TokensOption = Annotated[float, typer.Option(metavar="R", help="Tokens that the last layer keeps.")]
HeadsOption = Annotated[str, typer.Option(metavar="R|COUNT", help="Heads that the last layer keeps.")]
ValuesOption = Annotated[float, typer.Option(metavar="R", help="Values that each row fetches.")]
BitsOption = Annotated[str, typer.Option(metavar="16|MSB+LSB", help="Bits of keys and values, such as 6+4.")]
ThresholdOption = Annotated[
    float | None, typer.Option(metavar="P", help="LSBs for rows without a probability of P; default 0.1.")
]
BackendOption = Annotated[
    str, typer.Option(metavar="rtl|golden", help="golden: golden machine and cycle model, without RTL.")
]


def main() -> None:
    """Entry point: turns errors that users can cause into one sentence and exit code 2."""
    try:
        app()
    except UserError as error:
        print_error(str(error))
        sys.exit(2)
    except BuildError as error:
        print_error(str(error))
        sys.exit(2)
    except SimulationError as error:
        print_error(str(error))
        sys.exit(1)


@app.command()
def generate(
    arch: ArchOption,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the files.")],
    as_json: JsonOption = False,
) -> None:
    """Write the Verilog of an accelerator, its register map and a resource report."""
    # Commands import what they need: the architecture list must not wait for Amaranth or PyTorch.
    from sim.generate import FILES
    from sim.generate import generate as run
    from sim.resources import print_resources

    description = load(arch)
    with progress() as report:
        resources = run(description, output, progress=report)
    if as_json:
        print_json({"arch": description.name, "folder": str(output), "files": list(FILES), "resources": resources})
        return
    with standard_output() as console:
        print_resources(resources, console)
        for name, meaning in FILES.items():
            console.print(f"{escape(str(output / name))}: {meaning}")


@app.command()
def arch(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE]", help="Preset or .yaml file to show.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the preset architectures, or show one with every setting."""
    from sim.generate import arch_data, arch_yaml

    if name is None:
        presets = [load(preset) for preset in preset_names()]
        if as_json:
            print_json([arch_data(preset) for preset in presets])
            return
        with standard_output() as console:
            console.print(_arch_table(presets))
        return
    description = load(name)
    if as_json:
        print_json(arch_data(description))
        return
    with standard_output() as console:
        console.print(arch_yaml(description), markup=False, highlight=False, end="")


@app.command()
def zoo(as_json: JsonOption = False) -> None:
    """List the models that `simulate` knows by name."""
    from models.zoo import names

    models = names()
    if as_json:
        print_json(models)
        return
    with standard_output() as console:
        table = Table("name", "model (settings and their defaults)")
        for name, text in models.items():
            table.add_row(name, escape(text))
        console.print(table)


@app.command()
def simulate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Zoo name, file.py:function, or file.pt2.")],
    arch: ArchOption,
    sparsity: SparsityOption = "dense",
    dataflow: Annotated[str, typer.Option(metavar="auto|os|ws", help="Output or weight stationary.")] = "auto",
    backend: Annotated[str, typer.Option(metavar="rtl", help="What runs the program: the Verilated design.")] = "rtl",
    batch: Annotated[int | None, typer.Option(help="Batch size of a zoo model.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Parameters, .safetensors.")] = None,
    output: OutputOption = None,
    waveform: Annotated[str | None, typer.Option(metavar="A:B", help="Record cycles A to B; needs -o.")] = None,
    stalls: StallsOption = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of weights, inputs and stalls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a model on the Verilated accelerator and compare every word with the golden machine."""
    from sim.job import SimulateJob, run_job
    from sim.report import print_report

    job = SimulateJob(model, arch, sparsity, dataflow, backend, batch, weights, output, waveform, stalls, seed)
    with progress() as report:
        result = run_job(job, progress=report)
    _show(result, print_report, as_json)
    if result.comparison is None or not result.comparison.equal:
        sys.exit(1)


@app.command()
def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="digits_cnn, digits_mlp, or file.py:function.")],
    arch: ArchOption = "sat8",
    sparsity: SparsityOption = "2:8",
    method: Annotated[str, typer.Option(metavar="bdwp|srste", help="Which products are N:M.")] = "bdwp",
    rtl_steps: Annotated[int, typer.Option(help="First steps that run on the Verilated design too.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Steps in all; default: all epochs.")] = None,
    epochs: Annotated[int, typer.Option(help="Epochs that the learning rate is planned for.")] = 8,
    batch: Annotated[int, typer.Option(help="Images of a step.")] = 16,
    stalls: StallsOption = 0.0,
    dataflow: Annotated[str, typer.Option(metavar="auto|os|ws", help="Output or weight stationary.")] = "auto",
    naive: Annotated[bool, typer.Option("--naive", help="One dataflow, no overlap of engines.")] = False,
    output: OutputOption = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and stalls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a network on handwritten digits, on the Verilated accelerator, the golden machine, and in PyTorch."""
    from models.pattern import Pattern
    from scheduler.training.lower import TrainingOptions
    from sim.memory import MemoryModel
    from sim.training.digits_job import DigitsJob
    from sim.training.run import print_training, run

    options = TrainingOptions(loss_scale=256.0, decay=2e-4, dataflow=dataflow)
    job = DigitsJob(
        model=model,
        arch=load(arch),
        pattern=Pattern.parse(sparsity),
        method=method,
        batch=batch,
        epochs=epochs,
        seed=seed,
        options=options.naive() if naive else options,
    )
    memory = MemoryModel(stalls=stalls, seed=seed)
    with progress() as report:
        result = run(job, rtl_steps=rtl_steps, steps=steps, memory=memory, folder=output, progress=report)
    _show(result, print_training, as_json)


@app.command()
def encode(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="minilm, or file.py:function.")],
    arch: ArchOption,
    layers: LayersOption = None,
    text: Annotated[str | None, typer.Option(help="What minilm reads.")] = None,
    tokens: TokensOption = 1.0,
    heads: HeadsOption = "1.0",
    values: ValuesOption = 1.0,
    bits: BitsOption = "16",
    threshold: ThresholdOption = None,
    sparsity: SparsityOption = "dense",
    backend: BackendOption = "rtl",
    output: OutputOption = None,
    stalls: StallsOption = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the function and of stalls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a transformer with pruned attention and compare every word with the golden machine, cycles with the model."""
    from sim.attention.encode_job import EncodeJob, run_job
    from sim.attention.encode_report import print_encode

    options = {"layers": layers, "text": text, "tokens": tokens, "heads": heads, "values": values, "bits": bits}
    options |= {"threshold": threshold, "sparsity": sparsity, "backend": backend, "output": output}
    job = EncodeJob(model=model, arch=arch, **options, stalls=stalls, seed=seed)
    _run_checked(partial(run_job, job), print_encode, as_json)


@app.command()
def decode(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="gpt2_random (small, random weights), or file.py:function.")
    ],
    arch: ArchOption,
    new_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens that are run after the prompt.")] = 4,
    layers: LayersOption = None,
    text: Annotated[str | None, typer.Option(help="The prompt of gpt2_random.")] = None,
    tokens: TokensOption = 1.0,
    recent: Annotated[int, typer.Option(metavar="K", help="The last K tokens are not pruned.")] = 1,
    forgetting: Annotated[
        float, typer.Option(metavar="F", help="Factor on the importance of tokens before each new one.")
    ] = 1.0,
    heads: HeadsOption = "1.0",
    values: ValuesOption = 1.0,
    bits: BitsOption = "16",
    threshold: ThresholdOption = None,
    sparsity: SparsityOption = "dense",
    backend: BackendOption = "rtl",
    output: OutputOption = None,
    stalls: StallsOption = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of random weights and of stalls.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run a decoder's prompt and the tokens that it chooses after it, each run compared as in `encode`."""
    from sim.attention.decode_job import DecodeJob, run_job
    from sim.attention.decode_report import print_decode

    options = {"layers": layers, "text": text, "tokens": tokens, "heads": heads, "values": values, "bits": bits}
    options |= {"threshold": threshold, "sparsity": sparsity, "backend": backend, "output": output}
    options |= {"new_tokens": new_tokens, "recent": recent, "forgetting": forgetting}
    job = DecodeJob(model=model, arch=arch, **options, stalls=stalls, seed=seed)
    _run_checked(partial(run_job, job), print_decode, as_json)


def _run_checked(run: Callable[..., Any], tables: Callable[[Any, Console], None], as_json: bool) -> None:
    """Run a job and show its report; exit code 1 if memory differs from the golden machine's."""
    with progress() as report:
        result = run(progress=report)
    _show(result, tables, as_json)
    if result.comparison is not None and not result.comparison.equal:
        sys.exit(1)


def _show(result: Any, tables: Callable[[Any, Console], None], as_json: bool) -> None:
    """A report as one JSON document or as `tables` print it."""
    if as_json:
        print_json(result.to_json())
        return
    with standard_output() as console:
        tables(result, console)


def _arch_table(presets: list[Arch]) -> Table:
    from sim.resources import scratchpad_bits

    table = Table("name", "array", "lanes", "operand", "multipliers", "scratchpads (KiB)", "memory port", "clock")
    for item in presets:
        array, kibibytes = item.array, sum(scratchpad_bits(item).values()) // 8192
        table.add_row(
            *(item.name, f"{array.rows} x {array.cols}", str(array.lanes), array.operand, f"{item.macs:,}"),
            *(f"{kibibytes:,}", f"{item.memory.data_bits} bits", f"{item.clock_mhz} MHz"),
        )
    return table
