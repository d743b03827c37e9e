"""Memory of the local captioner: what is loaded, what is estimated, and the check before loading."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

from acestep.captioning import memory_check, omni_buffers
from acestep.captioning.configs import CaptionJob
from acestep.captioning.local import LocalCaptioner
from acestep.captioning.memory_check import require_memory
from acestep.captioning.omni import OmniModel, Sampling
from acestep.captioning.omni_buffers import IN_BLOCKS, attend_in_blocks, choose_attention, limit_memory
from acestep.captioning.omni_load import AudioThinker
from acestep.captioning.omni_memory import CHUNK_TOKENS, GIB, OmniSizes, gpu_memory, omni_memory
from acestep.captioning.schema import SAMPLE_RATE_HZ
from acestep.core.errors import CaptionError
from acestep.core.paths import PROJECT
from tests.captioning.test_local import CAPTION, GREEDY, never, noise
from tests.live_bytes import LiveBytes

SMALL = OmniSizes(500, 256, 1354, 3, 4, 1, 64, 256, 2)


def config_of(sizes: OmniSizes, **vision: Any) -> Qwen2_5OmniThinkerConfig:
    head = sizes.hidden_size // sizes.num_attention_heads
    return Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": sizes.vocab_size,
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.num_hidden_layers,
            "num_attention_heads": sizes.num_attention_heads,
            "num_key_value_heads": sizes.num_key_value_heads,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [head // 8, 3 * head // 16, 3 * head // 16],
                "rope_theta": 1e6,
            },
            "tie_word_embeddings": False,
        },
        audio_config={
            "encoder_layers": sizes.encoder_layers,
            "encoder_attention_heads": 2 if sizes.d_model < 1280 else 20,
            "encoder_ffn_dim": sizes.encoder_ffn_dim,
            "d_model": sizes.d_model,
            "output_dim": sizes.hidden_size,
        },
        vision_config={"hidden_size": 1280, "out_hidden_size": sizes.hidden_size, **vision},
        audio_token_index=5,
        audio_start_token_id=6,
        audio_end_token_id=7,
        image_token_index=8,
        video_token_index=9,
        vision_start_token_id=10,
        vision_end_token_id=11,
        pad_token_id=0,
    )


def test_the_weights_of_the_published_model_are_counted_exactly() -> None:
    sizes = OmniSizes()
    with torch.device("meta"):
        model = AudioThinker(config_of(sizes))
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == sizes.linear_weights + sizes.other_weights
    assert weights == pytest.approx(8.255e9, rel=1e-3)
    projections = {name: p for name, p in model.named_parameters() if name.endswith("_proj.weight")}
    text = [weight for name, weight in projections.items() if "language_model" in name]
    assert sum(weight.numel() for weight in text) == sizes.linear_weights
    assert sum(len(weight) for weight in text) == sizes.linear_rows


def test_sizes_are_read_from_a_config_and_missing_ones_are_those_of_the_published_model() -> None:
    found = OmniSizes.of({"text_config": {"hidden_size": 2048, "dtype": "bf16"}, "audio_config": {"d_model": 64}})
    assert found == OmniSizes(hidden_size=2048, d_model=64)
    assert OmniSizes.of({"text_config": {"num_hidden_layers": "many"}}) == OmniSizes()


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_a_model_is_loaded_in_each_precision_without_its_vision_tower(checkpoints, quantization) -> None:
    folder = checkpoints / "acestep-captioner"
    assert "vision_config" in json.loads((folder / "config.json").read_text())["thinker_config"]
    with LiveBytes() as live:
        model = OmniModel.load(folder, device="cpu", dtype=torch.bfloat16, quantization=quantization)
        live.add([*model._model.parameters(), *model._model.buffers()])
        loaded = live.now
    sizes = OmniSizes.of(json.loads((folder / "config.json").read_text())["thinker_config"])
    names = [name for name, _ in model._model.named_parameters()]
    assert not [name for name in names if "visual" in name]
    assert model.generate("What is it?", noise(3), GREEDY, never).text.startswith(CAPTION)
    model.unload()
    tables = 70_000 if quantization == "4bit" else 10_000  # constants of each layer, of no weight at full size
    assert loaded == pytest.approx(sizes.weight_bytes(quantization, 2), abs=tables)


def test_captions_do_not_depend_on_the_vision_tower(checkpoints) -> None:
    """The logits are those of the complete thinker of transformers."""
    folder = checkpoints / "acestep-captioner"
    complete = Thinker.from_pretrained(folder, config=config_with_all(folder), attn_implementation="sdpa").eval()
    assert complete.model.visual.blocks
    model = OmniModel.load(folder, device="cpu", dtype=torch.float32)
    inputs = model._inputs("What is it?", noise(5))
    with torch.inference_mode():
        expected = complete(**inputs).logits[:, -1:]
        torch.testing.assert_close(model._model(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
    model.unload()


def config_with_all(folder):
    return Qwen2_5OmniThinkerConfig(**json.loads((folder / "config.json").read_text())["thinker_config"])


@pytest.mark.parametrize(("dtype", "seconds"), [(torch.bfloat16, 60), (torch.float32, 60), (torch.bfloat16, 120)])
@pytest.mark.parametrize("sizes", [SMALL, OmniSizes(500, 64, 330, 2, 4, 2, 128, 512, 2)], ids=["text", "audio"])
def test_the_peak_while_audio_is_described_is_estimated(sizes: OmniSizes, dtype: torch.dtype, seconds: int) -> None:
    model: Any = AudioThinker._from_config(config_of(sizes, depth=0), dtype=dtype, attn_implementation="sdpa").eval()
    model.requires_grad_(False)
    limit_memory(model, "cpu")
    ids = torch.tensor([[1] * 100 + [6] + [5] * 25 * seconds + [7] + [1] * 98])
    features = torch.randn(1, 128, 100 * seconds).to(dtype)
    present = torch.ones(1, 100 * seconds, dtype=torch.long)
    with LiveBytes() as live, torch.inference_mode():
        live.add([*model.parameters(), *model.buffers()])
        weights = live.peak = live.now
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=features,
            feature_attention_mask=present,
            max_new_tokens=3,
            do_sample=False,
        )
    estimated = omni_memory(
        sizes=sizes, dtype_bytes=dtype.itemsize, window_s=seconds, new_tokens=3, device="cpu", fused=True
    )
    assert estimated.weights == pytest.approx(weights, rel=1e-3)
    assert estimated.cache + estimated.buffers == pytest.approx(live.peak - weights, rel=0.08)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_attention_in_blocks_equals_attention_at_once(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 700, 32, dtype=dtype) for heads in (4, 2, 2))
    layer = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    whole = sdpa_attention_forward(layer, query, key, value, None)[0]
    assert attend_in_blocks(layer, query, key, value, None)[0].sub(whole).abs().max() < tolerance
    last = sdpa_attention_forward(layer, query[:, :, -1:], key, value, None)[0]
    assert torch.equal(attend_in_blocks(layer, query[:, :, -1:], key, value, None)[0], last)


def test_attention_in_blocks_needs_no_scores_of_all_pairs() -> None:
    query, key, value = (torch.randn(1, heads, 2000, 32) for heads in (8, 1, 1))
    layer = SimpleNamespace(num_key_value_groups=8, is_causal=True)
    with LiveBytes() as live, sdpa_kernel(SDPBackend.MATH):
        attend_in_blocks(layer, query, key, value, None)
    assert live.peak < 4 * 8 * 2000 * 2000 / 3


@pytest.mark.parametrize(
    ("device", "capability", "dtype", "expected"),
    [
        ("cuda", (8, 6), torch.bfloat16, "sdpa"),
        ("cuda", (8, 6), torch.float32, IN_BLOCKS),
        ("cuda", (7, 5), torch.bfloat16, IN_BLOCKS),
        ("cuda", (6, 1), torch.float16, IN_BLOCKS),
        ("mps", None, torch.bfloat16, IN_BLOCKS),
        ("xpu", None, torch.bfloat16, "sdpa"),
        ("cpu", None, torch.float32, "sdpa"),
    ],
)
def test_attention_is_in_blocks_where_no_fused_kernel_exists(monkeypatch, device, capability, dtype, expected) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert choose_attention(device, dtype) == expected


def test_a_model_on_a_gpu_without_fused_attention_gives_the_same_caption(checkpoints, monkeypatch) -> None:
    monkeypatch.setattr("acestep.captioning.omni_load.choose_attention", lambda *_: choose_attention("mps", None))
    monkeypatch.setattr(omni_buffers, "BLOCK_QUERIES", 16)
    model = OmniModel.load(checkpoints / "acestep-captioner", device="cpu", dtype=torch.float32)
    assert model._model.config.text_config._attn_implementation == IN_BLOCKS
    assert model.generate("What is it?", noise(5), GREEDY, never).text.startswith(CAPTION)
    model.unload()


def test_audio_longer_than_a_chunk_gives_the_same_caption(checkpoints) -> None:
    model = OmniModel.load(checkpoints / "acestep-captioner", device="cpu", dtype=torch.float32)
    seconds = CHUNK_TOKENS / 25 + 3
    audio = np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)
    assert model.generate("What is it?", audio, Sampling(60, 0), never).text.startswith(CAPTION)
    model.unload()


def test_the_embedding_is_looked_up_on_the_cpu_beside_a_gpu() -> None:
    with FakeTensorMode():
        embedding = torch.nn.Embedding(10, 4, device="cuda")
        layers = SimpleNamespace(language_model=SimpleNamespace(layers=[]))
        head = torch.nn.Linear(4, 10, device="cuda")
        model = SimpleNamespace(model=layers, lm_head=head, get_input_embeddings=lambda: embedding)
        limit_memory(model, "cuda")
        assert embedding.weight.device.type == "cpu"
        assert embedding(torch.zeros(1, 3, dtype=torch.long, device="cuda")).device.type == "cuda"
        assert head(torch.zeros(1, 3, 4, device="cuda")).shape == (1, 1, 10)


@pytest.mark.parametrize(
    ("quantization", "free_gb", "suggested"),
    [
        ("none", 24.0, None),
        ("none", 15.0, "Quantization 8bit"),
        ("none", 8.0, "Quantization 4bit"),
        ("8bit", 11.4, None),
        ("8bit", 8.0, "Quantization 4bit"),
        ("4bit", 7.3, None),
        ("4bit", 4.0, "Choose an online service"),
    ],
)
def test_the_check_before_loading_names_the_settings_that_fit(monkeypatch, quantization, free_gb, suggested):
    monkeypatch.setattr(memory_check, "memory_free_bytes", lambda _device: int(free_gb * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 6))
    settings: dict[str, Any] = {"dtype": torch.bfloat16, "window_s": 240, "new_tokens": 2048}
    if suggested is None:
        return require_memory("captioner", OmniSizes(), device="cuda", quantization=quantization, **settings)
    with pytest.raises(CaptionError, match=f"{free_gb:.1f} GB are free") as failure:
        require_memory("captioner", OmniSizes(), device="cuda", quantization=quantization, **settings)
    assert suggested in failure.value.hint
    assert f"{omni_memory(quantization).needed / GIB:.1f} GB of memory on cuda" in str(failure.value)
    assert "online service" in failure.value.hint
    return None


def test_nothing_is_read_when_the_memory_is_too_small(checkpoints, monkeypatch) -> None:
    monkeypatch.setattr(memory_check, "memory_free_bytes", lambda _device: 1000)
    monkeypatch.setattr(OmniModel, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    config = CaptionJob(audio_dir=checkpoints, checkpoints=checkpoints, device="cpu", download=False)
    with pytest.raises(CaptionError, match="on cpu") as failure:
        LocalCaptioner.load(config, print)
    assert "Quantization" not in failure.value.hint  # NVIDIA only


def test_a_model_that_would_not_fit_is_not_downloaded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory_check, "memory_free_bytes", lambda _device: 5 * GIB)
    monkeypatch.setattr("acestep.captioning.local.checkpoint_roots", lambda _root: [tmp_path])
    monkeypatch.setattr("acestep.captioning.local.download", lambda *_, **__: pytest.fail("a download started"))
    config = CaptionJob(audio_dir=tmp_path, checkpoints=tmp_path, device="cpu")
    with pytest.raises(CaptionError, match="acestep-captioner needs"):
        LocalCaptioner.load(config, print)


def test_a_shorter_window_is_suggested_where_it_is_enough(monkeypatch) -> None:
    common: dict[str, Any] = {"device": "mps", "new_tokens": 512}
    free = omni_memory(window_s=60, fused=False, **common).needed
    monkeypatch.setattr(memory_check, "memory_free_bytes", lambda _device: free)
    with pytest.raises(CaptionError) as failure:
        require_memory("captioner", OmniSizes(), dtype=torch.bfloat16, quantization="none", window_s=240, **common)
    assert "a Window of 60 s" in failure.value.hint


def test_unknown_free_memory_is_no_reason_to_stop(monkeypatch) -> None:
    monkeypatch.setattr(memory_check, "memory_free_bytes", lambda _device: None)
    require_memory(
        "captioner", OmniSizes(), device="cpu", dtype=torch.float32, quantization="none", window_s=240, new_tokens=2048
    )


def test_the_guide_and_the_settings_state_the_estimated_memory() -> None:
    guide = (PROJECT / "TRAINING_GUIDE.md").read_text(encoding="utf-8")
    help_text = str(CaptionJob.model_fields["quantization"].description)
    for quantization in ("none", "8bit", "4bit"):
        assert gpu_memory(quantization) in guide
        assert gpu_memory(quantization) in help_text
