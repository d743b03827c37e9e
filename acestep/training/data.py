"""Training samples and the examples drawn from them: order, crops, noise and timesteps.

Everything random about a sample in an epoch comes from one generator seeded by (seed, epoch, sample name), and the
order of an epoch from (seed, epoch). Batch size, device and resuming therefore never change what is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from acestep.tensors.record import Crop, SampleTensors
from acestep.training.flow_matching import Batch, draw_timestep

PATCH = 2  # latent frames per decoder position: crops start at multiples of it


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSample:
    """One preprocessed sample; ``name`` is its path inside the tensor folder, ``digest`` the SHA-256 of the file."""

    name: str
    digest: str
    record: SampleTensors


class TrainingExample(NamedTuple):
    """What the loop draws from a sample for one step."""

    latents: Tensor  # [T, C]
    noise: Tensor  # [T, C]
    context: Tensor  # [T, 2C]
    condition: Tensor  # [L, D]
    t: float
    dropped: bool
    weight: float


@dataclass(frozen=True, slots=True)
class ExampleSampler:
    """Draws training examples from samples. ``max_frames`` 0 disables cropping."""

    seed: int
    max_frames: int
    mu: float
    sigma: float
    cfg_dropout: float
    weight: Callable[[float], float]

    def __call__(self, sample: TrainingSample, epoch: int) -> TrainingExample:
        """The training example of ``sample`` in ``epoch``, always the same for the same seed."""
        generator = generator_for(self.seed, epoch, sample.name)
        start = crop_start(sample.record.num_frames, self.max_frames, generator)
        t = draw_timestep(generator, mu=self.mu, sigma=self.sigma)
        dropped = float(torch.rand((), generator=generator)) < self.cfg_dropout
        crop = sample.record.crop(start, self.max_frames)
        return make_example(crop, generator=generator, t=t, dropped=dropped, weight=self.weight(t))


def make_example(
    crop: Crop, *, generator: torch.Generator, t: float, dropped: bool = False, weight: float = 1.0
) -> TrainingExample:
    """A training example of ``crop`` in float32, with noise from ``generator``, which is on the CPU."""
    latents, context, condition = (part.float() for part in crop)
    noise = torch.randn(latents.shape, generator=generator)
    return TrainingExample(latents, noise, context, condition, t, dropped, weight)


def crop_start(frames: int, max_frames: int, generator: torch.Generator) -> int:
    """A random even first frame of a crop of ``max_frames``; 0 for samples that need no crop."""
    if not 0 < max_frames < frames:
        return 0
    return PATCH * int(torch.randint((frames - max_frames) // PATCH + 1, (), generator=generator))


def centre_start(frames: int, max_frames: int) -> int:
    """The even first frame of the crop from the middle."""
    return 0 if not 0 < max_frames < frames else (frames - max_frames) // 2 // PATCH * PATCH


def generator_for(*key: object) -> torch.Generator:
    """A CPU generator seeded by ``key``, the same on every machine."""
    return torch.Generator().manual_seed(seed_for(*key))


def seed_for(*key: object) -> int:
    """A 63-bit seed derived from ``key``."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def collate(examples: Sequence[TrainingExample]) -> Batch:
    """One batch, zero-padded to the longest sample and the longest condition."""
    return Batch(
        latents=_pad([e.latents for e in examples]),
        noise=_pad([e.noise for e in examples]),
        context=_pad([e.context for e in examples]),
        condition=_pad([e.condition for e in examples]),
        t=torch.tensor([e.t for e in examples], dtype=torch.float32),
        dropped=torch.tensor([e.dropped for e in examples]),
        weight=torch.tensor([e.weight for e in examples], dtype=torch.float32),
        frame_mask=_mask([e.latents.shape[0] for e in examples]),
        token_mask=_mask([e.condition.shape[0] for e in examples]),
    )


