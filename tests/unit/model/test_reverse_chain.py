import pytest
import torch
from reference.weights import relative_error

from infodcl_dist.model.diffusion import Diffusion, DiffusionConfig
from infodcl_dist.model.reverse_chain import generate, step_back

STEPS, WIDTH = 200, 4


class ForGaussians(Diffusion):
    """With the best denoiser there is for embeddings of a known spread: E[e | z_t] of e ~ N(0, spread²)."""

    spread = 0.3

    def denoise(self, noised: torch.Tensor, steps: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        level, variance = self.signal[steps][:, None], self.spread**2
        return torch.sqrt(level) * variance / (level * variance + 1 - level) * noised


def network(kind: type[Diffusion] = Diffusion, timesteps: int = STEPS, unconditional: float = 1.0) -> Diffusion:
    config = DiffusionConfig(unconditional=unconditional)
    return kind(dim=WIDTH, timesteps=timesteps, config=config, metadata_dim=3)


def test_a_step_with_eta_1_is_the_posterior_of_ddpm():
    """Against Eq. 6 and 7 of Ho et al. (2020), written with β_t = 1 − ᾱ_t / ᾱ_{t−1}."""
    levels = network().signal.double()
    z, predicted, drawn = torch.randn(3, 50, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    for t in (1, 7, 100, STEPS - 1):
        now, before = levels[t], levels[t - 1]
        beta = 1 - now / before
        mean = (before.sqrt() * beta * predicted + (1 - beta).sqrt() * (1 - before) * z) / (1 - now)
        expected = mean + ((1 - before) / (1 - now) * beta).sqrt() * drawn
        found = step_back(z, predicted, now, before, eta=1.0, drawn=drawn)
        assert relative_error(found, expected) < 1e-12, t


@pytest.mark.parametrize(("steps", "eta"), [(None, 1.0), (None, 0.0), (250, 0.0)])
def test_noise_becomes_embeddings_of_the_data_s_spread(steps, eta):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, WIDTH, generator=generator)
    made = generate(network(ForGaussians, timesteps=1000), noise, steps=steps, eta=eta, generator=generator)
    # 80,000 numbers: their spread is known to 0.25 %, their mean to 0.001. Steps are not infinitely small: 0.2968 to
    # 0.2997 here, and 0.2829 to 0.2955 with a fifth as many.
    assert made.std() == pytest.approx(ForGaussians.spread, rel=0.02)
    assert abs(made.mean()) < 0.005


def test_one_step_is_the_denoising_call_of_training():
    torch.manual_seed(0)
    diffusion, noise = network(), torch.randn(30, WIDTH)
    last = torch.full((30,), STEPS - 1)
    assert torch.equal(generate(diffusion, noise, steps=1), diffusion.denoise(noise, last))


def test_ddim_draws_nothing_and_steps_are_bounded():
    torch.manual_seed(0)
    diffusion, noise = network(), torch.randn(30, WIDTH)
    assert torch.equal(generate(diffusion, noise, steps=9), generate(diffusion, noise, steps=9))
    for steps in (0, STEPS + 1):
        with pytest.raises(ValueError, match=f"steps={steps} "):
            generate(diffusion, noise, steps=steps)


def test_guidance_follows_the_rule_of_predicted_noise():
    """Eq. 25, stated for predicted noise, in a step of DDIM as Eq. 22 writes it; and each end of the rule by itself."""
    torch.manual_seed(0)
    diffusion, z, omega = network(unconditional=0.5), torch.randn(30, WIDTH), 1.7
    shown = torch.ones(30, dtype=torch.bool)
    h = diffusion.conditions(torch.randn(30, 3), shown)
    last, first = (torch.full((30,), step) for step in (STEPS - 1, 0))
    with torch.no_grad():
        level, earlier = diffusion.signal[STEPS - 1], diffusion.signal[0]

        def noise_in(condition: torch.Tensor | None) -> torch.Tensor:
            return (z - level.sqrt() * diffusion.denoise(z, last, condition)) / (1 - level).sqrt()

        predicted = (1 + omega) * noise_in(h) - omega * noise_in(None)
        back = earlier.sqrt() / level.sqrt() * (z - (1 - level).sqrt() * predicted) + (1 - earlier).sqrt() * predicted
        expected = (1 + omega) * diffusion.denoise(back, first, h) - omega * diffusion.denoise(back, first)
    found = generate(diffusion, z, steps=2, condition=h, guidance=omega)
    # The expected one divides float32's rounding by √ᾱ of the last step, 0.08. Measured 6e-7.
    assert relative_error(found, expected) < 1e-5
    unguided = generate(diffusion, z, steps=2, condition=h)
    assert relative_error(unguided, expected) > 0.01, "the control: guidance is seen"
    nothing = diffusion.conditions(torch.randn(30, 3), ~shown)
    assert torch.equal(generate(diffusion, z, steps=5, condition=nothing), generate(diffusion, z, steps=5))
    with pytest.raises(ValueError, match=r"guidance=1\.7 needs a condition"):
        generate(diffusion, z, guidance=omega)
