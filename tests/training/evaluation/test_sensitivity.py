"""How much songs pull at each weight, and what follows for the ranks."""

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from acestep.adapters.configs import ADAPTERS, LoRAConfig
from acestep.adapters.files import find_adapter, inject
from acestep.adapters.memory import numel
from acestep.core.errors import AdapterError, ConfigError, JobCancelled
from acestep.core.events import Finished, Progressed
from acestep.core.jobs import run_job, write_job
from acestep.models.checkpoint import find_checkpoint
from acestep.models.load import load_dit, load_null_condition
from acestep.tensors.manifest import read_manifest
from acestep.training.data import ExampleSampler, collate, sorted_by_hash
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.evaluation.sensitivity import by_layer, estimate_job, gradient_norms, propose_ranks
from acestep.training.flow_matching import FlowMatching
from acestep.training.memory.spec import memory_spec
from acestep.training.parsing import train_job_from_flags
from acestep.training.prepare import read_samples
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import SETTINGS, Unstoppable, of_kind, run, tensors_for

KINDS_WITH_RANKS = [entry.name for entry in ADAPTERS if entry.has_ranks]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(24, 5), (17, 7)])


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    (tmp_path / "found").mkdir()

    def make(**settings):
        place = {"tensor_dir": tensors, "checkpoint": str(tiny_checkpoint), "out": tmp_path / "found", "device": "cpu"}
        return EstimateJob(**{**place, "max_latent_length": 12, "batches": 3, **settings})

    return make


def test_modules_are_ranked_by_their_gradient_norms(job, tiny_checkpoint):
    config = job(batches=1, granularity="module", attention_type="self", top_k=100)
    write_job(config.folder, "estimate", config)
    last = run_job(config.folder)
    assert isinstance(last, Finished), last
    ranked = json.loads((config.folder / "sensitivity.json").read_text())
    assert last.result["top"] == ranked
    assert [place["raw_norm"] for place in ranked] == sorted((p["raw_norm"] for p in ranked), reverse=True)
    assert ranked[0]["score"] == 1.0
    assert all(0 < place["score"] <= 1 for place in ranked)
    decoder = load_dit(tiny_checkpoint)
    sample = sorted_by_hash(read_samples(read_manifest(config.tensor_dir), Unstoppable(config.folder)), 42)[0]
    draw = ExampleSampler(seed=42, max_frames=12, mu=-0.4, sigma=1.0, cfg_dropout=0.0, weight=lambda t: 1.0)
    weight = decoder.layers[0].self_attn.to_q.weight.requires_grad_(True)
    loss = FlowMatching(decoder, load_null_condition(tiny_checkpoint))(collate([draw(sample, 0)])).sum()
    wanted = float(torch.autograd.grad(loss, weight)[0].norm())
    found = {place["module"]: place["raw_norm"] for place in ranked}
    assert found["layers.0.self_attn.q_proj"] == pytest.approx(wanted, rel=1e-3)
    assert len(found) == 4 * len(decoder.layers)


def test_layer_scores_are_means_and_small_datasets_are_repeated(job):
    estimate_job(config := job(), context := Unstoppable(job().folder))
    ranked = json.loads((config.folder / "sensitivity.json").read_text())
    assert {place["module"].rpartition(".")[2] for place in ranked} == {"self_attn", "cross_attn"}
    notes = [event.note for event in of_kind(context.events, Progressed)]
    assert len(notes) == 3
    assert notes[2] == notes[0] != notes[1]
    again = estimate_job(job(), Unstoppable(job().folder))
    assert again["top"] == ranked
    assert by_layer({"layers.0.mlp.up_proj": 1.0, "layers.0.mlp.down_proj": 3.0}) == {"layers.0.mlp": 2.0}


SIZES = {"lora": ".lora_A.weight", "dora": ".lora_A.weight", "loha": ".hada_w1_b"}  # [rank, in] in the file


