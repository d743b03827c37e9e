"""Sensitivity analysis: which weights get the largest gradients from a dataset, before an adapter is trained.

The gradient norm of every weight that an adapter could target is computed sample by sample; a large norm means that
there is much to learn. Two files are written:

    sensitivity.json    the most sensitive modules or layers: module, score (1 for the first), raw_norm
    ranks.json          settings for ``train --config``: a rank for each module by its sensitivity
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from acestep.adapters.base import require_no_adapter
from acestep.adapters.configs import ADAPTERS, LoHaConfig, LoRAConfig
from acestep.adapters.targets import target_modules
from acestep.core.errors import LossNotFinite
from acestep.core.events import ItemFailed, LogMessage, Progressed, Saved, Started
from acestep.core.files import write_json
from acestep.core.jobs import Context
from acestep.models.checkpoint import Checkpoint, check_checkpoint, find_checkpoint
from acestep.models.device import choose_device, choose_dtype, empty_cache, not_finite_hint
from acestep.models.key_mapping import diffusers_to_original
from acestep.models.load import load_dit, load_null_condition
from acestep.models.memory_limit import use_device
from acestep.tensors.manifest import read_manifest
from acestep.training.data import ExampleSampler, TrainingSample, collate, move, sorted_by_hash
from acestep.training.distributed.placement import make_fabric
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.flow_matching import FlowMatching
from acestep.training.prepare import read_samples, require_fit
from acestep.training.silent_contexts import with_silent_contexts

RESULTS, RANKS = "sensitivity.json", "ranks.json"
_LOSS_SCALE = 1024.0  # a power of two changes the exponent only; without it fp16 gradients underflow
_LEAST, _MOST = 0.25, 2.0  # bounds of a module's rank, relative to the mean rank


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One module or layer: ``score`` is relative to the most sensitive one, ``raw_norm`` the mean gradient norm."""

    module: str
    score: float
    raw_norm: float


def estimate_job(config: EstimateJob, context: Context) -> dict[str, Any]:
    """Rank the modules of a model by their gradient norms on a dataset.

    Raises:
        JobCancelled: the user stopped the job; there are no results.
        LossNotFinite: no sample gave finite gradients.
        TrainingError, TensorError, CheckpointError, ModelMismatch, ConfigError, StorageError.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    check_checkpoint(checkpoint)
    samples = read_samples(read_manifest(config.tensor_dir), context)
    require_fit(samples, checkpoint, config.tensor_dir, context)
    samples = with_silent_contexts(samples, checkpoint, context)
    device = choose_device(config.device)
    context.emit(LogMessage(message=f"{checkpoint.name} on {device.value}: {device.reason}"))
    with use_device(device.value, "sensitivity analysis", context):
        try:
            norms = _norms_of_loaded_model(config, checkpoint, samples, torch.device(device.value), context)
        finally:
            gc.collect()
            empty_cache(device.value)
    ranked = rank_modules(norms if config.granularity == "module" else by_layer(norms))[: config.top_k]
    results, ranks = config.folder / RESULTS, config.folder / RANKS
    write_json(results, [asdict(place) for place in ranked])
    write_json(ranks, _settings(config, norms))
    for path in (results, ranks):
        context.emit(Saved(path=str(path), role="estimate"))
    return {"results": str(results), "ranks": str(ranks), "modules": len(norms), "top": [asdict(p) for p in ranked]}


def _norms_of_loaded_model(
    config: EstimateJob, checkpoint: Checkpoint, samples: list[TrainingSample], device: torch.device, context: Context
) -> dict[str, float]:
    """``gradient_norms`` of a model that is loaded for this job."""
    dtype = choose_dtype(str(device), config.mixed_precision)
    fabric = make_fabric(device, dtype.value)
    decoder = load_dit(checkpoint, device=device, dtype=dtype.value)
    decoder.enable_gradient_checkpointing()
    null_condition = load_null_condition(checkpoint, device=device)
    draw = ExampleSampler(
        seed=config.seed,
        max_frames=config.max_latent_length,
        mu=checkpoint.timestep_mu,
        sigma=checkpoint.timestep_sigma,
        cfg_dropout=0.0,
        weight=lambda t: 1.0,
    )

    def backward(sample: TrainingSample, epoch: int) -> float:
        with fabric.autocast():
            loss = model(move(collate([draw(sample, epoch)]), device)).sum()
        (loss * _LOSS_SCALE).backward()
        return float(loss.detach())

    model = FlowMatching(decoder, null_condition)
    order = sorted_by_hash(samples, config.seed)
    wanted = [(order[i % len(order)], i // len(order)) for i in range(config.batches)]
    modules = target_modules(decoder, config.attention_type, config.train_mlp)
    return gradient_norms(decoder, modules, wanted, backward, context, dtype.value)


def gradient_norms(
    decoder: nn.Module,
    modules: list[str],
    samples: list[tuple[TrainingSample, int]],
    backward: Callable[[TrainingSample, int], float],
    context: Context,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Original module name -> mean gradient norm of its weight over ``samples`` (each with its epoch).

    ``backward`` computes the gradients of one sample in ``dtype``, times the loss scale, and gives the loss. A hook
    records the norm of each gradient and drops it, so only one is in memory at a time. The decoder stays frozen.

    Raises:
        AdapterError: the decoder carries an adapter. LossNotFinite: no sample gave finite gradients. JobCancelled.
    """
    require_no_adapter(decoder)
    found: dict[str, float] = {}
    hooks = [_record_norm(decoder.get_submodule(name), diffusers_to_original(name), found) for name in modules]
    sums = dict.fromkeys(map(diffusers_to_original, modules), 0.0)
    counted, hint = 0, not_finite_hint(dtype, "--mixed-precision fp32 (Precision)", "Preprocess the songs again.")
    context.emit(Started(job="estimate", total=len(samples), unit="songs"))
    try:
        for number, (sample, epoch) in enumerate(samples, start=1):
            context.stop_if_cancelled()
            found.clear()
            loss = backward(sample, epoch)
            if math.isfinite(loss) and all(map(math.isfinite, found.values())):
                counted += 1
                sums = {name: value + found.get(name, 0.0) for name, value in sums.items()}
            else:
                context.emit(
                    ItemFailed(item=sample.name, message="its loss or gradient is not a finite number", hint=hint)
                )
            context.emit(Progressed(done=number, total=len(samples), note=sample.name))
    finally:
        for hook in hooks:
            hook.remove()
        decoder.requires_grad_(False)
    if not counted:
        raise LossNotFinite(
            f"no sample gave a finite gradient, computed in {str(dtype).removeprefix('torch.')}",
            hint=hint,
        )
    return {name: value / counted for name, value in sums.items()}


