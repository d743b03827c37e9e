"""PiSSA: A and B are initialized with the principal components of the weight.  https://arxiv.org/abs/2404.02948

The paper subtracts these components from the frozen weight. Here the weight is unchanged and the initial product is
subtracted instead, W + s * (BA - B0 A0), which is the same function. So there is no weight to restore, the initial
update is exactly zero, and bf16 weights are not rounded a second time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from acestep.models.mps import decomposition_device

_OVERSAMPLING, _ITERATIONS = 16, 8  # of the randomized SVD; a full one takes minutes for a whole decoder


def principal_part(weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A0 [r, in] and B0 [out, r]; ``scale`` * B0 @ A0 is the best approximation of ``weight`` [out, in] of that rank.

    By subspace iteration (https://arxiv.org/abs/0909.4061). ``generator`` is on the CPU, so that the result does not
    depend on the device.
    """
    device = weight.device
    weight = weight.to(decomposition_device(device))
    width = min(rank + _OVERSAMPLING, *weight.shape)
    basis = torch.randn(weight.shape[1], width, generator=generator).to(weight)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(weight.T @ torch.linalg.qr(weight @ basis).Q).Q  # [in, width]
    u, s, vh = torch.linalg.svd(weight @ basis, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return (root[:, None] * (vh @ basis.T)[:rank]).to(device), (u[:, :rank] * root).to(device)


def folded_difference(a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A' [2r, in] and B' [out, 2r] whose product is ``scale`` * (BA - B0 A0), sorted by singular value.

    Concatenating the four matrices would give the same product, but they are large compared to their difference, so
    rounding them to bf16 would lose most of it.
    """
    left, left_core = torch.linalg.qr(torch.cat([b, -b0], dim=1).double())
    right, right_core = torch.linalg.qr(torch.cat([a, a0]).double().T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T * scale, full_matrices=False)
    root = s.sqrt()
    return (root[:, None] * (vh @ right.T)).float(), (left @ u * root).float()


def unfolded_difference(a: Tensor, b: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, A0 and B0 of ``rank`` whose scaled difference is B'A'. A and B get the larger half of the singular values.

    The original A0 and B0 are not in a file, but the update is the same.
    """
    missing = max(0, 2 * rank - len(a))  # a module smaller than twice the rank has fewer rows
    a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing)) / scale
    return a[:rank], b[:, :rank], a[rank:], -b[:, rank:]
