"""The local captioner and transcriber, with a tiny Qwen2.5-Omni in the layout of the published models."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

from acestep.captioning.configs import CaptionJob
from acestep.captioning.local import LocalCaptioner, LocalTranscriber, find_omni_model, split_windows
from acestep.captioning.omni import OmniModel, Sampling
from acestep.captioning.schema import SAMPLE_RATE_HZ as RATE_HZ
from acestep.captioning.schema import SongAudio
from acestep.captioning.tiny import create_tiny_omni
from acestep.core.errors import CaptionError, CheckpointError, ConfigError, JobCancelled
from acestep.core.files import sha256_of

CAPTION = (
    "A calm piece for piano with brushed drums and a warm bass, slow and a little sad, "
    "that grows louder towards its end."
)
LYRICS = "[Verse 1]\nThe lamps are lit along the bay\nand every boat has gone away\n\n[Chorus]\nOh bring them home"
GREEDY = Sampling(max_tokens=60, temperature=0)


def never():
    return False


def noise(seconds):
    return np.random.default_rng(0).standard_normal(int(seconds * RATE_HZ)).astype(np.float32) * 0.1


def song(seconds):
    return SongAudio(Path("song.wav"), noise(seconds))


@pytest.fixture
def config(checkpoints):
    return CaptionJob(audio_dir=checkpoints, checkpoints=checkpoints, device="cpu", download=False)


@pytest.fixture
def encoded_s(monkeypatch):
    """Duration in seconds of each input of the audio encoder."""
    seconds = []
    forward = Qwen2_5OmniAudioEncoder.forward

    def recording_forward(self, input_features=None, feature_lens=None, **kwargs):
        seconds.append(round(float(feature_lens.sum()) / 100, 1))
        return forward(self, input_features, feature_lens=feature_lens, **kwargs)

    monkeypatch.setattr(Qwen2_5OmniAudioEncoder, "forward", recording_forward)
    return seconds


def test_a_captioner_returns_caption_key_meter_and_genre(config, encoded_s):
    captioner = LocalCaptioner.load(config, print)
    answer = captioner.describe(song(7.3), with_lyrics=False, stop=never)
    captioner.close()
    assert (answer.caption, answer.keyscale, answer.timesignature, answer.genre) == (CAPTION, "D Minor", "4", "jazz")
    assert encoded_s == [7.3]
    assert captioner.name == "acestep-captioner"


def test_a_long_song_is_captioned_in_windows_and_merged(config, encoded_s):
    captioner = LocalCaptioner.load(config.model_copy(update={"window_s": 5.0}), print)
    answer = captioner.describe(song(14), with_lyrics=False, stop=never)
    captioner.close()
    assert len(encoded_s) == 3
    assert sum(encoded_s) == pytest.approx(14, abs=0.3)
    assert answer.caption == CAPTION
    assert answer.keyscale == "D Minor"


def test_a_transcriber_returns_lyrics_and_language(config):
    transcriber = LocalTranscriber.load(config, print)
    lyrics = transcriber.transcribe(song(6), stop=never)
    transcriber.close()
    assert (lyrics.text, lyrics.language, lyrics.complete) == (LYRICS, "en", True)


def test_a_window_that_exceeds_the_token_limit_is_split_in_half(config, encoded_s):
    transcriber = LocalTranscriber.load(config.model_copy(update={"lyrics_max_tokens": 5}), print)
    lyrics = transcriber.transcribe(song(40), stop=never)
    transcriber.close()
    assert encoded_s == [40.0, 22.0, 22.0]
    assert lyrics.text == "[Verse 1]\nThe lamps are lit along the bay"
    assert not lyrics.complete


@pytest.mark.parametrize(("seconds", "window", "overlap"), [(10, 30, 4), (61, 30, 4), (240, 60, 4), (90, 30, 0)])
def test_windows_cover_the_song_and_have_equal_length(seconds, window, overlap):
    windows = split_windows(noise(seconds), window, overlap)
    lengths = [len(window) / RATE_HZ for window in windows]
    assert max(lengths) <= window + 0.001
    assert max(lengths) - min(lengths) < 0.01
    assert sum(lengths) - overlap * (len(windows) - 1) == pytest.approx(seconds, abs=0.01)
    assert np.array_equal(windows[0], noise(seconds)[: len(windows[0])])
    assert np.array_equal(windows[-1], noise(seconds)[-len(windows[-1]) :])


def test_the_answer_depends_on_the_audio(checkpoints, monkeypatch):
    model = OmniModel.load(checkpoints / "acestep-captioner", device="cpu", dtype=torch.float32)
    logits = []
    forward = Qwen2_5OmniThinkerForConditionalGeneration.forward

    @functools.wraps(forward)
    def recording_forward(*args, **kwargs):
        answer = forward(*args, **kwargs)
        logits.append(answer.logits)
        return answer

    monkeypatch.setattr(Qwen2_5OmniThinkerForConditionalGeneration, "forward", recording_forward)
    one, other = noise(4), noise(4)
    other[-RATE_HZ:] = 0
    for audio in (one, other, one):
        model.generate("What is it?", audio, Sampling(max_tokens=1, temperature=0), never)
    model.unload()
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    assert logits[0].shape[1] == 1  # logits are computed for the last position only


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_same_answer(checkpoints, dtype):
    model = OmniModel.load(checkpoints / "acestep-captioner", device="cpu", dtype=dtype)
    assert model.generate("What is it?", noise(3), GREEDY, never).text.startswith(CAPTION)
    model.unload()


@pytest.mark.parametrize(("requested", "expected"), [("auto", torch.bfloat16), ("fp32", torch.float32)])
def test_a_gpu_without_bf16_gets_it_all_the_same_because_fp32_is_too_large(config, monkeypatch, requested, expected):
    loaded = {}
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("acestep.captioning.memory_check.memory_free_bytes", lambda _device: None)
    monkeypatch.setattr(OmniModel, "load", lambda _folder, **options: loaded.update(options))
    monkeypatch.setattr("acestep.captioning.local.LocalCaptioner.__init__", lambda *_: None)
    LocalCaptioner.load(config.model_copy(update={"device": "mps", "dtype": requested}), print)
    assert loaded["dtype"] is expected


def test_a_truncated_answer_is_marked_and_the_global_rng_state_is_unchanged(checkpoints):
    model = OmniModel.load(checkpoints / "acestep-captioner", device="cpu", dtype=torch.float32)
    before = torch.get_rng_state()
    assert not model.generate("?", None, Sampling(max_tokens=3, temperature=0.7), never).complete
    assert model.generate("?", None, Sampling(max_tokens=60, temperature=0.7), never).complete
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(JobCancelled):
        model.generate("?", None, GREEDY, lambda: True)
    model.unload()


def test_unloading_frees_the_memory(config, models_alive):
    captioner = LocalCaptioner.load(config, print)
    captioner.describe(song(3), with_lyrics=False, stop=never)
    assert models_alive() == 1
    captioner.close()
    captioner.close()
    assert models_alive() == 0


def test_an_out_of_memory_error_frees_the_model_and_a_second_load_works(config, models_alive, monkeypatch):
    captioner = LocalCaptioner.load(config, print)
    with monkeypatch.context() as patch:
        patch.setattr(Qwen2_5OmniThinkerForConditionalGeneration, "generate", out_of_memory)
        with pytest.raises(CaptionError, match="not enough memory") as failure:
            captioner.describe(song(3), with_lyrics=False, stop=never)
    assert "4-bit" in failure.value.hint
    captioner.close()
    assert models_alive() == 0
    with monkeypatch.context() as patch:
        patch.setattr(Qwen2_5OmniThinkerForConditionalGeneration, "requires_grad_", out_of_memory)
        with pytest.raises(CaptionError, match="to load"):
            LocalCaptioner.load(config, print)
    assert models_alive() == 0
    again = LocalCaptioner.load(config, print)
    assert again.describe(song(3), with_lyrics=False, stop=never).caption == CAPTION
    again.close()


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_the_tiny_model_is_reproducible(checkpoints, tmp_path):
    folder = create_tiny_omni(tmp_path, "captioner")
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in folder.iterdir():
        assert sha256_of(path) == sha256_of(checkpoints / "acestep-captioner" / path.name)


def test_a_thinker_only_folder_with_a_jinja_template_is_loaded(checkpoints, tmp_path):
    folder = Path(shutil.copytree(checkpoints / "acestep-captioner", tmp_path / "thinker"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config["thinker_config"]))
    weights = load_file(folder / "model.safetensors")
    thinker = {name.removeprefix("thinker."): w for name, w in weights.items() if name.startswith("thinker.")}
    save_file({name: w for name, w in thinker.items() if not name.startswith("visual.")}, folder / "model.safetensors")
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()
    (folder / "chat_template.jinja").write_text(template)
    model = OmniModel.load(folder, device="cpu", dtype=torch.float32)
    assert model.generate("?", noise(3), GREEDY, never).text.startswith(CAPTION)
    model.unload()


def break_config(folder):
    (folder / "config.json").write_text('{"model_type": "qwen3"}')


def delete_config(folder):
    (folder / "config.json").unlink()


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def delete_a_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["thinker.model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def delete_preprocessor_config(folder):
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_config, "qwen3"),
        (delete_config, "config.json"),
        (truncate_weights, "model.safetensors"),
        (delete_a_weight, "up_proj"),
        (delete_preprocessor_config, "preprocessor"),
    ],
)
def test_a_damaged_model_is_rejected_with_the_reason(checkpoints, tmp_path, models_alive, damage, message):
    folder = Path(shutil.copytree(checkpoints / "acestep-captioner", tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        OmniModel.load(folder, device="cpu", dtype=torch.float32)
    assert models_alive() == 0


def test_quantization_without_an_nvidia_gpu_is_rejected(config):
    with pytest.raises(ConfigError, match="NVIDIA"):
        LocalCaptioner.load(config.model_copy(update={"quantization": "4bit"}), print)


def test_a_model_is_found_by_path_and_by_name(config, checkpoints):
    assert find_omni_model(str(checkpoints / "acestep-captioner"), config, print) == checkpoints / "acestep-captioner"
    assert find_omni_model("ACE-Step/acestep-captioner", config, print) == checkpoints / "acestep-captioner"
    with pytest.raises(CheckpointError, match="nowhere"):
        find_omni_model("someone/nowhere", config, print)
