"""Music during a run: what is made, from what, and that training does not notice."""

import gc
import json
import math
import weakref

import pytest
import torch

from acestep.audio.files import load_audio
from acestep.core.errors import GenerationError, JobCancelled
from acestep.core.events import ItemFailed, LogMessage, Saved, StepLogged
from acestep.handler import AceStepHandler
from acestep.models import load
from acestep.models.configs import GenerationConfig
from acestep.training.evaluation import audio_previews as samples_module
from acestep.training.evaluation.audio_previews import prompt_with_tag
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import make_job, of_kind, run, tensors_for

SAMPLES = {"samples__enabled": True, "samples__duration_s": 1, "samples__steps": 1, "samples__strengths": "0.5, 1.5"}


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(24, 5), (17, 7)])


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(out="run", **settings):
        common = {"max_epochs": 2, "lora__dropout": 0.3, "lokr__dropout": 0.3, "learning_rate": 0.05}
        return make_job(tensors, tiny_checkpoint, tmp_path / out, **{**common, **settings})

    return make


def made(folder):
    return sorted(str(path.relative_to(folder / "samples")) for path in folder.rglob("*.wav"))


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_audio_previews_at_each_strength_do_not_affect_training(kind, job):
    settings = {"adapter_type": kind, "samples__every_n_epochs": 1, "samples__prompt": "slow piano"}
    silent, heard = job("silent", adapter_type=kind), job("heard", **SAMPLES, **settings)
    before = torch.get_rng_state()
    _, first = run(silent)
    _, second = run(heard)
    assert torch.equal(torch.get_rng_state(), before)
    assert [e.loss for e in of_kind(first, StepLogged)] == [e.loss for e in of_kind(second, StepLogged)]
    states = [RunFolder(each.out).latest_checkpoint() / "state" / "state.safetensors" for each in (silent, heard)]
    assert states[0].read_bytes() == states[1].read_bytes()
    names = [f"epoch_{epoch}/strength_{strength}.wav" for epoch in (1, 2) for strength in ("0_50", "1_50")]
    assert made(heard.out) == ["epoch_0/strength_0_00.wav", *names]
    assert made(silent.out) == []
    sounds = [load_audio(heard.out / "samples" / name) for name in made(heard.out)]
    assert {sound.shape for sound in sounds} == {(2, 48_000)}
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(sounds) for b in sounds[:i])
    told = json.loads((heard.out / "samples" / "epoch_2" / "strength_1_50.json").read_text())
    assert (told["epoch"], told["step"], told["strength"], told["seed"]) == (2, 2, 1.5, 42)
    assert told["prompt"] == "slow piano, zyxtag"
    assert [event.role for event in of_kind(second, Saved)].count("sample") == 5


def test_a_stop_during_an_audio_preview_saves_and_the_run_resumes_with_its_baseline(job):
    stopped, asked = job(**SAMPLES), iter(range(10_000))
    measured = 2 + 2  # songs read and measured, each of which asks before the first sample does
    with pytest.raises(JobCancelled, match="Everything is saved"):
        run(stopped, stop_when=lambda: next(asked) >= measured)
    assert made(stopped.out) == []
    run(job(**SAMPLES, resume="auto"))
    assert made(stopped.out)[0] == "epoch_0/strength_0_00.wav"
    assert made(stopped.out)[1:] == ["epoch_2/strength_0_50.wav", "epoch_2/strength_1_50.wav"]


def test_out_of_memory_shortens_the_audio_previews_and_then_skips_them(job, monkeypatch):
    room_s, true_denoise = [7.0], samples_module.denoise

    def small_device(checkpoint, dit, condition, request, **more):
        if request.duration_s > room_s[0]:
            room_s[0] = 3.0 if room_s[0] == 1.0 else room_s[0]
            raise torch.OutOfMemoryError("CUDA out of memory")
        room_s[0] = 1.0
        return true_denoise(checkpoint, dit, condition, request.model_copy(update={"duration_s": 1.0}), **more)

    monkeypatch.setattr(samples_module, "denoise", small_device)
    result, events = run(job(**{**SAMPLES, "samples__duration_s": 20}))
    warnings = [event.message for event in of_kind(events, LogMessage) if event.warning]
    assert "further samples are 10 s long" in warnings[0]
    assert "further samples are 5 s long" in warnings[1]
    assert all("5 s of audio: no sample for epoch 2" in warning for warning in warnings[2:])
    assert len(warnings) == 4
    assert made(job().out) == ["epoch_0/strength_0_00.wav"]
    assert result["epochs"] == 2


