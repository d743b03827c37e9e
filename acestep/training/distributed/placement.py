"""Device and dtype of a run, and the Lightning Fabric set-up for them."""

from __future__ import annotations

import logging
import platform
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from acestep.core.errors import ConfigError, TrainingError
from acestep.core.launcher import SINGLE, Launch
from acestep.models.connect import connect
from acestep.models.device import Selection, choose_devices, choose_dtype, choose_launched_device, xpu_lacks_fp64
from acestep.models.dit import AceStepDiT
from acestep.models.quantize import QUANTIZED
from acestep.training.configs import TrainJob
from acestep.training.distributed.xpu import XPUAccelerator

_MIXED = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


class _OneDevicePerProcess(LightningEnvironment):
    """Makes each process a node with one device for Fabric, because a launcher may give the machines different numbers
    of devices, and each process only its device.
    """

    def __init__(self, launch: Launch) -> None:
        super().__init__()
        self._launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._launch.rank


class _Autocast(MixedPrecision):
    """Autocast and, for fp16, a loss scale. Inputs stay fp32; Fabric would round the timesteps."""

    def convert_input(self, data: Any) -> Any:
        return data


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of this process and its compute dtype."""

    device: Selection[str]
    dtype: Selection[torch.dtype]
    bf16: bool  # whether the device computes in bf16


def choose_placement(job: TrainJob, launch: Launch = SINGLE) -> Placement:
    """The device and dtype of this process; with several devices, its local rank selects one. Raises ConfigError."""
    if launch.launcher:
        device = choose_launched_device(job.device, launch)
    else:
        device = choose_devices(job.device, job.devices)[launch.local_rank]
    require_splittable(job, launch)
    if job.strategy == "fsdp" and torch.device(device.value).type != "cuda":
        raise ConfigError(f"strategy fsdp needs CUDA, but the device is {device.value}", hint="Use strategy ddp.")
    dtype = choose_dtype(device.value, job.training.mixed_precision)
    if dtype.value == torch.float16:
        _require_loss_scale(torch.device(device.value))
    bf16 = choose_dtype(device.value).value == torch.bfloat16 or torch.device(device.value).type == "cpu"
    return Placement(device, dtype, bf16)


def _require_loss_scale(device: torch.device) -> None:
    """fp16 needs ``torch.amp.GradScaler``, which computes in fp64: https://github.com/pytorch/pytorch/issues/147731."""
    if xpu_lacks_fp64(device):
        raise ConfigError(
            f"mixed_precision fp16 cannot train on {device}: its loss scale needs fp64, which this GPU does not have",
            hint="Set mixed_precision to auto, bf16 or fp32.",
        )


def require_splittable(job: TrainJob, launch: Launch = SINGLE) -> None:
    """Raise ConfigError if the strategy is fsdp and this system or a setting rules that out, whatever the device is.

    FSDP gathers and scatters weights on the GPUs, which gloo cannot do
    (docs.pytorch.org/docs/stable/distributed.html#backends).
    """
    if job.strategy != "fsdp":
        return
    if not distributed.is_nccl_available():
        system = platform.system().replace("Darwin", "macOS")
        raise ConfigError(
            f"strategy fsdp needs NCCL, which this PyTorch for {system} does not include",
            hint="Use strategy ddp, or train on Linux with NVIDIA or AMD GPUs.",
        )
    if max(job.devices, launch.world_size) == 1:
        raise ConfigError("strategy fsdp shards the model over devices, but devices is 1", hint="Raise devices.")
    if job.training.gradient_checkpointing == "offload":
        raise ConfigError(
            "strategy fsdp cannot keep the inputs of layers in CPU memory",
            hint="Set gradient_checkpointing to on or auto.",
        )
    if job.training.base_precision in QUANTIZED:
        raise ConfigError(
            f"strategy fsdp cannot shard a base model in {job.training.base_precision}",
            hint="Use strategy ddp: a quantized base model fits on each device.",
        )


def make_fabric(device: torch.device, dtype: torch.dtype, *, launch: Launch = SINGLE, strategy: str = "ddp") -> Fabric:
    """Fabric on ``device``, for this one of the processes of ``launch``; the forward pass computes in ``dtype``.

    Waits for all processes. DDP reduces the gradients with either strategy.

    Raises:
        TrainingError: Fabric does not support the device.
        WorkerCrashed: not all processes were started.
    """
    if device.type not in ("cpu", "cuda", "mps", "xpu"):
        raise TrainingError(f"training on {device.type} is not supported", hint="Set device to cpu, or use a GPU.")
    precision: Any = Precision() if dtype == torch.float32 else _Autocast(_MIXED[dtype], device.type)  # type: ignore[arg-type]
    if several := launch.world_size > 1:
        connect(launch, device)  # with the options that Fabric does not pass on
    one: Any = [device.index or 0] if device.type in ("cuda", "xpu") else 1
    xpu = device.type == "xpu"  # one device, which Fabric does not know
    alone: Any = SingleDeviceStrategy(torch.device("xpu", device.index or 0)) if xpu else "auto"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric recommends accelerators other than the chosen one
        fabric = Fabric(
            accelerator=XPUAccelerator() if xpu else device.type,
            devices=one,
            num_nodes=launch.world_size,
            strategy=_ddp(sharded=strategy == "fsdp") if several else alone,
            plugins=[precision, _OneDevicePerProcess(launch) if several else LightningEnvironment()],
        )
        if several:
            fabric.launch()
    return fabric


def _ddp(*, sharded: bool) -> DDPStrategy:
    """DDP that broadcasts the initial weights from rank 0, unless each process holds its own shard.

    ``find_unused_parameters`` keeps DDP from waiting for the other devices in the forward pass of the second step.
    """
    return DDPStrategy(
        broadcast_buffers=False,
        init_sync=not sharded,
        find_unused_parameters=True,
    )


def shard_layers(decoder: AceStepDiT, own: set[nn.Parameter], device: torch.device) -> None:
    """Shard the decoder's ``own`` weights of each layer over the devices with FSDP2.

    A layer is gathered while it computes, so gradient checkpointing has to happen inside it. The adapter is small: it
    is replicated on every device, and DDP reduces its gradients.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for number, layer in enumerate(decoder.layers):
        if decoder.gradient_checkpointing and number % decoder.checkpoint_every == 0:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=set(layer.parameters()) - own)
    decoder.disable_gradient_checkpointing()
    nn.Module.to(decoder, device)  # weights outside of the layers are small
