"""PiSSA: the low-rank matrices start as the strongest part of the weight.  https://arxiv.org/abs/2404.02948

The paper takes that part out of the frozen weight. Here the weight stays as it is and the start is taken off the
product, W + s * (BA - B0 A0), which is the same function: nothing has to be restored, a fresh adapter changes
nothing to the last bit, and no base in bf16 is rounded a second time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

_OVERSAMPLING, _ITERATIONS = 16, 8  # of the randomised SVD; a full one takes minutes for a whole decoder


def principal_part(weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A0 [r, in] and B0 [out, r]; ``scale`` * B0 @ A0 is the best approximation of ``weight`` [out, in] of that rank.

    By subspace iteration (https://arxiv.org/abs/0909.4061); ``generator`` is on the CPU, so that all devices start
    alike.
    """
    width = min(rank + _OVERSAMPLING, *weight.shape)
    basis = torch.randn(weight.shape[1], width, generator=generator).to(weight)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(weight.T @ torch.linalg.qr(weight @ basis).Q).Q  # [in, width]
    u, s, vh = torch.linalg.svd(weight @ basis, full_matrices=False)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * (vh @ basis.T)[:rank], u[:, :rank] * root


def folded_difference(a: Tensor, b: Tensor, a0: Tensor, b0: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A' [2r, in] and B' [out, 2r] whose product is ``scale`` * (BA - B0 A0), strongest rows first.

    Set side by side the four matrices would do as well, but they are large where their difference is small: rounded
    to bf16 little of it would be left.
    """
    left, left_core = torch.linalg.qr(torch.cat([b, -b0], dim=1).double())
    right, right_core = torch.linalg.qr(torch.cat([a, a0]).double().T)
    u, s, vh = torch.linalg.svd(left_core @ right_core.T * scale, full_matrices=False)
    root = s.sqrt()
    return (root[:, None] * (vh @ right.T)).float(), (left @ u * root).float()


def unfolded_difference(a: Tensor, b: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, B, A0 and B0 of ``rank`` whose scaled difference is B'A': the strongest half is trained on.

    What training had started from cannot be told from a file; the addition is the same.
    """
    missing = max(0, 2 * rank - len(a))  # a module smaller than twice the rank has fewer rows
    a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing)) / scale
    return a[:rank], b[:, :rank], a[rank:], -b[:, rank:]