@pytest.mark.parametrize("base", ["auto", "nf4"])
def test_a_run_in_fp16_trains_and_makes_its_audio_previews_with_encoders_and_vae_in_fp32(job, base):
    result, events = run(job(**SAMPLES, mixed_precision="fp16", base_precision=base))
    assert not of_kind(events, ItemFailed)
    assert "epoch_2/strength_1_50.wav" in made(job().out)
    assert math.isfinite(result["fit_loss"])
    assert any("float16: as requested; the decoder may overflow" in str(event) for event in events)


def test_a_missing_vae_is_reported_and_training_continues(job, monkeypatch, tmp_path):
    def no_vae(*_, **__):
        raise samples_module.AceStepError("vae is missing", hint="Fetch it.")

    monkeypatch.setattr(load, "load_vae", no_vae)
    result, events = run(job(**SAMPLES))
    assert [event.item for event in of_kind(events, ItemFailed)] == ["samples of epoch 0", "samples of epoch 2"]
    assert result["epochs"] == 2


def test_the_encoders_are_loaded_once_per_run_and_each_model_is_freed_before_the_next(job, monkeypatch):
    alive, order = weakref.WeakSet(), []

    def counted(name):
        true_load = getattr(load, name)

        def loading(*args, **kwargs):
            gc.collect()
            order.append((name, len(alive)))
            model = true_load(*args, **kwargs)
            alive.add(model)
            return model

        monkeypatch.setattr(load, name, loading)

    for name in ("load_text_encoder", "load_condition_encoder", "load_vae"):
        counted(name)
    run(job(**SAMPLES, samples__every_n_epochs=1))
    assert order == [("load_text_encoder", 0), ("load_condition_encoder", 0), *[("load_vae", 0)] * 3]


def test_a_strength_at_which_generation_fails_does_not_stop_the_others(job, monkeypatch):
    true_denoise, calls = samples_module.denoise, iter(range(10))

    def unstable(*args, **kwargs):
        if next(calls) == 1:
            raise GenerationError("the generated latents contain NaN")
        return true_denoise(*args, **kwargs)

    monkeypatch.setattr(samples_module, "denoise", unstable)
    _, events = run(job(**SAMPLES))
    assert [event.item for event in of_kind(events, ItemFailed)] == ["sample of epoch 2 at strength 0.5"]
    assert made(job().out) == ["epoch_0/strength_0_00.wav", "epoch_2/strength_1_50.wav"]


def test_a_preview_is_what_the_handler_generates_with_the_adapter(job, tiny_checkpoint):
    heard = job(**{**SAMPLES, "samples__prompt": "slow piano"})
    run(heard)
    handler = AceStepHandler(tiny_checkpoint, device="cpu")
    handler.load_adapter(heard.out / "final" / "adapter", strength=0.5)
    request = json.loads((heard.out / "samples" / "epoch_2" / "strength_0_50.json").read_text())
    fields = {name: value for name, value in request.items() if name in GenerationConfig.model_fields}
    audio = handler.generate(GenerationConfig(**fields))
    preview = load_audio(heard.out / "samples" / "epoch_2" / "strength_0_50.wav")
    torch.testing.assert_close(preview, audio, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("prompt", "tag", "position", "wanted"),
    [
        ("piano", "zyx", "prepend", "zyx, piano"),
        ("piano", "zyx", "append", "piano, zyx"),
        ("piano", "zyx", "replace", "zyx"),
        ("piano like ZYX", "zyx", "prepend", "piano like ZYX"),
        ("", "zyx", "append", "zyx"),
        ("piano", "", "", "piano"),
    ],
)
def test_the_trigger_word_is_placed_as_in_the_captions(prompt, tag, position, wanted):
    assert prompt_with_tag(prompt, tag, position) == wanted
