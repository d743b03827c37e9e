"""Benchmarks compare variants. The tests check what is reported, never how fast something is."""

import json

import pytest
import torch

from acestep.adapters.files import inject
from acestep.benchmark.counters import OperationCounter, flop_counter
from acestep.benchmark.plain_preprocess import preprocess_plainly
from acestep.benchmark.plain_step import PlainModel
from acestep.benchmark.preprocess import bench_preprocessing
from acestep.benchmark.silent_context import SilentContext
from acestep.benchmark.train import bench_training
from acestep.cli.app import main
from acestep.core.errors import ConfigError
from acestep.models.load import load_dit
from acestep.preprocessing.builder import preprocess_job
from acestep.preprocessing.configs import PreprocessJob
from acestep.tensors.record import read_record
from acestep.training.data import collate
from acestep.training.flow_matching import FlowMatching
from acestep.training.prepare import prepare
from tests.songs import write_song
from tests.training.runs import make_job
from tests.training.songs import write_samples


@pytest.fixture
def job(tmp_path, tiny_checkpoint):
    tensors = write_samples(tmp_path / "tensors", tiny_checkpoint, [(20, 6), (24, 8), (16, 4)])

    def make(**settings):
        job = make_job(tensors, tiny_checkpoint, tmp_path / "out", **settings)
        job.training.gradient_accumulation_steps = 1
        return job

    return make


def test_training_variants_alternate_and_are_compared_with_the_first(job, tmp_path):
    turns = []
    speeds = bench_training({"one": job(), "two": job(batch_size=2)}, steps=3, rounds=2, on_round=turns.append)
    assert [turn.rpartition(" ")[2] for turn in turns] == ["one", "two", "one", "two"]
    assert [speed.name for speed in speeds] == ["one", "two"]
    for speed, samples in zip(speeds, (1, 2), strict=True):
        assert speed.songs_per_hour == pytest.approx(3600 * samples / speed.median_s)
        assert speed.ratio == pytest.approx(speed.songs_per_hour / speeds[0].songs_per_hour)
    assert not (tmp_path / "out").exists()


def test_a_dataset_smaller_than_an_optimizer_step_is_rejected(job):
    wide = job(batch_size=3)
    wide.training.gradient_accumulation_steps = 2
    with pytest.raises(ConfigError, match="3 samples do not fill an optimizer step of 6"):
        bench_training({"wide": wide}, steps=1, rounds=1, on_round=print)


def test_preprocessing_is_timed_and_its_tensors_are_discarded(tmp_path, tiny_checkpoint):
    write_song(tmp_path / "songs" / "a.wav", 1.0, seed=1)
    (tmp_path / "songs" / "a.caption.txt").write_text("a calm piece")
    job = PreprocessJob(source=tmp_path / "songs", checkpoint=str(tiny_checkpoint), out=tmp_path / "out", device="cpu")
    speeds = bench_preprocessing({"as given": job, "plain": job}, rounds=1, on_round=lambda text: None)
    assert [speed.songs_per_hour == pytest.approx(3600 / speed.median_s) for speed in speeds] == [True, True]
    assert not (tmp_path / "out").exists()


def test_the_plain_loop_writes_the_same_tensors(tmp_path, tiny_checkpoint):
    write_song(tmp_path / "songs" / "a.wav", 1.0, seed=1)
    (tmp_path / "songs" / "a.caption.txt").write_text("a calm piece")
    job = PreprocessJob(source=tmp_path / "songs", checkpoint=str(tiny_checkpoint), out=tmp_path / "ours", device="cpu")
    preprocess_job(job, SilentContext(tmp_path))
    plain = job.model_copy(update={"out": tmp_path / "plain"})
    assert preprocess_plainly(plain) == 1
    [ours], [other] = (sorted(folder.glob("*.pt")) for folder in (job.out, plain.out))
    expected = read_record(ours).tensors()
    for name, tensor in read_record(other).tensors().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=1e-4)


