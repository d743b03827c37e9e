"""Merge a LoRA into a model of full size with seeded weights: time, peak memory, and whether it answers the same.

Not part of the test run:  nice python -m dev.measure_merge [--family xl] [--layers 24] [--workdir /tmp/merge]
It takes about three times the model's size on the disk and, for the comparison in fp32, twice its size in memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.configs import LoRAConfig
from acestep.adapters.files import adapter_class, load_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.jobs import write_job
from acestep.core.paths import PROJECT
from acestep.exporting.check import probe_decoder
from acestep.exporting.configs import MergeJob
from acestep.exporting.safetensors_stream import TensorWriter
from acestep.models.load import load_dit
from acestep.models.weight_shapes import DEFAULTS, expected_shapes

_XL = {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "encoder_hidden_size": 2048,
    "encoder_intermediate_size": 6144,
    "encoder_num_attention_heads": 16,
    "encoder_num_key_value_heads": 8,
}
_RANK = 64


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """A checkpoint in bf16: norms are one, everything else is small noise."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "is_turbo": True, "dtype": "bfloat16"}))
    torch.save(torch.zeros(1, 64, 15_000), folder / "silence_latent.pt")
    shapes, generator = expected_shapes(config), torch.Generator().manual_seed(1)
    layout = {name: (torch.bfloat16, shape) for name, shape in shapes.items()}
    with TensorWriter(folder / "model.safetensors", layout) as writer:
        for name in writer.names:
            if name.endswith(("norm.weight", "norm_out.weight")):
                writer.write(name, torch.ones(shapes[name], dtype=torch.bfloat16))
            else:
                writer.write(name, (0.02 * torch.randn(shapes[name], generator=generator)).bfloat16())


def write_lora(folder: Path, config: dict[str, Any], family: str) -> None:
    """A LoRA on all attention and MLP layers that adds about a tenth of each weight."""
    generator, weights = torch.Generator().manual_seed(2), {}
    for name, shape in expected_shapes(config).items():
        if name.startswith("decoder.layers.") and name.endswith("_proj.weight"):
            module = name.removeprefix("decoder.").removesuffix(".weight")
            weights[f"{module}.lora_A.weight"] = torch.randn(_RANK, shape[1], generator=generator)
            size = 0.002 / _RANK**0.5
            weights[f"{module}.lora_B.weight"] = size * torch.randn(shape[0], _RANK, generator=generator)
    folder.mkdir(parents=True)
    lora, metadata = LoRAConfig(r=_RANK, alpha=_RANK), AdapterMetadata(family=family)
    adapter_class("lora").write(folder, weights, lora, metadata, torch.bfloat16)


def run_merge(job: Path) -> dict[str, float]:
    """The job in a process of its own; its anonymous memory is looked at fifty times a second."""
    begin, peak = time.monotonic(), 0
    command = [sys.executable, "-m", "acestep", "run", str(job)]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=PROJECT, stdin=nothing, stdout=nothing, stderr=nothing)
    while process.poll() is None:
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0, (job / "log.txt").read_text()
    return {"seconds": time.monotonic() - begin, "peak_anonymous_mib": peak / 2**20}


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


@torch.no_grad()
def answer(model: Path, adapter: Path | None = None) -> Tensor:
    decoder = load_dit(model)
    if adapter:
        load_adapter(decoder, adapter)
    found = probe_decoder(decoder)
    del decoder
    gc.collect()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=["2b", "xl"], default="2b")
    parser.add_argument("--layers", type=int, help="fewer layers of the decoder, to try the script")
    parser.add_argument("--workdir", type=Path)
    options = parser.parse_args()
    config = {**DEFAULTS, **(_XL if options.family == "xl" else {})}
    config["num_hidden_layers"] = options.layers or config["num_hidden_layers"]
    with tempfile.TemporaryDirectory(dir=options.workdir) as root:
        base, lora, merged, job = (Path(root) / name for name in ("base", "lora", "merged", "job"))
        write_model(base, config)
        write_lora(lora, config, options.family)
        write_job(job, "merge", MergeJob(checkpoint=str(base), adapter=lora, out=merged))
        figures: dict[str, Any] = {"base_gib": (base / "model.safetensors").stat().st_size / 2**30, **run_merge(job)}
        last = json.loads((job / "events.jsonl").read_text().splitlines()[-1])
        figures |= {"merged_weights": last["result"]["merged"], "rounding_of_the_addition": last["result"]["rounding"]}
        plain, wanted, found = answer(base), answer(base, lora), answer(merged)
    figures["effect"] = float((wanted - plain).norm() / plain.norm())
    figures["merged_against_base_and_adapter"] = float((found - wanted).norm() / wanted.norm())
    figures["relative_to_the_effect"] = float((found - wanted).norm() / (wanted - plain).norm())
    print(json.dumps(figures, indent=2))  # noqa: T201 - a script for people


if __name__ == "__main__":
    main()
