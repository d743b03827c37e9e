"""A process of the tests of several devices: raises errors on one rank, and shards a model.

``python -m tests.training.distributed.worker_script CHECKPOINT OUT``, with the environment of a worker, writes
``OUT/<rank>.json``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from acestep.adapters.base import Adapter
from acestep.adapters.configs import AdapterConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import inject, load_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import AceStepError, DiskFull
from acestep.core.launcher import launch_of_worker
from acestep.models.load import load_dit, load_null_condition
from acestep.models.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.data import ExampleSampler, StepPlan, collate
from acestep.training.distributed.placement import make_fabric, shard_layers
from acestep.training.flow_matching import Batch, FlowMatching
from acestep.training.loop import Progress, StepReport, train
from acestep.training.state.random_state import RandomState
from tests.training.songs import ToyDecoder, make_samples

CPU = torch.device("cpu")
KINDS: dict[str, AdapterConfig] = {
    "lora": LoRAConfig(r=4, alpha=8, dropout=0.0, init="pissa"),
    "lokr": LoKRConfig(linear_dim=2, factor=4),
}
LENGTHS = [(6 + 2 * i, 2 + i) for i in range(5)]
DRAW = ExampleSampler(seed=1, max_frames=8, mu=-0.4, sigma=1.0, cfg_dropout=0.2, weight=lambda t: 1.0)


class Rig:
    """Three steps of the loop on ``model``; the processes of ``team`` share them."""

    def __init__(self, fabric: Any, processes: ProcessGroup, model: FlowMatching, parameters: list[Any]) -> None:
        self.processes, self.fabric, self.losses = processes, fabric, []
        self.samples = make_samples(LENGTHS, width=model.null_condition.shape[-1])
        self.model, self.optimizer = fabric.setup(model, torch.optim.SGD(parameters, lr=0.1))
        self.progress = Progress()

    def make_batch(self, samples: list[int], epoch: int) -> Batch:
        return collate([DRAW(self.samples[i], epoch) for i in samples])

    def after_step(self, report: StepReport) -> bool:
        self.losses.append(report.loss)
        return self.progress.step == 3

    def run(self, accumulation: int) -> Rig:
        plan = StepPlan(
            len(self.samples),
            seed=4,
            batch_size=1,
            accumulation=accumulation,
            epochs=3,
            devices=self.processes.world_size,
        )
        train(
            fabric=self.fabric,
            model=self.model,
            optimizer=self.optimizer,
            lr_at=lambda step: 0.1,
            steps=plan.steps(),
            make_batch=self.make_batch,
            progress=self.progress,
            random=RandomState(CPU),
            max_grad_norm=1e9,
            max_not_finite=10,
            callback=self,
            stop_if_cancelled=lambda: None,
            processes=self.processes,
        )
        return self


class Spoilt(Rig):
    """The loss of one song is never a number."""

    def make_batch(self, samples: list[int], epoch: int) -> Batch:
        weight = torch.tensor([math.nan if i == 2 else 1.0 for i in samples])
        return super().make_batch(samples, epoch)._replace(weight=weight)


class Crowded(Rig):
    """The second process runs out of memory in the second step, after its first micro-batch."""

    def make_batch(self, samples: list[int], epoch: int) -> Batch:
        if self.progress.step == 1 and self.processes.rank == 1:
            raise torch.OutOfMemoryError("full")
        return super().make_batch(samples, epoch)


class NoRoom(Rig):
    """The first process cannot save after the second step."""

    def after_step(self, report: StepReport) -> bool:
        if self.progress.step == 2 and self.processes.is_main:
            raise DiskFull("full", hint="Make room.")
        return super().after_step(report)


def toy(kind: type[Rig], fabric: Any, processes: ProcessGroup, accumulation: int) -> tuple[Rig, ToyDecoder]:
    decoder = ToyDecoder()
    rig = kind(fabric, processes, FlowMatching(decoder, torch.zeros(1, 1, 64)), list(decoder.parameters()))
    return rig.run(accumulation), decoder


def ended_together(kind: type[Rig], fabric: Any) -> str:
    """What the trouble of one process ends this one with."""
    processes = ProcessGroup(launch_of_worker())
    try:
        with processes.fail_together():
            toy(kind, fabric, processes, 1)
    except (AceStepError, torch.OutOfMemoryError) as problem:
        return f"{type(problem).__name__}: {problem} {getattr(problem, 'hint', '')}".strip()
    return "nothing"


def spoilt(fabric: Any, processes: ProcessGroup) -> float:
    """How far the weights are from those of one process after steps with a song that has no finite loss."""
    _, here = toy(Spoilt, fabric, processes, 1)
    _, alone = toy(Spoilt, make_fabric(CPU, torch.float32), SINGLE_PROCESS, 2)
    return max(float((a - b).abs().max().detach()) for a, b in zip(here.parameters(), alone.parameters(), strict=True))


def split(checkpoint: str, kind: str, config: AdapterConfig, processes: ProcessGroup, out: Path) -> dict[str, Any]:
    """How far a model whose frozen part is split in two gets from a whole one, and how much of it is here.

    ``delivered`` is how far its loss is from that of the adapter's file, read back.
    """
    found, fabric = [], make_fabric(CPU, torch.float32, launch=processes.launch, strategy="fsdp")
    for mine, who, accumulation in ((fabric, processes, 1), (make_fabric(CPU, torch.float32), SINGLE_PROCESS, 2)):
        decoder = load_dit(checkpoint)
        decoder.enable_gradient_checkpointing()
        own = set(decoder.parameters())
        adapter = inject(decoder, kind, config, "both", True, seed=3)
        whole = sum(p.numel() for p in decoder.layers.parameters() if p in own)
        if who.world_size > 1:
            shard_layers(decoder, own, CPU)
            kept = sum(p.to_local().numel() for p in decoder.layers.parameters() if isinstance(p, DTensor))
            share, shared = kept / whole, (decoder, adapter)
        rig = Rig(mine, who, FlowMatching(adapter.network, load_null_condition(checkpoint)), adapter.parameters())
        found.append((rig.run(accumulation).losses, adapter.state()))
    (losses, state), (others, other) = found
    far = max(float((state[key] - other[key]).abs().max()) for key in state)
    return {
        "losses": max(abs(a - b) for a, b in zip(losses, others, strict=True)),
        "weights": far,
        "share": share,
        "delivered": delivered(*shared, load_null_condition(checkpoint), out / f"{kind} {processes.rank}"),
    }


def delivered(decoder: Any, adapter: Adapter, null_condition: Tensor, folder: Path) -> float:
    """How far the loss of an adapter's file is from that of the adapter."""
    batch = collate([DRAW(sample, 7) for sample in make_samples(LENGTHS, width=null_condition.shape[-1])])
    losses = []
    with torch.no_grad():
        losses.append(FlowMatching(adapter.network, null_condition)(batch))
        folder.mkdir()
        adapter.save(folder, AdapterMetadata(base_model="tiny", family="2b"), dtype=torch.float32)
        adapter.remove()
        load_adapter(decoder, folder)
        losses.append(FlowMatching(decoder, null_condition)(batch))
    return float((losses[0] - losses[1]).abs().max())


def main(checkpoint: str, out: str) -> None:
    launch = launch_of_worker()
    fabric = make_fabric(CPU, torch.float32, launch=launch)
    processes = ProcessGroup(launch)
    result: dict[str, Any] = {
        "spoilt": spoilt(fabric, processes),
        "memory": ended_together(Crowded, fabric),
        "disk": ended_together(NoRoom, fabric),
    }
    for kind, config in KINDS.items():
        result[kind] = split(checkpoint, kind, config, processes, Path(out))
    Path(out, f"{processes.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