def test_the_plain_step_computes_the_same_losses_and_gradients(tmp_path, tiny_checkpoint):
    tensors = write_samples(tmp_path / "tensors", tiny_checkpoint, [(600, 6), (600, 6)])  # longer than the window
    settings = {"lora__dropout": 0, "max_latent_length": 0, "attention_type": "both"}
    job = make_job(tensors, tiny_checkpoint, tmp_path / "out", **settings)
    prepared = prepare(job, SilentContext(tmp_path))
    plain = PlainModel(prepared)
    adapter = inject(load_dit(prepared.checkpoint), "lora", job.lora, "both", False, seed=1)
    weights = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for ours, other in zip(adapter.parameters(), weights, strict=True):
        assert ours.shape == other.shape
        ours.data.normal_(0, 0.1, generator=generator)
        other.data.copy_(ours.data)
    batch = collate([prepared.example_sampler(sample, 0) for sample in prepared.samples])
    model = FlowMatching(adapter.network, plain.null_condition).train()
    losses, expected = model(batch), plain.train()(batch)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    losses.sum().backward(), expected.sum().backward()
    for ours, other in zip(adapter.parameters(), weights, strict=True):
        assert other.grad.norm() > 0
        torch.testing.assert_close(ours.grad, other.grad, atol=1e-5 * other.grad.abs().max().item(), rtol=1e-5)


def test_seeded_weights_are_measured_against_the_plain_step(capsys):
    command = "bench train --size tiny --frames 8 --unequal --steps 1 --rounds 1 --against plain --json"
    settings = ["--set", "batch_size=2", "--set", "attention_type=cross"]
    assert main([*command.split(), *settings]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["ok"] is True
    ours, plain = result["variants"]
    assert (ours["name"], plain["name"]) == ("as given", "plain")
    assert plain["ratio"] == pytest.approx(ours["median_s"] / plain["median_s"])
    assert ours["speedup"] == pytest.approx(1 / plain["ratio"])
    assert {"median_s", "songs_per_hour", "ratio", "peak_gb"} <= set(ours)
    assert ours["host_waits"] == 1  # the losses and the gradient norm at once
    for speed in (ours, plain):
        assert speed["dispatches"] > 100
        assert 0 < speed["flop_utilization"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either a tensor folder and --checkpoint, or --size"),
        (["--size", "tiny", "--checkpoint", "acestep-v15-turbo"], "either a tensor folder"),
        (["--size", "tiny", "--against", "plain", "--set", "optimizer_type=prodigy"], "optimizer_type=adamw"),
    ],
)
def test_what_cannot_be_measured_is_rejected(capsys, arguments, message):
    assert main(["bench", "train", *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["generate --size tiny --set duration_s=1 --set steps=1 --against plain", "load --size tiny --against plain"],
)
def test_generation_and_loading_are_compared_with_diffusers(capsys, command):
    assert main(["bench", *command.split(), "--rounds", "1", "--device", "cpu", "--json"]) == 0
    ours, plain = json.loads(capsys.readouterr().out.splitlines()[-1])["variants"]
    assert (ours["name"], plain["name"]) == ("as given", "plain")
    assert ours["speedup"] == pytest.approx(plain["median_s"] / ours["median_s"])


def test_operations_and_reads_are_counted():
    with OperationCounter(torch.device("cpu")) as counter:
        values = torch.ones(3) + 1
        values.tolist(), values[0].item()
        with counter.paused():
            values.sum().item()
    assert counter.host_reads == 2
    assert 4 <= counter.dispatches <= 6  # ones, add, select, item


def test_attention_with_fewer_key_heads_is_counted():
    query, key = torch.ones(1, 4, 8, 16, requires_grad=True), torch.ones(1, 2, 8, 16)
    with flop_counter() as flops:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=True).sum().backward()
    assert flops.get_total_flops() == 3 * 2 * (4 * 8 * 8) * (16 + 16)
