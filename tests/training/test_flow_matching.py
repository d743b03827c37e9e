import pytest
import torch

from acestep.training.data import ExampleSampler, collate, generator_for, make_example
from acestep.training.flow_matching import (
    FlowMatching,
    draw_timestep,
    drop_condition,
    sample_losses,
    timestep_quantiles,
)
from acestep.training.optim.loss_weightings import LOSS_WEIGHTS
from tests.training.songs import ToyDecoder, make_samples


def test_the_loss_is_zero_at_the_true_velocity_and_padding_does_not_count():
    latents, noise = torch.randn(2, 2, 5, 64).unbind()
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    spoilt = (noise - latents).masked_fill(~mask[..., None], 9.0)
    assert sample_losses(noise - latents, latents, noise, None).tolist() == [0, 0]
    assert sample_losses(spoilt, latents, noise, mask).tolist() == [0, 0]


def test_a_long_and_a_short_song_count_the_same():
    latents, noise = torch.zeros(2, 4, 64), torch.zeros(2, 4, 64)
    velocity = torch.ones(2, 4, 64)
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    assert sample_losses(velocity, latents, noise, mask).tolist() == [1, 1]


def test_a_dropped_condition_is_the_null_embedding_on_every_token():
    condition, null = torch.randn(2, 7, 16), torch.randn(1, 1, 16)
    dropped = drop_condition(condition, null, torch.tensor([True, False]))
    assert torch.equal(dropped[0], null[0].expand(7, 16))
    assert torch.equal(dropped[1], condition[1])


def test_the_decoder_receives_the_interpolated_latents():
    [sample] = make_samples([(6, 3)])
    asked = {}

    class Ear(torch.nn.Module):
        def forward(self, **what):
            asked.update(what)
            return (what["hidden_states"],)

    batch = collate([make_example(sample.record.crop(), generator=generator_for(1), t=0.25)])
    FlowMatching(Ear(), torch.zeros(1, 1, 64))(batch)
    assert torch.equal(asked["hidden_states"], 0.25 * batch.noise + 0.75 * batch.latents)
    assert asked["timestep"].tolist() == asked["timestep_r"].tolist() == [0.25]
    assert torch.equal(asked["context_latents"], batch.context)


@pytest.mark.parametrize(("mu", "sigma"), [(-0.4, 1.0), (0.5, 0.3)])
def test_timesteps_are_the_larger_of_two_logit_normal_draws(mu, sigma):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_timestep(generator, mu=mu, sigma=sigma) for _ in range(20_000)])
    normal = torch.distributions.Normal(mu, sigma)
    for t in (0.3, 0.5, 0.7):
        wanted = normal.cdf(torch.logit(torch.tensor(t))) ** 2
        assert float((drawn <= t).float().mean()) == pytest.approx(float(wanted), abs=0.015)


def test_the_timestep_quantiles_split_the_distribution_equally():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([draw_timestep(generator, mu=-0.4, sigma=1.0) for _ in range(20_000)])
    grid = timestep_quantiles(8, mu=-0.4, sigma=1.0)
    below = (drawn[:, None] <= grid).float().mean(dim=0)
    torch.testing.assert_close(below, (torch.arange(8) + 0.5) / 8, atol=0.015, rtol=0)
    assert grid.dtype == torch.float32


@pytest.mark.parametrize(
    ("t", "weight"), [(0.5, 1.0), (0.9, 1.0), (0.25, 5 / 9), (0.1, 5 / 81), (0.0, 0.0), (1.0, 1e-6)]
)
def test_min_snr_weights_clean_timesteps_less(t, weight):
    assert LOSS_WEIGHTS["min_snr"].load()(t, 5.0) == pytest.approx(weight, rel=1e-5, abs=1e-9)
    assert LOSS_WEIGHTS["none"].load()(t, 5.0) == 1.0


def test_a_weight_multiplies_the_loss_of_its_song():
    samples = make_samples([(6, 3), (8, 4)])
    model = FlowMatching(ToyDecoder(), torch.zeros(1, 1, 64))
    facts = {"seed": 1, "max_frames": 0, "mu": -0.4, "sigma": 1.0, "cfg_dropout": 0.0}
    plain, halved = (
        model(collate([ExampleSampler(**facts, weight=lambda t, w=w: w)(sample, 0) for sample in samples]))
        for w in (1.0, 0.5)
    )
    assert torch.equal(halved, plain * 0.5)
