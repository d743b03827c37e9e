"""One function for each program: the adapter in a form that it reads, exactly if there is one, else as near as asked.

Each writes into an empty folder, opens again what it wrote, and gives what the program will make of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestep.adapters.base import write_tensors
from acestep.adapters.files import read_adapter
from acestep.adapters.lora_file import CONFIG
from acestep.core.errors import AdapterError
from acestep.core.files import read_json
from acestep.exporting import rules
from acestep.exporting.lokr_settings import buildable
from acestep.exporting.rules import Heard
from acestep.exporting.source import CONVOLUTIONS, Source, file_of, read_tensors, write_own

_UNIVERSAL = "pytorch_lora_weights.safetensors"  # where diffusers looks first


@dataclass(frozen=True, slots=True)
class Written:
    """``hand_over`` is the name of the file in the folder that the program wants; empty for the folder itself.

    ``form`` says what the adapter became; ``exact`` whether only the file's rounding lies between it and the adapter.
    """

    heard: Heard
    form: str
    exact: bool
    hand_over: str = ""


def acestep(source: Source, folder: Path, name: str) -> Written:
    """A folder for the app: PEFT's two files, or a LoKr with the settings that the app builds it from."""
    own = buildable(source.own) if source.own else None
    adapter = own or source.lora
    write_own(adapter, folder)
    if not _app_reads(folder):
        raise AdapterError(
            f"the app has no loader for {source.adapter.file}", hint="Give a rank: then it becomes a LoRA."
        )
    return Written(Heard(read_adapter(folder).modules), adapter.kind, adapter is own)


def _app_reads(folder: Path) -> bool:
    """Any PEFT type, or LyCORIS' LoKr with the settings that the app builds it from (INTEROP B1)."""
    if (folder / CONFIG).is_file():
        return bool(read_json(folder / CONFIG, error=AdapterError).get("peft_type"))
    return all("lokr_config" in read_tensors(file)[1] for file in folder.glob("*.safetensors"))


def comfyui(source: Source, folder: Path, name: str) -> Written:
    """One file. What ComfyUI does not know, or would compute wrongly, is given to it as whole additions."""
    adapter = source.own if source.rank is None else source.lora
    tensors, metadata = source.own_file if source.rank is None else file_of(source.lora)
    card = source.adapter.card.stamped(source.adapter.kind, source.adapter.card.config)
    heard = rules.comfyui(tensors)
    whole = {source.owner(key) for key in heard.left_out} | (source.modules.keys() - heard.modules.keys())
    tensors = {key: tensor for key, tensor in tensors.items() if source.owner(key) not in whole}
    form = " and ".join(([adapter.kind] if adapter and tensors else []) + (["whole additions"] if whole else []))
    tensors |= {f"base_model.model.{module}.diff": source.diff(module) for module in sorted(whole)}
    file = f"{name}.safetensors"
    write_tensors(folder / file, tensors, metadata or card.to_metadata())
    return Written(rules.comfyui(read_tensors(folder / file)[0]), form, source.rank is None, file)


def diffusers(source: Source, folder: Path, name: str) -> Written:
    """One file with nothing beside it, since the loader takes the only one in the folder.

    Raises:
        AdapterError: for MLP layers alone, which the loader would leave out without a word.
    """
    if not any(module.endswith(("q_proj", "k_proj")) for module in source.modules):
        raise AdapterError(
            f"{source.adapter.file} has no q_proj or k_proj, and diffusers loads nothing from such a file",
            hint="Train attention too, or merge the adapter into the model in the diffusers layout.",
        )
    adapter, (tensors, metadata) = source.own, source.own_file
    if adapter is None or rules.diffusers(tensors).left_out:
        adapter = source.lora
        tensors, metadata = file_of(adapter)
    write_tensors(folder / _UNIVERSAL, tensors, metadata)
    heard = rules.diffusers(read_tensors(folder / _UNIVERSAL)[0])
    return Written(heard, adapter.kind, adapter is source.own)


def left_behind(source: Source, heard: Heard) -> list[str]:
    """Convolutions that the program cannot take; they are part of the residual."""
    return [module for module in CONVOLUTIONS if module in source.modules and module not in heard.modules]
