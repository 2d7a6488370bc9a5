"""The stages have room for the published workloads: 90 % of the larger floor and what the project asks for."""

import pytest

from hwgen.arch.attention import AttentionSizes
from models.attention_engine.budget import FULL_SIZE, Row, budget, encoder, main, read_trace

DENSE = [Row(64, 993, 993, 10, 10, False)]
DENSE_TOKEN = [Row(64, 998, 998, 10, 10, False)] * 144
CAPS = [(921, 184), (716, 143), *[(204, 40)] * 4, *[(102, 20)] * 6]
"""Keys and values of each layer of GPT-2-small in the published traces."""
PRUNED_TOKEN = [Row(64, keys, values, 6, 6, keys > 204) for keys, values in CAPS for _ in range(12)]


@pytest.mark.parametrize(
    ("rows", "sizes", "limit"),
    [
        (DENSE, AttentionSizes(), 2_900),
        (PRUNED_TOKEN, AttentionSizes(), 63_400),
        (DENSE_TOKEN, AttentionSizes(), 400_000),
        (PRUNED_TOKEN, FULL_SIZE, 8_300),
        (DENSE_TOKEN, FULL_SIZE, 51_200),
    ],
)
def test_limits(rows, sizes, limit):
    figures = budget(rows, sizes)
    assert figures["cycles"] <= limit
    assert max(figures["bus"], figures["keys"]) >= 0.9 * figures["cycles"] or rows is DENSE or sizes is FULL_SIZE


def test_floors_are_never_beaten():
    """Products of 64 elements a cycle and 64 bytes a cycle, counted by hand."""
    figures = budget(PRUNED_TOKEN, AttentionSizes())
    assert figures["keys"] >= sum(12 * keys * (1 + (keys > 204)) for keys, _ in CAPS)
    assert figures["bus"] >= sum(12 * (keys * (48 + 32 * (keys > 204)) + 48 * values) // 64 for keys, values in CAPS)
    assert figures["values"] == sum(12 * values for _, values in CAPS)


def test_a_slower_stage_is_seen():
    few = AttentionSizes(reads_in_flight=8)
    assert budget(DENSE, few)["cycles"] > budget(DENSE, AttentionSizes())["cycles"]
    assert budget(DENSE_TOKEN, AttentionSizes(multipliers=16))["cycles"] > 4 * 998 * 144


def test_traces_are_read(tmp_path):
    header = (
        "iteration_id,layer_id,head_id,embedding_length_D,sentence_length_L,key_fetch_num,quant_key_bit,"
        "quant_query_bit,auto_requant_thres,if_requant,auto_requant_incre,value_fetch_num,quant_value_bit"
    )
    lines = [
        "5,0,0,64.0,998,921,6,16,0.05,True,4,184,6",
        "6,0,0,64.0,999,999,-1,-1,-1,False,-1,999,-1",
        "note" + "," * 12,
    ]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([header, *lines]))
    assert read_trace(str(path), 5) == [Row(64, 921, 184, 6, 6, True)]
    assert read_trace(str(path), 6) == [Row(64, 999, 999, 10, 10, False)]
    assert len(read_trace(str(path))) == 2


@pytest.mark.parametrize(
    ("length", "head_size", "kept", "least"), [(128, 64, 64, 0.95), (512, 64, 512, 0.99), (64, 32, 32, 0.9)]
)
def test_encoders_keep_the_multipliers_busy(length, head_size, kept, least):
    figures = budget(encoder(12, length, head_size, kept), AttentionSizes())
    assert figures["keys"] == 12 * length * length * head_size // 64
    assert figures["keys"] >= least * figures["cycles"]


def test_figures_are_printed(capsys):
    main(["--encoder", "1", "16", "16", "16"])
    assert "16 rows, 64 + 64 multipliers: cycles" in capsys.readouterr().out