def _record_norm(module: Any, name: str, found: dict[str, float]) -> Any:
    """Record the norm of the weight's gradient in ``found`` whenever one is computed."""

    def record(weight: nn.Parameter) -> None:
        assert weight.grad is not None
        found[name] = float(weight.grad.float().norm()) / _LOSS_SCALE
        weight.grad = None

    module.weight.requires_grad_(True)
    return module.weight.register_post_accumulate_grad_hook(record)


def by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """The mean over the weights of each block: ``layers.3.self_attn`` from its four projections."""
    blocks: dict[str, list[float]] = {}
    for name, norm in norms.items():
        blocks.setdefault(name.rpartition(".")[0], []).append(norm)
    return {block: sum(found) / len(found) for block, found in blocks.items()}


def rank_modules(norms: Mapping[str, float]) -> list[Sensitivity]:
    """The most sensitive first; ties in model order."""
    top = max(norms.values()) or 1.0
    ranked = sorted(norms.items(), key=lambda item: -item[1])
    return [Sensitivity(name, round(norm / top, 4), round(norm, 6)) for name, norm in ranked]


def propose_ranks(norms: Mapping[str, float], rank: int) -> dict[str, int]:
    """A rank for each module in proportion to its norm, between ``rank`` / 4 and 2 ``rank``.

    Their mean is ``rank``, so the adapter has about as many parameters as one with that rank everywhere.
    """
    least, most = max(1.0, _LEAST * rank), _MOST * rank
    low, high = 0.0, most / max(min(norms.values()), 1e-30)
    for _ in range(200):  # bisection: the mean grows with the factor
        middle = (low + high) / 2
        if _mean(min(max(middle * norm, least), most) for norm in norms.values()) < rank:
            low = middle
        else:
            high = middle
    return {name: round(min(max(high * norm, least), most)) for name, norm in norms.items()}


def _settings(config: EstimateJob, norms: Mapping[str, float]) -> dict[str, Any]:
    """Settings of a run with the proposed ranks; alpha keeps its default ratio to the rank."""
    kind, rank, usual = config.adapter_type, config.mean_rank, ADAPTERS[config.adapter_type].config()
    assert isinstance(usual, LoRAConfig | LoHaConfig)
    alpha = max(1, round(rank * usual.alpha / usual.r))
    label = ADAPTERS[kind].label
    return {
        "_description": f"Ranks of a {label} by gradient sensitivity on {config.tensor_dir.name}, {rank} on average.",
        "training": {"adapter_type": kind, "attention_type": config.attention_type, "train_mlp": config.train_mlp},
        kind: {"r": rank, "alpha": alpha, "ranks": propose_ranks(norms, rank)},
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
