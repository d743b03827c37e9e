"""The ACE-Step transformer with padding masks, so a padded batch gives the same output as its unpadded samples.

``AceStepTransformer1DModel`` attends to padding. Here the attention masks are arguments of each layer, so they are
also in effect when gradient checkpointing recomputes the layer. State_dict keys are those of diffusers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from acestep.models.attention import WindowMask, key_mask
from acestep.models.block import Block
from acestep.models.device import under_autocast
from acestep.models.fused import modulated_rms_norm, rotary_embedding
from acestep.models.imports import without_bitsandbytes
from acestep.models.mps import same_random_numbers

with without_bitsandbytes():
    from diffusers.models.modeling_outputs import Transformer2DModelOutput
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
    from diffusers.utils.peft_utils import apply_lora_scale


class AceStepDiT(AceStepTransformer1DModel):
    """``AceStepTransformer1DModel`` whose forward accepts masks. Without masks, outputs are equal within rounding.

    Attributes:
        checkpoint_every: with gradient checkpointing enabled, every n-th layer is recomputed in the backward pass and
            the other layers keep their activations; 1 recomputes all layers.
        run_block: calls a block with its arguments; ``CompiledBlocks`` calls compiled code.
        offload_inputs: the inputs of recomputed layers stay in CPU memory until the backward pass.
    """

    run_block: Callable[..., Any]
    checkpoint_every: int = 1
    offload_inputs: bool = False
    config: Any
    layers: Any
    _gradient_checkpointing_func: Any

    @functools.wraps(AceStepTransformer1DModel.__init__)  # type: ignore[misc]  # its signature names the config keys
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layers = nn.ModuleList(map(Block, self.layers))
        self.run_block = run_eagerly

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        """Recompute activations in the backward pass, by default with the same dropout on every device."""
        super().enable_gradient_checkpointing(gradient_checkpointing_func or _checkpoint)

    @apply_lora_scale("attention_kwargs")  # type: ignore[untyped-decorator]
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        timestep_r: Tensor,
        encoder_hidden_states: Tensor,
        context_latents: Tensor,
        frame_mask: Tensor | None = None,
        token_mask: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the flow-matching velocity. Follows ``AceStepTransformer1DModel.forward`` of diffusers 0.42.1.

        Under autocast in fp16, the hidden states between the layers are fp32.

        Args:
            hidden_states: [B, T, C] noisy latents.
            timestep: [B] float32 in [0, 1]; 0 is data, 1 is noise.
            timestep_r: [B] equal to ``timestep`` in training and inference.
            encoder_hidden_states: [B, L, D] condition tokens.
            context_latents: [B, T, 2C] source latents and generation mask.
            frame_mask: [B, T] True for real frames. Padded frames may have any value, including NaN.
            token_mask: [B, L] True for real condition tokens. Padded tokens may have any value.
            attention_kwargs: ``{"scale": s}`` scales LoRA layers.
            return_dict: return a ``Transformer2DModelOutput`` instead of a tuple.

        Returns:
            Velocity [B, T, C] as ``.sample`` or as the only tuple element. Undefined where ``frame_mask`` is False.
        """
        time, modulation = self._embed_time(timestep, timestep_r)
        num_frames = hidden_states.shape[1]
        hidden_states = self._patchify(torch.cat([context_latents, hidden_states], dim=-1), frame_mask)
        if token_mask is not None:
            encoder_hidden_states = encoder_hidden_states.masked_fill(~token_mask.unsqueeze(-1), 0.0)
        condition = self.condition_embedder(encoder_hidden_states)
        rotary = rotary_embedding(
            hidden_states.shape[1], self.head_dim, self.rope_theta, hidden_states.device, hidden_states.dtype
        )
        masks = self._self_attention_masks(hidden_states, frame_mask)
        cross_mask = key_mask(token_mask)
        if _computes_in_fp16(hidden_states):  # the sum over the layers overflows in it, and gates scale the summands
            hidden_states, modulation, time = hidden_states.float(), modulation.float(), time.float()
        checkpointing = torch.is_grad_enabled() and self.gradient_checkpointing
        for index, (kind, layer) in enumerate(zip(self.layer_types, self.layers, strict=True)):
            shared = (rotary, modulation, masks[kind], condition, cross_mask)
            if checkpointing and index % self.checkpoint_every == 0:
                hidden_states = self._recomputed(layer, hidden_states, shared)
            else:
                hidden_states = self.run_block(layer, hidden_states, *shared)
        shift, scale = (self.scale_shift_table + time.unsqueeze(1)).chunk(2, dim=1)
        hidden_states = modulated_rms_norm(self.norm_out, hidden_states, shift, scale)
        velocity = self.proj_out_conv(hidden_states.transpose(1, 2)).transpose(1, 2)[:, :num_frames]  # [B, T, C]
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _recomputed(self, layer: Any, hidden_states: Tensor, shared: tuple[Any, ...]) -> Any:
        """The output of a layer that keeps only its input; the ``shared`` arguments are the same for all layers."""
        run = functools.partial(self.run_block, layer)
        if not self.offload_inputs:
            return self._gradient_checkpointing_func(run, hidden_states, *shared)
        with SaveOnCpu():  # moves hidden_states alone
            return self._gradient_checkpointing_func(functools.partial(_call, run, shared), hidden_states)

    def _embed_time(self, timestep: Tensor, timestep_r: Tensor) -> tuple[Tensor, Tensor]:
        """Timestep embedding [B, D] and the modulation of the layers [B, 6, D]."""
        time, modulation = self.time_embed(timestep)
        time_r, modulation_r = self.time_embed_r(timestep - timestep_r)
        return time + time_r, modulation + modulation_r

    def _patchify(self, frames: Tensor, frame_mask: Tensor | None) -> Tensor:
        """[B, T, 3C] frames to [B, T / 2, D] tokens. Padded frames are set to zero; an odd T is padded with zeros."""
        if frame_mask is not None:
            frames = frames.masked_fill(~frame_mask.unsqueeze(-1), 0.0)
        frames = F.pad(frames, (0, 0, 0, -frames.shape[1] % self.patch_size))
        tokens: Tensor = self.proj_in_conv(frames.transpose(1, 2)).transpose(1, 2)
        return tokens.contiguous()  # every layer keeps the layout of its input, and multiplies a strided one slowly

    def _self_attention_masks(self, tokens: Tensor, frame_mask: Tensor | None) -> dict[str, Tensor | WindowMask | None]:
        """Attention mask of each layer type. A token is real if one of its frames is."""
        real = None
        if frame_mask is not None:
            padded = F.pad(frame_mask, (0, -frame_mask.shape[1] % self.patch_size))
            real = padded.reshape(len(padded), -1, self.patch_size).any(dim=-1)  # [B, T / 2]
        window = WindowMask.of(tokens.shape[1], self.config.sliding_window, real, tokens.device)
        return {"full_attention": key_mask(real), "sliding_attention": window}


