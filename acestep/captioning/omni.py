"""Qwen2.5-Omni without vision and speech: audio and a prompt in, text out.

The processor in transformers requires a video processor and torchvision, so this module uses its parts: feature
extractor, tokenizer and chat template.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from acestep.captioning.omni_load import load_thinker, thinker_config
from acestep.captioning.omni_memory import Quantization
from acestep.captioning.prompts import SYSTEM
from acestep.captioning.schema import SAMPLE_RATE_HZ, Stop
from acestep.core.errors import CaptionError, CheckpointError, JobCancelled
from acestep.core.files import read_json
from acestep.core.untrusted import is_file
from acestep.models.device import empty_cache
from acestep.models.pretrained import load_tokenizer
from acestep.models.safetensors_header import read_tensor_infos

_HOP = 160  # samples per frame of the feature extractor
_MEMORY_HINT = "Use 8-bit or 4-bit quantization or a shorter window, or unload other models to free GPU memory."


@dataclass(frozen=True, slots=True)
class Answer:
    """Generated text. ``complete`` is False if it was truncated at the token limit."""

    text: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Sampling:
    """Generation settings. ``temperature`` 0 is greedy decoding."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0
    seed: int = 42


class OmniModel:
    """The thinker with its feature extractor and tokenizer. Holds memory until ``unload``."""

    def __init__(self, model: Any, extractor: Any, tokenizer: Any, template: str, device: str) -> None:
        self.device = device
        self.max_window_s = float(extractor.chunk_length)
        self._model, self._extractor, self._tokenizer, self._template = model, extractor, tokenizer, template
        self._audio_token = tokenizer.convert_ids_to_tokens(model.config.audio_token_id)
        self._stop_tokens = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]

    @classmethod
    def load(cls, folder: Path, *, device: str, dtype: torch.dtype, quantization: Quantization = "none") -> OmniModel:
        """Load a published folder, either the complete model or the thinker only.

        Raises:
            CheckpointError: a file is missing or truncated, or the model is of another type.
            CaptionError: not enough memory.
        """
        read_tensor_infos(folder, "model")
        template = _chat_template(folder)
        try:
            config = thinker_config(folder)
            extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer = load_tokenizer(folder)
            model = load_thinker(folder, config, device, dtype, quantization)
        except torch.OutOfMemoryError:
            message = f"not enough memory on {device} to load {folder.name}"
        except (OSError, ValueError, KeyError) as problem:
            raise CheckpointError(f"{folder} cannot be loaded: {problem}", hint="Download it again.") from None
        else:
            return cls(model, extractor, tokenizer, template or tokenizer.chat_template, device)
        _free(device)
        raise CaptionError(message, hint=_MEMORY_HINT)

    def generate(self, prompt: str, audio: NDArray[np.float32] | None, sampling: Sampling, stop: Stop) -> Answer:
        """Generate the answer to ``prompt`` and optional ``audio`` ([S] mono at 16 kHz, at most ``max_window_s``).

        Raises:
            CaptionError: not enough memory. The memory is freed.
            JobCancelled: ``stop`` returned True.
        """
        try:
            answer = self._generate(prompt, audio, sampling, stop)
        except torch.OutOfMemoryError:
            answer = None
        if stop():
            raise JobCancelled("stopped by the user")
        if answer is None:  # outside the except block: its traceback would keep the tensors alive
            _free(self.device)
            raise CaptionError(f"not enough memory on {self.device}", hint=_MEMORY_HINT)
        return answer

    @torch.inference_mode()
    def _generate(self, prompt: str, audio: NDArray[np.float32] | None, sampling: Sampling, stop: Stop) -> Answer:
        inputs = self._inputs(prompt, audio)
        chosen: dict[str, Any] = {"do_sample": sampling.temperature > 0}
        if chosen["do_sample"]:
            chosen |= {"temperature": sampling.temperature, "top_p": sampling.top_p}

        def stopped(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return torch.full((len(ids),), stop(), device=ids.device)

        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(sampling.seed)
            ids = self._model.generate(
                **inputs,
                **chosen,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=self._stop_tokens,
                pad_token_id=self._stop_tokens[-1],
                stopping_criteria=[stopped],
            )
        ids = ids[0, inputs["input_ids"].shape[1] :].tolist()
        complete = bool(ids) and ids[-1] in self._stop_tokens
        return Answer(self._tokenizer.decode(ids, skip_special_tokens=True).strip(), complete)

    def _inputs(self, prompt: str, audio: NDArray[np.float32] | None) -> dict[str, Tensor]:
        """The same inputs as ``Qwen2_5OmniProcessor``: one audio token per 40 ms."""
        user: list[dict[str, str]] = [{"type": "text", "text": prompt}]
        if audio is not None:
            user.insert(0, {"type": "audio", "audio": ""})
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": user},
        ]
        text = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        audio_inputs: dict[str, Tensor] = {}
        if audio is not None:
            audio = np.pad(audio, (0, -len(audio) % _HOP))
            features = self._extractor(
                audio,
                sampling_rate=SAMPLE_RATE_HZ,
                padding="longest",
                truncation=False,
                return_attention_mask=True,
                return_tensors="pt",
            )
            frames = int(features["attention_mask"].sum())
            text = text.replace(self._audio_token, self._audio_token * _num_tokens(frames), 1)
            audio_inputs = {
                "input_features": features["input_features"].to(self.device, self._model.dtype),
                "feature_attention_mask": features["attention_mask"].to(self.device),
            }
        tokens = self._tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self.device)
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], **audio_inputs}

    def unload(self) -> None:
        """Free all memory. Can be called again."""
        self._model = self._extractor = self._tokenizer = None
        _free(self.device)


def _num_tokens(frames: int) -> int:
    """Number of audio tokens for ``frames`` of 10 ms after the encoder's convolution and pooling."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def _chat_template(folder: Path) -> str:
    """The template file, as the processors of transformers 4 and 5 store it; "" if only the tokenizer has one."""
    if is_file(folder / "chat_template.jinja"):
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "chat_template.json"
    found = read_json(path, error=CheckpointError) if is_file(path) else {}
    return str(found.get("chat_template", "")) if isinstance(found, dict) else ""


def _free(device: str) -> None:
    gc.collect()
    empty_cache(device)
