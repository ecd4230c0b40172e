import pytest
import torch
from reference import infodcl as reference
from reference.weights import copied_weights, relative_error, scatter_weights

from infodcl_dist.model.channels import ChannelInputs, build_channels
from infodcl_dist.model.diffusion import DiffusionConfig
from infodcl_dist.model.psnet import PSNetConfig

TOLERANCE = 5e-6  # PSNet and denoiser in a row, see test_psnet.py; measured 7e-7
WIDTH, ROWS, TIMESTEPS = 8, 20, 15
METADATA = {"knowledge": 5, "image": 12}


def build(ablation: tuple[str, ...] = ()):
    channels = build_channels(
        metadata_dims=METADATA,
        dim=WIDTH,
        timesteps=TIMESTEPS,
        psnet=PSNetConfig(),
        diffusion=DiffusionConfig(),
        ablation=ablation,
        sum_over_ranks=lambda x: x,
    )
    scatter_weights(channels, seed=3)
    return channels


def inputs():
    generator = torch.Generator().manual_seed(0)
    made = {
        name: ChannelInputs(
            torch.randn(ROWS, width, generator=generator),
            torch.randn(ROWS, WIDTH, generator=generator),
            torch.randint(TIMESTEPS, (ROWS,), generator=generator),
        )
        for name, width in METADATA.items()
    }
    return torch.randn(ROWS, WIDTH, generator=generator), made


@pytest.mark.parametrize("ablation", [(), ("psnet",), ("spectral_rectification",), ("balance_loss",)])
def test_each_channel_equals_the_reference_with_its_own_weights(ablation):
    channels = build(ablation)
    embeddings, made = inputs()
    embeddings.requires_grad_()
    generated = channels(embeddings, made, torch.ones(ROWS))
    assert list(generated) == list(METADATA)
    sum((i + 1) * x.square().sum() for i, x in enumerate(generated.values())).backward()

    w = copied_weights(channels)
    e64 = embeddings.detach().double().requires_grad_()
    choices = reference.Choices(channels=tuple(METADATA), timesteps=TIMESTEPS, ablation=ablation)
    total = 0
    for i, (name, x) in enumerate(made.items()):
        noise = reference.psnet(w, f"{name}.psnet", x.noise.double(), x.metadata.double(), choices)
        expected = reference.generate(w, f"{name}.diffusion", e64, noise, x.steps, c=choices)
        assert relative_error(generated[name], expected) < TOLERANCE
        total = total + (i + 1) * expected.square().sum()
    total.backward()
    assert relative_error(embeddings.grad, e64.grad) < TOLERANCE
    visited = 0
    for name, parameter in channels.named_parameters():
        assert relative_error(parameter.grad, w[name].grad) < TOLERANCE, name
        visited += 1
    assert visited == 2 * {(): 33, ("psnet",): 7, ("spectral_rectification",): 16, ("balance_loss",): 33}[ablation]


def test_near_zero_metadata_gives_finite_gradients():
    """Metadata of an item without neighbours can be (nearly) 0, and noise can be small: Y is then near rank 0."""
    visited = 0
    for scale in (0.0, 1e-30, 1e-12):
        channels = build()
        with torch.no_grad():
            for name in METADATA:
                channels[name].psnet.project.bias.zero_()
        embeddings, made = inputs()
        made = {name: ChannelInputs(x.metadata * scale, x.noise * scale, x.steps) for name, x in made.items()}
        generated = channels(embeddings, made, torch.ones(ROWS))
        torch.stack([x.square().sum() for x in generated.values()]).sum().backward()
        for name, parameter in channels.named_parameters():
            assert torch.isfinite(parameter.grad).all(), (scale, name)
            visited += 1
    assert visited == 3 * 66


def test_a_missing_row_is_the_learned_one_before_any_product():
    """Its value is that of the same row given; NaN reaches neither output nor gradient, which counts its rows alone."""
    torch.manual_seed(0)
    sizes = {"dim": WIDTH, "timesteps": TIMESTEPS, "psnet": PSNetConfig(), "diffusion": DiffusionConfig()}
    channels = build_channels(
        metadata_dims=METADATA, **sizes, ablation=(), sum_over_ranks=lambda x: x, with_gaps={"image"}
    )
    scatter_weights(channels, seed=3)
    learned = channels["image"].missing_row
    embeddings, made = inputs()
    lacking = torch.arange(ROWS) % 3 == 1
    holes = made["image"]._replace(metadata=made["image"].metadata.masked_fill(lacking[:, None], torch.nan))
    given = made["image"].metadata.clone().requires_grad_()
    with torch.no_grad():
        given[lacking] = learned
    for image in (holes, made["image"]._replace(metadata=given)):
        generated = channels(embeddings, made | {"image": image}, torch.ones(ROWS))["image"]
        generated.square().sum().backward()
        if image is holes:
            value, gradient = generated.detach(), learned.grad.clone()
            assert all(torch.isfinite(p.grad).all() for p in channels["image"].parameters())
    assert torch.equal(generated, value)
    torch.testing.assert_close(gradient, given.grad[lacking].sum(dim=0))
