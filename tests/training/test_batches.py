"""A batch is exact: its loss and gradient are those of its songs taken one by one, on the true decoder."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from acestep.adapters.configs import LoKRConfig, LoRAConfig
from acestep.adapters.files import inject
from acestep.models.load import load_dit, load_null_condition
from acestep.training.data import ExampleSampler, collate
from acestep.training.flow_matching import FlowMatching
from tests.training.songs import make_samples

KINDS = [("lora", LoRAConfig(r=4, dropout=0.0)), ("lokr", LoKRConfig(linear_dim=2, factor=4))]
LENGTHS = [(61, 14), (36, 7), (50, 11)]  # frames and tokens of three songs


@pytest.fixture(params=KINDS, ids=["lora", "lokr"])
def trained(request, tiny_checkpoint):
    """A decoder with an adapter whose weights are all different from zero."""
    decoder = load_dit(tiny_checkpoint)
    adapter = inject(decoder, *request.param, "both", True)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return FlowMatching(adapter.network, load_null_condition(tiny_checkpoint)).train(), adapter


@pytest.fixture
def examples(trained):
    width = trained[0].null_condition.shape[-1]
    draw = ExampleSampler(seed=1, max_frames=56, mu=-0.4, sigma=1.0, cfg_dropout=0.3, weight=lambda t: 1.0)
    return [draw(sample, 2) for sample in make_samples(LENGTHS, width)]


def losses_and_gradient(trained, batches, num_samples):
    model, adapter = trained
    for parameter in adapter.parameters():
        parameter.grad = None
    losses = [model(batch) for batch in batches]
    (torch.cat(losses).sum() / num_samples).backward()
    return torch.cat(losses).detach(), torch.cat([p.grad.flatten() for p in adapter.parameters()])


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_batch_of_three_equals_three_single_samples(trained, examples, checkpointing):
    if checkpointing:
        trained[1].network.enable_gradient_checkpointing()
    singles = losses_and_gradient(trained, [collate([one]) for one in examples], 3)
    together = losses_and_gradient(trained, [collate(examples)], 3)
    close(together[0], singles[0])
    close(together[1], singles[1])
    assert together[1].abs().max() > 0
    two_and_one = losses_and_gradient(trained, [collate(examples[:2]), collate(examples[2:])], 3)
    close(two_and_one[1], singles[1])


def test_more_padding_changes_nothing_whatever_it_holds(trained, examples):
    batch = collate(examples)

    def longer(part, by):
        return F.pad(part, (0, 0, 0, by), value=7.0)

    padded = batch._replace(
        latents=longer(batch.latents, 9),
        noise=longer(batch.noise, 9),
        context=longer(batch.context, 9),
        condition=longer(batch.condition, 5),
        frame_mask=F.pad(batch.frame_mask, (0, 9)),
        token_mask=F.pad(batch.token_mask, (0, 5)),
    )
    plain, more = (losses_and_gradient(trained, [each], 3) for each in (batch, padded))
    close(more[0], plain[0])
    close(more[1], plain[1])


def test_the_mask_of_a_batch_matters(trained, examples):
    batch = collate(examples)
    without = batch._replace(token_mask=torch.ones_like(batch.token_mask))
    assert not torch.allclose(trained[0](batch), trained[0](without), rtol=1e-4)
