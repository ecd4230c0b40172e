import pytest
import torch
from reference import infodcl as reference
from reference.weights import copied_weights, relative_error, scatter_weights

from infodcl_dist.model.diffusion import SCHEDULES, Diffusion, DiffusionConfig, signal_levels, sinusoidal_embedding

# ᾱ is made in float64 and rounded once: 6e-8. The sinusoids' angles are float32 (t up to 1,000: 6e-8 × 1,000
# radians): measured 3e-5.
# The denoiser chains three or four products of at most 24 terms: measured 3e-7.
ROUNDED, ANGLES, TOLERANCE = 1e-7, 2e-4, 5e-6


def test_schedules_equal_their_formulas_and_decrease():
    visited = 0
    for schedule in SCHEDULES:
        for timesteps in (1, 2, 10, 200, 1000):
            levels = signal_levels(schedule, timesteps)
            assert levels.shape == (timesteps,)
            assert levels.dtype == torch.float32
            assert (levels > 0).all(), (schedule, timesteps)
            assert (levels < 1).all(), (schedule, timesteps)
            assert (levels[1:] <= levels[:-1]).all(), (schedule, timesteps)
            assert relative_error(levels, reference.signal_levels(schedule, timesteps)) < ROUNDED
            visited += 1
    assert visited == 4 * 5
    with pytest.raises(ValueError, match="banana"):
        signal_levels("banana", 10)


def test_the_first_step_is_nearly_signal_and_the_last_nearly_noise():
    for schedule in SCHEDULES:
        levels = signal_levels(schedule, 200)
        assert levels[0] > 0.9, schedule
        assert levels[-1] < 0.05, schedule


def test_sinusoidal_embedding_equals_the_reference():
    steps = torch.tensor([0, 1, 7, 199, 999])
    for width in (2, 5, 8, 64):
        assert relative_error(sinusoidal_embedding(steps, width), reference.sinusoidal(steps, width)) < ANGLES


@pytest.mark.parametrize("unconditional", [1.0, 0.5])
@pytest.mark.parametrize("denoiser", ["mlp1", "mlp2"])
@pytest.mark.parametrize("width", [8, 7])
def test_generated_embeddings_and_gradients_equal_the_reference(denoiser, width, unconditional):
    config = DiffusionConfig(denoiser=denoiser, schedule="exp", unconditional=unconditional)
    network = Diffusion(dim=width, timesteps=20, config=config, metadata_dim=5)
    scatter_weights(network, seed=2)
    generator = torch.Generator().manual_seed(0)
    embeddings, noise, upstream = torch.randn(3, 30, width, generator=generator).unbind()
    steps = torch.arange(30) % 20
    embeddings.requires_grad_()
    noise.requires_grad_()
    metadata, is_conditioned = torch.randn(30, 5, generator=generator), torch.arange(30) % 3 > 0
    h = network.conditions(metadata, is_conditioned) if config.is_conditioned else None
    generated = network(embeddings, noise, steps, h)
    (generated * upstream).sum().backward()

    w = copied_weights(network, prefix="d.")
    e64, n64 = (x.detach().double().requires_grad_() for x in (embeddings, noise))
    choices = reference.Choices(denoiser=denoiser, schedule="exp", timesteps=20)
    h64 = reference.condition(w, "d", metadata.double(), is_conditioned.tolist()) if h is not None else None
    expected = reference.generate(w, "d", e64, n64, steps, c=choices, h=h64)
    (expected * upstream.double()).sum().backward()
    errors = {"generated": relative_error(generated, expected)}
    errors |= {"e": relative_error(embeddings.grad, e64.grad), "noise": relative_error(noise.grad, n64.grad)}
    for name, parameter in network.named_parameters():
        errors[name] = relative_error(parameter.grad, w[f"d.{name}"].grad)
    assert len(errors) == 3 + (7 if denoiser == "mlp1" else 9) + (0 if h is None else 2)
    assert max(errors.values()) < TOLERANCE, errors

    other_step = network(embeddings, noise, (steps + 1) % 20, h)
    assert relative_error(other_step, expected) > 100 * TOLERANCE, "the control: a step that is off by one is seen"
    if h is not None:
        others = network(embeddings, noise, steps, network.conditions(metadata, ~is_conditioned))
        assert relative_error(others, expected) > 100 * TOLERANCE, "the control: the others' conditions are seen"


def test_a_denoiser_without_conditions_takes_none():
    network = Diffusion(dim=8, timesteps=20, config=DiffusionConfig(), metadata_dim=5)
    with pytest.raises(ValueError, match="takes no condition"):
        network.conditions(torch.ones(3, 5), torch.ones(3, dtype=torch.bool))


def test_no_weight_has_the_size_of_the_catalogue():
    network = Diffusion(dim=8, timesteps=20, config=DiffusionConfig(), metadata_dim=5)
    assert "signal" not in network.state_dict(), "the schedule is made from the configuration, not stored"
    assert max(max(p.shape) for p in network.parameters()) == 24
