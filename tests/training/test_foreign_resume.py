"""Runs that start from the LoKr of another program, which also adapts the embedders and the first convolution."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from acestep.adapters.files import load_adapter, read_adapter
from acestep.core.errors import AdapterError, JobCancelled
from acestep.core.events import StepLogged
from acestep.models.load import load_dit
from tests.adapters.small import relative
from tests.adapters.test_foreign_adapters import CASES
from tests.adapters.test_tiny_models import answer
from tests.training.runs import make_job, of_kind, run, tensors_for
from tests.training.test_resume import assert_same_end

SETTINGS = {
    "adapter_type": "lokr",
    "attention_type": "self",
    "lokr__linear_dim": 4,
    "lokr__linear_alpha": 8.0,
    "lokr__factor": 4,
}


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint)


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(out, case="lokrwd", **settings):
        settings = {"resume": str(CASES / case), "lokr__weight_decompose": case == "lokrwd", **SETTINGS, **settings}
        return make_job(tensors, tiny_checkpoint, tmp_path / out, **settings)

    return make


@pytest.mark.parametrize("case", ["lokrwd", "lokrdim4"])
def test_training_continues_from_the_adapter_of_another_program(job, case, tiny_checkpoint):
    result, events = run(job("run", case, max_steps=1, learning_rate=1e-9))
    decoders = [load_dit(tiny_checkpoint) for _ in range(3)]
    load_adapter(decoders[0], CASES / case)
    load_adapter(decoders[1], job("run").out)
    theirs, ours, base = map(answer, decoders)
    assert relative(ours, theirs, base) < 1e-2  # the file is bf16
    assert read_adapter(job("run").out).modules.keys() == read_adapter(CASES / case).modules.keys()


def test_such_a_run_trains_every_module_and_resumes_bit_exactly(job):
    run(job("whole", max_steps=6, max_epochs=3))
    stopped = job("stopped", max_steps=6, max_epochs=3)
    steps = []
    with pytest.raises(JobCancelled):
        run(stopped, lambda: len(steps) > 12 or bool(steps.append(1)))
    stopped.resume = "auto"
    _, events = run(stopped)
    assert 0 < len(of_kind(events, StepLogged)) < 6
    assert_same_end(job("whole").out, stopped.out)
    before, after = (
        load_file(next(path.glob("**/lokr_weights.safetensors"))) for path in (CASES / "lokrwd", stopped.out / "final")
    )
    trained = {
        key
        for key, value in before.items()
        if "alpha" not in key and not (after[key].float() - value).abs().max() < 1e-2
    }
    for name in ("condition_embedder", "proj_in_1", "time_embed_linear_1", "layers_3_self_attn_o_proj"):
        assert any(f"lycoris_{name}." in key for key in trained)
    assert any(key.endswith("dora_scale") for key in trained)


def test_other_settings_are_named_in_the_hint(job):
    with pytest.raises(AdapterError, match="does not fit") as error:
        run(job("run", lokr__weight_decompose=False, lokr__linear_dim=2))
    assert "lokr.linear_dim=4" in error.value.hint
    assert "lokr.weight_decompose=True" in error.value.hint
