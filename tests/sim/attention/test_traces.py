"""Published attention workloads: the traces, and the cycles that the table of results claims."""

import json
from itertools import pairwise

import numpy as np
import pytest

from sim.attention.block import AttentionBlock
from sim.attention.model import run_jobs
from sim.attention.reads import port_share
from sim.attention.trace_data import run_layers
from sim.attention.trace_jobs import dense_layer, job_fields, made_up_job, pruned_layers
from sim.attention.traces import (
    LATENCY,
    RESULTS,
    SEED,
    SIZES,
    full_size,
    full_table,
    modelled,
    table,
    within_limits,
    workloads,
)


def test_trace_of_pruned_tokens():
    """32 tokens of 12 layers; no layer has more keys than the one before, a fifth of the values is kept."""
    layers = list(pruned_layers())
    assert [token for token, _ in layers] == [token for token in range(32) for _ in range(12)]
    for (token, layer), (following, deeper) in pairwise(layers):
        assert layer.values == {993: 204, 921: 184, 716: 143, 204: 40, 102: 20}[layer.keys]
        assert token != following or deeper.keys <= layer.keys
    token = [layer for number, layer in layers if number == 5]
    assert [layer.keys for layer in token] == [921, 716, *[204] * 4, *[102] * 6]
    assert [layer.low_heads.bit_count() for layer in token] == [12, 12] + [0] * 10


def test_made_up_rows_do_what_the_trace_says():
    layer = next(layer for _, layer in pruned_layers())
    job = made_up_job(layer, SIZES, np.random.default_rng(0))
    assert [len(row.kept) for row in job.rows] == [layer.values] * 12
    assert all(row.low and 1 <= len(row.passes) <= 3 for row in job.rows)
    assert made_up_job(dense_layer(0), SIZES, np.random.default_rng(0)).rows[0].kept == ()


@pytest.mark.parametrize("number", range(3))
def test_cycles_are_those_of_the_results_and_within_limits(number):
    workload = workloads()[number]
    (row,) = [
        row for row in json.loads((RESULTS / "attention_traces.json").read_text()) if row["workload"] == workload.name
    ]
    found = modelled(workload.layers)
    assert row | vars(found) == row
    assert "full_size" not in row or row["full_size"] == full_size(workload)
    assert found.cycles <= workload.limit < workload.published


@pytest.mark.parametrize("latency", [40, 120])
def test_dense_decoding_has_nine_tenths_of_the_port(latency):
    """As `vcu1525` comes, also behind a memory that is far."""
    jobs = run_jobs(SIZES, [made_up_job(dense_layer(0), SIZES, np.random.default_rng(0))] * 3, latency=latency)
    beats = sum(job.read_beats + job.write_beats for job in jobs)
    assert beats > 0.9 * sum(job.cycles for job in jobs)


@pytest.mark.parametrize(("reads", "latency"), [(64, 60), (128, 200)])
def test_shares_of_the_port_are_those_of_the_results(reads, latency):
    rows = json.loads((RESULTS / "attention_reads.json").read_text())
    (row,) = [row for row in rows if (row["workload"], row["latency"]) == ("dense query", latency)]
    assert port_share(workloads()[0], reads, latency) == row["reads_in_flight"][str(reads)]


def test_the_table_shows_every_workload():
    rows = json.loads((RESULTS / "attention_traces.json").read_text())
    assert [row["workload"] for row in rows] == [workload.name for workload in workloads()]
    assert all(within_limits(row) for row in rows)
    assert (table(rows).row_count, full_table(rows).row_count) == (len(rows), 2)


@pytest.mark.slow
@pytest.mark.verilator
def test_layers_on_rtl():
    """A dense query, and a layer of the pruned token: outputs are golden's, cycles the model's."""
    block = AttentionBlock(SIZES, "attention_traces")
    pruned = [layer for number, layer in pruned_layers() if number == 5][-1]
    for run in run_layers(block, [dense_layer(0, heads=1), pruned], SEED, LATENCY):
        assert run.rtl == run.model


def test_jobs_have_places_of_their_own():
    layer = dense_layer(31)
    places = [job_fields(layer, SIZES, number)[f"{name}_addr"] for number in (0, 1) for name in ("q", "k", "v", "out")]
    assert len(set(places)) == len(places)
    assert job_fields(layer, SIZES)["k_stride"] >= layer.keys * 80
