"""Create a tiny Qwen2.5-Omni checkpoint in the layout of the published models, for tests.

The attention weights are random and small. The answer is a fixed text: the embedding and the output head make each
token of that text the most likely successor of the previous one. The same loader and inference code run on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

from acestep.core.files import write_bytes, write_json
from acestep.models.tiny_text import write_tokenizer

Task = Literal["captioner", "transcriber"]

_WIDTH = 64
_AUDIO = ("<|AUDIO|>", "<|IMAGE|>", "<|VIDEO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>", "<|vision_eos|>")
ANSWERS: dict[Task, tuple[str, ...]] = {
    "captioner": (
        "A calm piece for piano",
        " with brushed drums and a warm bass,",
        " slow and a little sad,",
        " that grows louder towards its end.",
        "\nkey: ",
        "D Minor",
        "\ntime_signature: ",
        "4/4",
        "\ngenre: ",
        "jazz",
    ),
    "transcriber": (
        "# Languages\n",
        "en",
        "\n\n# Lyrics\n",
        "[Verse 1]\n",
        "The lamps are lit along the bay",
        "\nand every boat has gone away",
        "\n\n[Chorus]",
        "\nOh bring them home",
    ),
}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PREFIXES = {  # transformers 5 -> the published files
    "model.language_model.": "thinker.model.",
    "model.audio_tower.": "thinker.audio_tower.",
    "model.visual.": "thinker.visual.",
    "lm_head.": "thinker.lm_head.",
}


def create_tiny_omni(root: Path, task: Task = "captioner") -> Path:
    """Write the folder ``root/acestep-<task>`` and return its path. The files are identical each time."""
    folder = root / f"acestep-{task}"
    write_tokenizer(folder, (*_AUDIO, *ANSWERS[task]))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    thinker = _thinker_config(tokenizer)
    config = {
        "architectures": ["Qwen2_5OmniForConditionalGeneration"],
        "model_type": "qwen2_5_omni",
        "enable_audio_output": True,
        "enable_talker": True,
        "thinker_config": thinker,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", _extractor())
    write_json(folder / "chat_template.json", {"chat_template": _TEMPLATE})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(25)
        model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig(**thinker))
    state = model.state_dict()
    _set_transitions(state, [tokenizer.encode(text).ids[0] for text in ("\n", *ANSWERS[task], "<|im_end|>")])
    weights = {_published_name(name): tensor.contiguous() for name, tensor in state.items()}
    weights["talker.codec_head.weight"] = torch.zeros(4, 4)  # the published files also contain the talker
    weights["token2wav.code2wav_bigvgan_model.conv_post.weight"] = torch.zeros(4, 4)
    write_bytes(folder / "model.safetensors", save(weights, {"format": "pt"}))
    return folder


def _set_transitions(state: dict[str, Tensor], chain: list[int]) -> None:
    """Make each token of ``chain`` the most likely successor of the previous one. Its tokens must be unique."""
    rows = torch.tensor(chain)
    directions = torch.linalg.qr(torch.randn(_WIDTH, len(chain), generator=torch.Generator().manual_seed(5)))[0].T
    embedding, head = state["model.language_model.embed_tokens.weight"], state["lm_head.weight"]
    embedding.normal_(0, 0.1, generator=torch.Generator().manual_seed(6))
    embedding[rows] = directions * 8  # unit variance: large compared to the attention output
    head.mul_(0.1)
    head[rows[1:]] = directions[:-1] * 3


def _published_name(name: str) -> str:
    new, old = next((new, old) for new, old in _PREFIXES.items() if name.startswith(new))
    return old + name.removeprefix(new)


def _extractor() -> dict[str, Any]:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "chunk_length": 300,
        "dither": 0.0,
        "feature_size": 128,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 4_800_000,
        "nb_max_frames": 30_000,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": 16_000,
    }


def _thinker_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``thinker_config`` of the published models with small sizes."""
    ids = tokenizer.get_vocab()
    return {
        "model_type": "qwen2_5_omni_thinker",
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder",
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "d_model": 16,
            "max_source_positions": 1500,
            "n_window": 100,
            "output_dim": _WIDTH,
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder",
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": _WIDTH,
            "fullatt_block_indexes": [0],
        },
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "vocab_size": len(ids),
            "hidden_size": _WIDTH,
            "intermediate_size": 128,  # bitsandbytes on CPUs needs a multiple of 64
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1_000_000.0},
            "tie_word_embeddings": False,
        },
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "user_token_id": ids["u"],
        "tie_word_embeddings": False,
    }
