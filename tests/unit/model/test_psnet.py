import itertools

import pytest
import torch
from reference import infodcl as reference
from reference.weights import copied_weights, relative_error, scatter_weights

from infodcl_dist.model.psnet import PSNet, PSNetConfig

# Float32 against float64. One rounding is 6e-8; the networks chain some ten products of width 8 to 32, and the SVD's
# gradient divides by eigenvalue gaps, which for these seeds are above 1e-2 of the largest. Measured: 1.4e-6 at most.
TOLERANCE = 2e-5
WIDTH, METADATA = 8, 5


def inputs(rows: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, WIDTH, generator=generator)
    metadata = torch.randn(rows, METADATA, generator=generator)
    upstream = torch.randn(rows, WIDTH, generator=generator)
    return noise, metadata, upstream


def build(config: PSNetConfig, ablation: tuple[str, ...] = ()) -> PSNet:
    network = PSNet(
        dim=WIDTH,
        metadata_dim=METADATA,
        config=config,
        sum_over_ranks=lambda x: x,
        spectral_rectification="spectral_rectification" not in ablation,
        contextual_reencoding="contextual_reencoding" not in ablation,
    )
    scatter_weights(network, seed=1)
    return network


def choices(config: PSNetConfig, ablation: tuple[str, ...] = ()) -> reference.Choices:
    return reference.Choices(rank=config.rank, reencoder=config.reencoder, residual=config.residual, ablation=ablation)


def compare(config: PSNetConfig, ablation: tuple[str, ...], rows: int) -> float:
    """The largest relative error of the output and of every gradient, to parameters and to both inputs."""
    noise, metadata, upstream = inputs(rows)
    network = build(config, ablation)
    noise.requires_grad_()
    metadata.requires_grad_()
    out = network(noise, metadata, torch.ones(rows))
    (out * upstream).sum().backward()

    w = copied_weights(network, prefix="p.")
    noise64, metadata64 = (x.detach().double().requires_grad_() for x in (noise, metadata))
    expected = reference.psnet(w, "p", noise64, metadata64, choices(config, ablation))
    (expected * upstream.double()).sum().backward()

    errors = [relative_error(out, expected), relative_error(noise.grad, noise64.grad)]
    errors.append(relative_error(metadata.grad, metadata64.grad))
    for name, parameter in network.named_parameters():
        wanted = w[f"p.{name}"].grad
        assert (parameter.grad is None) == (wanted is None) or "self_attn" in name, name
        if wanted is not None:
            errors.append(relative_error(parameter.grad, wanted))
    assert len(errors) > 5
    return max(errors)


def test_every_choice_equals_the_reference_in_output_and_gradients():
    visited = 0
    for reencoder, residual, rank, rows in itertools.product(
        ("linear", "transformer"), ("paper", "release"), (None, 3), (20, 5)
    ):
        config = PSNetConfig(reencoder=reencoder, residual=residual, rank=rank)
        error = compare(config, (), rows)
        assert error < TOLERANCE, (config, rows)
        visited += 1
    assert visited == 16


@pytest.mark.parametrize(
    "ablation",
    [
        ("spectral_rectification",),
        ("contextual_reencoding",),
    ],
)
def test_ablations_equal_the_reference_and_keep_no_unused_weights(ablation):
    assert compare(PSNetConfig(), ablation, 20) < TOLERANCE
    names = " ".join(name for name, _ in build(PSNetConfig(), ablation).named_parameters())
    assert ("rectify." in names) == ("spectral_rectification" not in ablation)
    assert ("reencode." in names) == ("contextual_reencoding" not in ablation)


def test_a_weight_that_is_off_by_half_is_noticed():
    """The control: every parameter moves the output by more than the tolerance."""
    noise, metadata, _ = inputs(20)
    visited = 0
    for reencoder in ("linear", "transformer"):
        config = PSNetConfig(reencoder=reencoder)
        network = build(config)
        out = network(noise, metadata, torch.ones(20))
        for name, _ in network.named_parameters():
            w = {key: value.detach() for key, value in copied_weights(network, prefix="p.").items()}
            w[f"p.{name}"] *= 1.5
            expected = reference.psnet(w, "p", noise.double(), metadata.double(), choices(config))
            assert relative_error(out, expected) > 2 * TOLERANCE, name
            visited += 1
    assert visited == 26 + 46


def test_padding_rows_change_nothing():
    """Rows of weight 0 take no part in the decomposition, whatever they hold. Exact but for the order of sums."""
    noise, metadata, upstream = inputs(24)
    network = build(PSNetConfig())
    real = 17
    weights = (torch.arange(24) < real).float()
    results = []
    for scale in (1.0, 1e3):
        padded = [x.clone() for x in (noise, metadata)]
        for x in padded:
            x[real:] *= scale
        network.zero_grad()
        out = network(*padded, weights)
        (weights[:, None] * out * upstream).sum().backward()
        results.append((out[:real].detach(), [p.grad.clone() for p in network.parameters()]))
    network.zero_grad()
    out = network(noise[:real], metadata[:real], torch.ones(real))
    (out * upstream[:real]).sum().backward()
    expected = (out.detach(), [p.grad for p in network.parameters()])
    visited = 0
    for found, gradients in results:
        assert relative_error(found, expected[0]) < TOLERANCE
        for gradient, wanted in zip(gradients, expected[1], strict=True):
            assert relative_error(gradient, wanted) < TOLERANCE
            visited += 1
    assert visited == 2 * 26


def test_a_wrong_shape_is_named():
    noise, metadata, _ = inputs(6)
    with pytest.raises(ValueError, match="metadata"):
        build(PSNetConfig())(noise, metadata[:, :-1], torch.ones(6))
