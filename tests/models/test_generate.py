import pytest
import torch

from acestep.core.errors import AdapterError, GenerationError, JobCancelled
from acestep.handler import AceStepHandler
from acestep.models import generate as generate_module
from acestep.models.configs import GenerationConfig
from tests.operations import Operations


@pytest.fixture(scope="module")
def handler(tiny_checkpoint):
    handler = AceStepHandler(tiny_checkpoint, device="cpu")
    yield handler
    handler.unload()


def request(**changes):
    return GenerationConfig(**{"prompt": "a dark chiptune", "duration_s": 2, "seed": 5, "steps": 2, **changes})


def test_audio_has_the_requested_duration_peak_level_and_no_dc_offset(handler):
    audio = handler.generate(request(duration_s=2.5))
    assert audio.dtype == torch.float32
    assert audio.shape == (2, 63 * 1920)  # 2.5 s are 62.5 latent frames, rounded up
    assert torch.isfinite(audio).all()
    assert audio.abs().max() == pytest.approx(10 ** (-1 / 20), abs=1e-6)
    assert audio.mean(dim=1).abs().max() < 1e-3


def test_generation_is_deterministic_and_keeps_the_global_rng_state(handler):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = handler.generate(request())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(handler.generate(request()), first)
    assert not torch.equal(handler.generate(request(seed=6)), first)


def test_prompt_lyrics_and_metadata_change_the_audio(handler):
    first = handler.generate(request())
    for change in ({"prompt": "a bright waltz"}, {"bpm": 90}, {"lyrics": "[Verse]\nla la"}, {"keyscale": "C Major"}):
        assert not torch.equal(handler.generate(request(**change)), first), change


def test_the_language_of_empty_lyrics_is_ignored_as_in_training(handler):
    assert torch.equal(handler.generate(request(lyrics="", language="en")), handler.generate(request()))


def test_guidance_changes_the_audio_of_base_models(tiny_root):
    handler = AceStepHandler(tiny_root / "acestep-v15-tiny-base", device="cpu")
    unguided = handler.generate(request(guidance=1.0))
    assert not torch.equal(handler.generate(request(guidance=7.0)), unguided)


def test_should_stop_cancels_between_steps(handler):
    with pytest.raises(JobCancelled):
        handler.generate(request(steps=4), should_stop=lambda: True)


def test_generation_without_guidance_needs_no_float64_which_mps_lacks(handler):
    handler.ensure_models_loaded()
    with Operations() as operations:
        handler.generate(request())
    assert operations.calls
    assert not operations.in_float64()


def test_set_strength_without_an_adapter_is_an_error(handler):
    with pytest.raises(AdapterError, match="no adapter is loaded"):
        handler.set_strength(0.5)


@pytest.mark.parametrize("variant", ["acestep-v15-tiny", "acestep-v15-tiny-base"])
def test_in_fp16_only_the_decoder_computes_in_fp16(tiny_root, handler, variant):
    half = AceStepHandler(tiny_root / variant, device="cpu", dtype="fp16")
    audio = half.generate(request())
    parts = half.ensure_models_loaded()
    dtypes = [part.dtype for part in (parts.dit, parts.condition_encoder, parts.text_encoder.model, parts.vae)]
    assert dtypes == [torch.float16, torch.float32, torch.float32, torch.float32]
    assert torch.isfinite(audio).all()
    exact = AceStepHandler(tiny_root / variant, device="cpu", dtype="fp32").generate(request())
    assert torch.nn.functional.cosine_similarity(audio.flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("part", ["dit", "vae"])
def test_audio_that_is_not_finite_is_an_error_that_names_dtype_and_remedy(tiny_checkpoint, part, dtype):
    handler = AceStepHandler(tiny_checkpoint, device="cpu", dtype=dtype)
    module = getattr(handler.ensure_models_loaded(), part)
    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)
    what = {"dit": "latents", "vae": "audio"}[part]
    with pytest.raises(GenerationError, match=f"the generated {what} contains NaN") as error:
        handler.generate(request())
    in_fp16 = dtype == "fp16" and part == "dit"
    assert ("float16" if in_fp16 else "float32") in str(error.value)
    assert ("--dtype fp32" in error.value.hint) == in_fp16


@pytest.mark.parametrize(
    ("variant", "has_fp64", "works"), [("", False, True), ("-base", True, True), ("-base", False, False)]
)
def test_guidance_on_an_intel_gpu_without_fp64_is_an_error_with_a_hint(
    tiny_root, monkeypatch, variant, has_fp64, works
):
    handler = AceStepHandler(tiny_root / f"acestep-v15-tiny{variant}", device="cpu")
    monkeypatch.setattr(generate_module, "xpu_lacks_fp64", lambda _device: not has_fp64)
    if works:
        assert torch.isfinite(handler.generate(request())).all()
        return
    with pytest.raises(GenerationError, match="guidance 7 needs fp64") as error:
        handler.generate(request())
    assert "turbo" in error.value.hint
