"""The training step as one writes it with diffusers, PEFT and PyTorch alone.

It computes the same loss and gradients as this program, from the same batches: the transformer of diffusers with its
dense mask in the sliding layers, ``get_peft_model``, autocast, ``clip_grad_norm_`` and ``torch.optim.AdamW``. The
transformer has no padding mask, so in a batch of different lengths it attends to the padding, as other trainers do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from acestep.adapters.targets import target_modules
from acestep.benchmark.plain_transformer import plain_transformer
from acestep.benchmark.step_meter import StepMeter
from acestep.core.errors import ConfigError
from acestep.models.load import load_dit, load_null_condition
from acestep.training.configs import TrainJob
from acestep.training.data import TrainingStep, collate, move, seed_for
from acestep.training.flow_matching import Batch
from acestep.training.prepare import Prepared

_REQUIRED = {"adapter_type": ("lora",), "optimizer_type": ("adamw",), "base_precision": ("auto",), "ema_decay": (0.0,)}
_REQUIRED_PRECISION = ("auto", "bf16", "fp32")


def require_comparable(job: TrainJob) -> None:
    """Raise ConfigError if the plain step does not have a setting of ``job``."""
    required = {**_REQUIRED, "mixed_precision": _REQUIRED_PRECISION}
    values = {name: getattr(job.training, name) for name in required}
    problems = [
        f"--against plain needs {name}={' or '.join(map(str, allowed))}, but it is {values[name]}"
        for name, allowed in required.items()
        if values[name] not in allowed
    ]
    adapter: Any = job.adapter
    if job.training.adapter_type == "lora" and (adapter.init != "default" or adapter.ranks):
        problems.append("--against plain needs a LoRA with init=default and one rank for all modules")
    if problems:
        raise ConfigError(problems, hint="Compare these settings with each other instead: --against key=value.")


class PlainModel(nn.Module):
    """The loss of each sample, from PEFT's model around the transformer of diffusers.

    Attributes:
        network: the PEFT model; its LoRA weights are fp32, whatever the dtype of the transformer.
    """

    null_condition: Tensor

    def __init__(self, prepared: Prepared) -> None:
        super().__init__()
        loaded = load_dit(prepared.checkpoint, device=prepared.device, dtype=prepared.dtype)
        transformer = plain_transformer(loaded)
        if prepared.training.gradient_checkpointing in ("on", "offload"):
            transformer.enable_gradient_checkpointing()
        self.network = get_peft_model(transformer, _lora(transformer, prepared))
        null_condition = load_null_condition(prepared.checkpoint, device=prepared.device)
        self.register_buffer("null_condition", null_condition, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """[B] float32, as ``FlowMatching`` computes it."""
        t = batch.t[:, None, None]
        velocity: Tensor = self.network(
            hidden_states=t * batch.noise + (1 - t) * batch.latents,
            timestep=batch.t,
            timestep_r=batch.t,
            encoder_hidden_states=torch.where(batch.dropped[:, None, None], self.null_condition, batch.condition),
            context_latents=batch.context,
            return_dict=False,
        )[0]
        error: Tensor = (velocity.float() - (batch.noise - batch.latents)).square().mean(dim=-1)
        if batch.frame_mask is None:
            return error.mean(dim=1) * batch.weight
        return (error * batch.frame_mask).sum(dim=1) / batch.frame_mask.sum(dim=1) * batch.weight


def _lora(transformer: nn.Module, prepared: Prepared) -> LoraConfig:
    config: Any = prepared.job.adapter
    return LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_rslora=config.use_rslora,
        target_modules=target_modules(transformer, prepared.training.attention_type, prepared.training.train_mlp),
        bias="none",
    )


def train_plainly(prepared: Prepared, steps: Iterable[TrainingStep], meter: StepMeter) -> None:
    """Train with ``PlainModel`` until the meter ends it."""
    model = PlainModel(prepared).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=prepared.lr, weight_decay=prepared.training.weight_decay)
    draw, device, dtype = prepared.example_sampler, prepared.device, prepared.dtype

    def make_batch(indices: list[int], epoch: int) -> Batch:
        chosen = [prepared.samples[i] for i in indices]
        torch.manual_seed(seed_for(draw.seed, epoch, "dropout", *(sample.name for sample in chosen)))
        return move(collate([draw(sample, epoch) for sample in chosen]), device)

    uncounted = meter.make_batch(make_batch)
    with meter:
        for step in steps:
            total = torch.zeros((), device=device)
            for micro_batch in step.micro_batches:
                batch = uncounted(micro_batch, step.epoch)
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = model(batch).sum() / step.num_samples
                loss.backward()
                total += loss.detach()
            nn.utils.clip_grad_norm_(trained, prepared.training.max_grad_norm)
            total.item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if meter.after_step():
                return
