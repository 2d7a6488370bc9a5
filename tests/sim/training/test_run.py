"""Training steps on RTL: all of memory equal to the golden machine's after each step, and what PyTorch computes."""

import dataclasses
from itertools import islice

import numpy as np
import pytest

from hwgen.arch import Arch, UserError, load
from hwgen.arch.isa import Dataflow, Engine, Opcode
from models.pattern import Pattern
from models.races import check_races
from models.tokens import check_tokens
from scheduler.training.lower import TrainingOptions
from sim.cycles import run_model
from sim.memory import MemoryModel
from sim.runner import build
from sim.training.digits_job import DigitsJob
from sim.training.run import run
from sim.training.train import GoldenTrainer, RtlTrainer, train

OPTIONS = TrainingOptions(loss_scale=256.0, decay=2e-4)
TINY = load("tiny")


def job(model: str, pattern: str, arch: Arch = TINY, **options) -> DigitsJob:
    chosen = TrainingOptions(**{**vars(OPTIONS), **options})
    return DigitsJob(model=model, arch=arch, pattern=Pattern.parse(pattern), epochs=1, options=chosen)


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("model", "pattern", "steps", "options"),
    [
        ("digits_mlp", "2:4", 3, {}),
        ("digits_mlp", "2:4", 1, {"pregenerate": False, "overlap": False}),
        ("digits_mlp", "2:4", 1, {"dataflow": "ws"}),
        ("digits_cnn", "2:8", 1, {}),
        ("digits_cnn", "2:8", 1, {"arch": load("sat16")}),  # enough banks for products in turns
    ],
)
def test_steps_on_rtl_equal_golden(model, pattern, steps, options):
    chosen = job(model, pattern, **options)
    program = chosen.program()
    golden = GoldenTrainer(program)
    rtl = RtlTrainer(program, build(chosen.arch), MemoryModel(stalls=0.1, seed=3))
    results = list(train(program, islice(chosen.batches(program), steps), golden=golden, rtl=rtl))
    rtl.close()
    assert [result.number for result in results] == list(range(steps))
    assert all(result.words == program.memory_size and result.cycles > 0 for result in results)


@pytest.mark.parametrize("pattern", ["dense", "2:4"])
def test_losses_are_those_of_pytorch(pattern):
    report = run(job("digits_mlp", pattern), rtl_steps=0, steps=12)
    np.testing.assert_allclose(report.losses, report.reference_losses, rtol=3e-3)
    assert report.accuracy is None
    assert report.reference_accuracy is None
    assert report.to_json()["losses"] == list(report.losses)


def test_pytorch_makes_no_more_steps_than_were_asked_for():
    long = dataclasses.replace(job("digits_mlp", "dense"), epochs=1_000_000)
    assert len(run(long, rtl_steps=0, steps=2).reference_losses) == 2


@pytest.mark.parametrize("dataflow", ["auto", "ws"])
def test_program_keeps_tokens_and_shared_words_in_order(dataflow):
    program = job("digits_mlp", "2:4", dataflow=dataflow).program()
    for code in (program.start, program.step):
        assert check_tokens(code.encode(), TINY) is None
        assert check_races(code.encode(), TINY) is None


def test_kept_tensors_round_trip_through_memory():
    chosen = job("digits_mlp", "2:4")
    program = chosen.program()
    read = program.read_kept(program.image())
    assert set(read) == set(program.graph.values)
    for name, values in program.graph.values.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)


def test_a_loss_that_is_no_number_names_step_and_tensor():
    chosen = job("digits_mlp", "dense")
    program = chosen.program()
    batches = ((batch, {**scalars, "lr": 1e30}) for batch, scalars in chosen.batches(program))
    with pytest.raises(UserError, match=r"^step [12]: the loss is (nan|inf); the first tensor with a value .* is \S+$"):
        list(train(program, islice(batches, 4), golden=GoldenTrainer(program)))


def test_layers_that_stay_dense_say_why():
    notes = job("digits_cnn", "2:16").program().places.notes
    assert notes == {
        "conv1.weight": "dense: it is the first layer",
        "conv2.weight": "dense: its 16 input channels are not a multiple of 32",
        "conv3.weight": "dense: 32 x 32 channels of 2:16 weights take 64 sums of each element, "
        "array.interleave_max is 16",
        "classifier.weight": "dense: it is the classifier",
    }


def test_too_little_memory_names_the_tensor():
    with pytest.raises(UserError, match=r"^external memory of 20,000 bytes is too small: \S+.* needs [\d,]+ bytes"):
        job("digits_mlp", "dense", memory_bytes=20_000).program()


def test_wrong_batches_are_refused():
    program = job("digits_mlp", "dense").program()
    with pytest.raises(UserError, match=r"^a batch has target, x, not x$"):
        program.write_batch(program.image(), {"x": np.zeros((16, 1, 1, 64), np.float32)})


@pytest.mark.parametrize("changes", [{"model": "resnet"}, {"batch": 0}, {"method": "none"}])
def test_jobs_refuse_what_they_cannot_do(changes):
    with pytest.raises(UserError):
        DigitsJob(**{"model": "digits_mlp", "arch": TINY, **changes})


def test_the_naive_schedule_has_one_dataflow_and_no_overlap():
    chosen = job("digits_mlp", "2:4")
    programs = [
        dataclasses.replace(chosen, options=options).program() for options in (chosen.options, chosen.options.naive())
    ]
    fast, naive = (run_model(TINY, item.step.encode(), address=item.step.address) for item in programs)
    assert naive.cycles > 1.3 * fast.cycles
    products = [item for item in programs[1].step.commands if item.opcode == Opcode.TENSOR]
    assert {item.dataflow for item in products} == {Dataflow.OUTPUT_STATIONARY}
    busy = sum(naive.counters[f"BUSY_{engine.name}"] for engine in Engine)
    assert busy <= naive.cycles


@pytest.mark.parametrize(("rtl_steps", "steps"), [(-1, None), (0, 0), (3, 2)])
def test_steps_that_make_no_sense_are_refused(rtl_steps, steps):
    with pytest.raises(UserError, match=r"^steps must be at least 1 and no fewer than those on RTL, not"):
        run(job("digits_mlp", "2:4"), rtl_steps=rtl_steps, steps=steps)