def pad_condition(batch: Batch, num_tokens: int) -> Batch:
    """The batch with its conditions padded to ``num_tokens``, so that all batches have one shape."""
    count, length, _ = batch.condition.shape
    mask = torch.ones(count, length, dtype=torch.bool) if batch.token_mask is None else batch.token_mask
    mask = mask.to(batch.condition.device)
    missing = num_tokens - length
    return batch._replace(condition=F.pad(batch.condition, (0, 0, 0, missing)), token_mask=F.pad(mask, (0, missing)))


def pin(batch: Batch, device: torch.device) -> Batch:
    """The batch in pinned memory if ``device`` is CUDA, so that ``move`` need not copy it first."""
    if device.type != "cuda":
        return batch
    with torch.cuda.device(device):  # otherwise a thread would use the first GPU
        return Batch(*(part if part is None or part.is_cuda else part.pin_memory() for part in batch))  # type: ignore[arg-type]


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``; copies to CUDA are asynchronous."""

    def moved(part: Tensor | None) -> Any:
        if part is None or part.device.type == device.type:
            return part
        return part.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else part.to(device)

    return Batch(*map(moved, batch))


def _pad(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else pad_sequence(parts, batch_first=True)


def _mask(lengths: list[int]) -> Tensor | None:
    """[B, longest] bool; None when all lengths are equal, which allows faster attention."""
    if len(set(lengths)) == 1:
        return None
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The sample indices of one optimizer step, in micro-batches. ``epoch`` counts from 0."""

    epoch: int
    micro_batches: list[list[int]]
    ends_epoch: bool

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.micro_batches))


@dataclass(frozen=True, slots=True)
class StepPlan:
    """All steps of a run. The last step of an epoch takes the remaining samples, however few.

    The order of the samples depends on the seed alone, so a run can resume with another batch size or device count.
    """

    num_samples: int
    seed: int
    batch_size: int
    accumulation: int
    epochs: int
    max_steps: int = 0  # 0: no limit
    devices: int = 1

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.devices

    def num_steps(self, epoch: int = 0, samples: int = 0, step: int = 0) -> int:
        """Total steps of the run when ``step`` steps are done and have reached sample ``samples`` of ``epoch``."""
        if epoch >= self.epochs:
            return step
        rest = _ceil(self.num_samples - samples, self.samples_per_step)
        total = step + rest + (self.epochs - epoch - 1) * _ceil(self.num_samples, self.samples_per_step)
        return min(total, self.max_steps) if self.max_steps else total

    def steps(self, epoch: int = 0, samples: int = 0) -> Iterator[TrainingStep]:
        """The steps from sample ``samples`` of ``epoch`` on; ``max_steps`` is not applied."""
        for number in range(epoch, self.epochs):
            order = self._order(number)[samples:]
            for first in range(0, len(order), self.samples_per_step):
                chosen = order[first : first + self.samples_per_step]
                micro = [chosen[i : i + self.batch_size] for i in range(0, len(chosen), self.batch_size)]
                yield TrainingStep(number, micro, ends_epoch=first + self.samples_per_step >= len(order))
            samples = 0

    def _order(self, epoch: int) -> list[int]:
        order: list[int] = torch.randperm(self.num_samples, generator=generator_for(self.seed, epoch, "order")).tolist()
        return order


def split(
    samples: Sequence[TrainingSample], *, seed: int, percent: int, most: int = 0
) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """(training, held out) samples, the same for the same seed and names. Fewer than six are all trained on.

    ``percent`` of the samples are held out, at most ``most`` (0: no limit).
    """
    if percent == 0 or len(samples) < 6:
        return list(samples), []
    count = max(1, round(len(samples) * percent / 100))
    count = min(count, most) if most else count
    held_out = {sample.name for sample in sorted_by_hash(samples, seed)[:count]}
    return [s for s in samples if s.name not in held_out], [s for s in samples if s.name in held_out]


def sorted_by_hash(samples: Sequence[TrainingSample], seed: int) -> list[TrainingSample]:
    """The samples in an order that depends only on the seed and their names."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{seed}\0{sample.name}".encode()).digest())


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
