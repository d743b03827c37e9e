"""The transformer of diffusers, unchanged, with the weights of a loaded decoder."""

from __future__ import annotations

import torch

from acestep.models.dit import AceStepDiT
from acestep.models.imports import without_bitsandbytes

with without_bitsandbytes():
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel


def plain_transformer(decoder: AceStepDiT) -> AceStepTransformer1DModel:
    """The transformer that diffusers makes from the config of ``decoder``, sharing its weights."""
    with torch.device("meta"):
        transformer: AceStepTransformer1DModel = AceStepTransformer1DModel.from_config(decoder.config)
    transformer.load_state_dict(decoder.state_dict(), assign=True)
    return transformer.requires_grad_(False).eval()