def _computes_in_fp16(tokens: Tensor) -> bool:
    return under_autocast(tokens.device) and tokens.dtype == torch.float16


def run_eagerly(block: Any, hidden_states: Tensor, *shared: Any) -> Any:
    """The output of ``block``."""
    return block(hidden_states, *shared)


def _checkpoint(layer: Callable[..., Any], *arguments: Any) -> Any:
    options: dict[str, Any] = {"context_fn": same_random_numbers} if arguments[0].device.type == "mps" else {}
    return checkpoint(layer, *arguments, use_reentrant=False, **options)


class SaveOnCpu(torch.autograd.graph.saved_tensors_hooks):
    """Keeps saved tensors in CPU memory until the backward pass, in pinned memory for CUDA.

    ``torch.autograd.graph.save_on_cpu`` gives contiguous tensors back; for those of other strides a recomputed layer
    would save tensors of other shapes than in the forward pass, and might round differently.
    """

    def __init__(self) -> None:
        super().__init__(_to_cpu, _to_device)


def _to_cpu(tensor: Tensor) -> tuple[torch.device, Tensor]:
    saved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return tensor.device, saved.copy_(tensor)


def _to_device(saved: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = saved
    return tensor.to(device, non_blocking=True)


def _call(run: Callable[..., Any], shared: tuple[Any, ...], hidden_states: Tensor) -> Any:
    return run(hidden_states, *shared)
