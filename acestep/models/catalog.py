"""The models that can be downloaded: names, repositories, sizes, and whether a model is present.

Imports nothing outside the standard library, so that the environment check can use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from acestep.core.errors import CheckpointError, UnknownName, nearest_hint
from acestep.core.files import read_json
from acestep.models.safetensors_header import read_tensor_infos

_MAIN = "ACE-Step/Ace-Step1.5"  # one repository with several folders, each a model here
_REQUIRED = ("vae", "Qwen3-Embedding-0.6B")


@dataclass(frozen=True, slots=True)
class Model:
    """One folder in the checkpoints folder.

    Attributes:
        name: folder name.
        about: one line for lists.
        size_gb: download size.
        repo: repository name, the same on both hubs.
        subfolder: folder in the repository, "" for the whole repository.
        needs: models that are downloaded along with it.
        files: required files besides config.json and the weights.
        weights: file name of the weights, without suffix.
        pipeline: the folder has the diffusers pipeline layout.
    """

    name: str
    about: str
    size_gb: float
    repo: str
    subfolder: str = ""
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    weights: str = "model"
    pipeline: bool = False


def _dit(variant: str, about: str, size_gb: float = 4.8) -> Model:
    name = f"acestep-v15-{variant}"
    return Model(name, about, size_gb, f"ACE-Step/{name}", needs=_REQUIRED, files=("silence_latent.pt",))


def _diffusers(variant: str, about: str) -> Model:
    name = f"acestep-v15-{variant}-diffusers"
    return Model(name, about, 11.5, f"ACE-Step/{name}", pipeline=True)


def _with_tokenizer(name: str, about: str, size_gb: float, repo: str = "", subfolder: str = "") -> Model:
    return Model(name, about, size_gb, repo or f"ACE-Step/{name}", subfolder, files=("tokenizer_config.json",))


_TURBO = "acestep-v15-turbo"
CATALOG: tuple[Model, ...] = (
    Model(
        _TURBO,
        "music model, 8 steps; the default choice",
        4.8,
        _MAIN,
        _TURBO,
        needs=_REQUIRED,
        files=("silence_latent.pt",),
    ),
    Model(
        "vae",
        "audio autoencoder; every music model needs it",
        0.34,
        _MAIN,
        "vae",
        weights="diffusion_pytorch_model",
    ),
    _with_tokenizer(
        "Qwen3-Embedding-0.6B",
        "text encoder for prompts and lyrics; every music model needs it",
        1.2,
        _MAIN,
        "Qwen3-Embedding-0.6B",
    ),
    _dit("base", "music model before distillation, 50 steps with guidance"),
    _dit("sft", "base model fine-tuned to follow prompts and lyrics"),
    _dit("turbo-shift1", "turbo, distilled at shift 1"),
    _dit("turbo-shift3", "turbo, distilled at shift 3"),
    _dit("turbo-continuous", "turbo, distilled over all shifts"),
    _dit("xl-turbo", "4B turbo model, fp32 weights", 20.0),
    _dit("xl-base", "4B base model, fp32 weights", 20.0),
    _dit("xl-sft", "4B sft model, fp32 weights", 20.0),
    _diffusers("xl-turbo", "4B turbo model, 16-bit weights, complete pipeline"),
    _diffusers("xl-base", "4B base model, 16-bit weights, complete pipeline"),
    _diffusers("xl-sft", "4B sft model, 16-bit weights, complete pipeline"),
    _with_tokenizer("acestep-captioner", "describes songs", 22.0),
    _with_tokenizer("acestep-transcriber", "transcribes lyrics", 22.0),
)
_BY_NAME = {model.name: model for model in CATALOG}
_ALIASES = {"main": _TURBO}


def find_model(name: str) -> Model:
    """The model of that name; "main" is the turbo model. Raises UnknownName."""
    name = _ALIASES.get(name, name)
    if name not in _BY_NAME:
        raise UnknownName([f"unknown model {name!r}"], hint=nearest_hint(name, [*_ALIASES, *_BY_NAME]))
    return _BY_NAME[name]


def with_needs(names: Iterable[str]) -> list[Model]:
    """The requested models, each once and followed by the models it needs. Raises UnknownName."""
    found: dict[str, Model] = {}
    for name in names:
        model = find_model(name)
        for each in (model, *map(find_model, model.needs)):
            found.setdefault(each.name, each)
    return list(found.values())


def is_present(name: str, root: Path) -> bool:
    """Whether the model in ``root`` is complete: all files present, no weight missing or truncated."""
    model = find_model(name)
    try:
        check_folder(model, root / model.name)
    except CheckpointError:
        return False
    return True


def check_folder(model: Model, folder: Path) -> None:
    """Raise CheckpointError with the first file of ``model`` that is missing in ``folder``. Reads headers only."""
    if model.pipeline:
        return _check_pipeline(folder)
    for name in ("config.json", *model.files):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing")
    read_json(folder / "config.json", error=CheckpointError)
    read_tensor_infos(folder, model.weights)
    return None


def _check_pipeline(folder: Path) -> None:
    index = read_json(folder / "model_index.json", error=CheckpointError)
    parts = {name: kind for name, kind in dict(index).items() if isinstance(kind, list) and len(kind) == 2 and kind[0]}
    if "transformer" not in parts:
        raise CheckpointError(f"{folder / 'model_index.json'} lists no transformer")
    for name, (library, _) in parts.items():
        if not (folder / name).is_dir():
            raise CheckpointError(f"{folder / name} is missing")
        if (folder / name / "config.json").is_file():  # schedulers and tokenizers have no weights
            read_tensor_infos(folder / name, "model" if library == "transformers" else "diffusion_pytorch_model")