@pytest.mark.parametrize("kind", KINDS_WITH_RANKS)
def test_the_proposed_ranks_are_trained_with(kind, job, tensors, tiny_checkpoint, tmp_path):
    asked = job(attention_type="cross", train_mlp=True, rank=4, adapter_type=kind)
    estimate_job(asked, Unstoppable(asked.folder))
    flags = {"tensor_dir": tensors, "checkpoint": str(tiny_checkpoint), "out": tmp_path / "run", "device": "cpu"}
    settings = [f"{key}={value}" for key, value in SETTINGS.items() if key not in ("attention_type", "lora.r")]
    train = train_job_from_flags(flags, asked.folder / "ranks.json", [*settings, "max_steps=2", "save_every_n_steps=1"])
    training, adapter = train.training, train.adapter
    assert (training.adapter_type, training.attention_type, training.train_mlp) == (kind, "cross", True)
    with pytest.raises(JobCancelled):
        run(train, stop_when=(train.out / "checkpoints").exists)
    result, _ = run(train.model_copy(update={"resume": "auto"}))
    assert result["steps"] == 2
    weights = load_file(find_adapter(RunFolder(train.out).final))
    ranks = {
        key.removeprefix("base_model.model.").removesuffix(SIZES[kind]): value.shape[0]
        for key, value in weights.items()
        if key.endswith(SIZES[kind])
    }
    assert ranks == adapter.ranks
    assert len(set(ranks.values())) > 1
    assert sum(ranks.values()) / len(ranks) == pytest.approx(4, abs=0.5)
    passes = memory_spec(find_checkpoint(tiny_checkpoint).config, training, adapter, device="cpu").passes
    costs = [cost for index in range(passes.depth) for cost in passes.costs(index)]
    again = inject(load_dit(tiny_checkpoint), kind, adapter, "cross", True)
    assert sum(numel(cost.weights) for cost in costs) == sum(value.numel() for value in again.parameters())


@pytest.mark.parametrize(("kind", "words"), [("lokr", "the same size for all modules"), ("loha", "run estimate")])
def test_ranks_for_another_adapter_type_are_rejected(kind, words, job, tensors, tiny_checkpoint, tmp_path):
    estimate_job(asked := job(batches=1), Unstoppable(job().folder))
    flags = {"tensor_dir": tensors, "checkpoint": str(tiny_checkpoint), "out": tmp_path / "run"}
    with pytest.raises(ConfigError, match=words):
        train_job_from_flags(flags, asked.folder / "ranks.json", [f"adapter_type={kind}"])


def test_ranks_have_the_usual_mean_of_their_kind_and_a_lokr_has_none(job):
    for kind in KINDS_WITH_RANKS:
        usual = ADAPTERS[kind].config()
        estimate_job(asked := job(batches=1, adapter_type=kind), Unstoppable(job().folder))
        settings = json.loads((asked.folder / "ranks.json").read_text())[kind]
        assert (settings["r"], settings["alpha"]) == (usual.r, usual.alpha)
        assert sum(settings["ranks"].values()) / len(settings["ranks"]) == pytest.approx(usual.r, rel=0.05)
    with pytest.raises(ValidationError, match="adapter_type"):
        job(adapter_type="lokr")


def test_proposed_ranks_keep_their_mean_and_their_limits():
    ranks = propose_ranks({"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": 1000.0}, 16)
    assert (ranks["a"], ranks["e"]) == (4, 32)
    assert ranks["b"] <= ranks["c"] <= ranks["d"]
    assert sum(ranks.values()) == pytest.approx(5 * 16, abs=3)
    assert set(propose_ranks({"a": 2.0, "b": 2.0}, 1).values()) == {1}
    assert set(propose_ranks({"a": 0.0, "b": 0.0}, 8).values()) == {2}


def test_a_stop_leaves_no_results(job):
    asked = iter(range(100))
    with pytest.raises(JobCancelled):
        estimate_job(job(), Unstoppable(job().folder, lambda: next(asked) >= 3))
    assert not (job().folder / "sensitivity.json").exists()


def test_a_decoder_with_an_adapter_is_rejected(tiny_checkpoint, tmp_path):
    decoder = load_dit(tiny_checkpoint)
    inject(decoder, "lora", LoRAConfig(r=2), "cross", False)
    with pytest.raises(AdapterError, match="already has an adapter"):
        gradient_norms(decoder, [], [], lambda sample, epoch: 0.0, Unstoppable(tmp_path))
