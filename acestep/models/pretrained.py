"""Read model folders with transformers without letting their files choose code, kernels or other files.

``from_pretrained`` follows what a folder says: ``auto_map`` names Python files to run, an attention implementation can
be a kernel to download, ``quantization_config`` a package to import, ``adapter_config.json`` another folder. Here, the
library gets a config without these keys and a copy of the tokenizer files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json, write_json
from acestep.core.untrusted import shorten
from acestep.models.config_checks import check_component_config

_HINT = "Download the model again."

# Keys that make transformers 5.23 run, import, download or open something other than the expected class and files.
_REMOVED = {
    "attn_implementation",
    "auto_map",
    "code_revision",
    "custom_generate",
    "custom_pipelines",
    "distributed_config",
    "experts_implementation",
    "fast_tokenizer_files",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
}
_QUANTIZATION = ("quantization_config", "compression_config")
_TOKENIZERS = (None, "PreTrainedTokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend")
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
)
_TOKENIZER_CONFIGS = ("config.json", "tokenizer_config.json")


def read_model_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder whose weights are read by ``from_pretrained``, without unsafe keys.

    Raises:
        CheckpointError: missing or malformed, a quantized model, or an adapter.
    """
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(f"{folder} contains an adapter, expected a model", hint="Remove adapter_config.json.")
    if shards := sorted(folder.glob("shard-*.safetensors")):
        raise CheckpointError(f"{shards[0]} is part of a distributed checkpoint, expected model.safetensors")
    config = _read_config(folder / "config.json")
    check_component_config(folder, config)
    return config


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path, error=CheckpointError, hint=_HINT)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not contain a JSON object", hint=_HINT)
    cleaned: dict[str, Any] = _cleaned(path, config)
    return cleaned


def _cleaned(path: Path, value: Any) -> Any:
    """``value`` without unsafe keys, at any depth. Keys that start with "_" are internal to transformers."""
    if isinstance(value, list):
        return [_cleaned(path, item) for item in value]
    if not isinstance(value, dict):
        return value
    if quantized := [key for key in _QUANTIZATION if value.get(key)]:
        raise CheckpointError(
            f"{path} contains {quantized[0]}: quantized models are not supported",
            hint="Use the published model. The captioner can quantize it when it is loaded.",
        )
    return {
        key: _cleaned(path, item)
        for key, item in value.items()
        if not key.startswith("_") and key not in _REMOVED and key not in _QUANTIZATION
    }


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in ``folder``.

    Raises:
        CheckpointError: its class is none of those that the models use, or files are missing or malformed.
    """
    from transformers import AutoTokenizer

    with _tokenizer_copy(folder) as copy:
        try:
            return AutoTokenizer.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 - the tokenizers library raises plain Exception for malformed files
            message = f"the tokenizer in {folder} cannot be loaded: {shorten(error, 300)}"
            raise CheckpointError(message, hint=_HINT) from None


@contextmanager
def _tokenizer_copy(folder: Path) -> Iterator[Path]:
    """A temporary folder with the tokenizer files of ``folder`` and cleaned configs."""
    with tempfile.TemporaryDirectory(prefix="acestep-tokenizer-") as name:
        copy = Path(name)
        for file in _TOKENIZER_FILES:
            if (folder / file).is_file():
                shutil.copyfile(folder / file, copy / file)
        for file in _TOKENIZER_CONFIGS:
            if (folder / file).is_file():
                write_json(copy / file, _tokenizer_config(folder / file))
        yield copy


def _tokenizer_config(path: Path) -> dict[str, Any]:
    """A config without the names of files, such as ``vocab_file``. Raises CheckpointError for an unknown class."""
    config = {key: value for key, value in _read_config(path).items() if not key.endswith("_file")}
    if config.get("tokenizer_class") not in _TOKENIZERS:
        expected = ", ".join(filter(None, _TOKENIZERS))
        raise CheckpointError(
            f"{path}: tokenizer_class is {config['tokenizer_class']!r}, expected one of {expected}", hint=_HINT
        )
    return config
