import pytest
import torch

from infodcl_dist.data.batches import Batch
from infodcl_dist.model.losses import LossConfig
from infodcl_dist.train.objective import TERMS, Objective


def objective(loss: LossConfig, *, unconditional: float = 1.0) -> Objective:
    return Objective(
        tables=None,  # what is looked at here asks for no rows
        engine=None,
        graph=None,
        layers=0,
        timesteps=50,
        unconditional=unconditional,
        loss=loss,
        seed=7,
        world_size=2,
    )


def test_the_total_weighs_each_term_as_equation_14():
    loss = LossConfig(bpr=0.7, contrastive=0.02, balance=0.003, regularization=0.0004, user_contrastive=0.5)
    weights = {"bpr": 0.7, "reconstruction": 0.3, "contrastive": 0.02, "balance": 0.003, "regularization": 0.0004}
    weights["user_contrastive"] = 0.5
    assert set(weights) == set(TERMS)
    made = objective(loss)
    for name, weight in weights.items():
        terms = {term: torch.tensor(10.0 if term == name else 0.0) for term in TERMS}
        assert made.total(terms, 1).item() == pytest.approx(10 * weight)
    everything = {term: torch.tensor(2.0) for term in TERMS}
    assert made.total(everything, 1).item() == pytest.approx(2 * sum(weights.values()))
    assert made.total({"bpr": torch.tensor(2.0)}, 1).item() == pytest.approx(1.4), "a model without channels"


def test_the_contrastive_weight_rises_in_equal_steps():
    made = objective(LossConfig(bpr=0, reconstruction=0, contrastive=0.8, contrastive_warmup_epochs=4))
    terms = {"contrastive": torch.tensor(10.0)}
    found = [made.total(terms, epoch).item() for epoch in range(1, 8)]
    assert found == pytest.approx([0, 2, 4, 6, 8, 8, 8])
    at_once = objective(LossConfig(contrastive=0.8))
    assert at_once.total(terms, 1).item() == pytest.approx(8), "without a warm-up"


def batch(epoch: int, positions: torch.Tensor) -> Batch:
    rows = positions.shape[0]
    ids = torch.zeros(rows, dtype=torch.int64)
    return Batch(
        epoch=epoch,
        positions=positions,
        users=ids,
        positives=ids,
        negatives=ids,
        weights=torch.ones(rows),
        global_examples=rows,
        metadata={name: torch.zeros(rows, 3) for name in ("a", "b")},
    )


def test_noise_and_diffusion_steps_belong_to_global_positions():
    made = objective(LossConfig())
    whole = made._channel_inputs("a", batch(1, torch.arange(1000)), 8)
    part = made._channel_inputs("a", batch(1, torch.arange(400, 600)), 8)
    assert torch.equal(part.noise, whole.noise[400:600])
    assert torch.equal(part.steps, whole.steps[400:600])
    assert whole.noise.shape == (1000, 8)
    # 8,000 normal values: mean and deviation within five standard errors.
    assert abs(whole.noise.mean().item()) < 5 / 8000**0.5
    assert abs(whole.noise.std().item() - 1) < 5 / 16000**0.5
    assert sorted(set(whole.steps.tolist())) == list(range(50)), "uniform in [0, T)"
    others = [
        made._channel_inputs("b", batch(1, torch.arange(1000)), 8),
        made._channel_inputs("a", batch(2, torch.arange(1000)), 8),
        made._channel_inputs("a", batch(1, torch.arange(1000, 2000)), 8),
    ]
    for other in others:
        assert not torch.equal(other.noise, whole.noise)
        assert not torch.equal(other.steps, whole.steps)
        # Independent draws correlate by 1 / sqrt(8,000) = 0.011.
        correlation = torch.corrcoef(torch.stack([other.noise.flatten(), whole.noise.flatten()]))[0, 1]
        assert abs(correlation.item()) < 0.06


def test_who_is_conditioned_belongs_to_global_positions():
    made = objective(LossConfig(), unconditional=0.3)
    whole = made._channel_inputs("a", batch(1, torch.arange(10_000)), 8)
    part = made._channel_inputs("a", batch(1, torch.arange(400, 600)), 8)
    assert torch.equal(part.is_conditioned, whole.is_conditioned[400:600])
    # A share of 10,000 draws is known to half a percent: five standard errors are 0.023.
    assert abs(whole.is_conditioned.double().mean().item() - 0.7) < 0.023
    other = made._channel_inputs("b", batch(1, torch.arange(10_000)), 8)
    assert (other.is_conditioned == whole.is_conditioned).double().mean().item() < 0.65, "by chance 0.58 agree"
    everyone = objective(LossConfig(), unconditional=0.0)._channel_inputs("a", batch(1, torch.arange(100)), 8)
    assert everyone.is_conditioned.all()
    assert objective(LossConfig())._channel_inputs("a", batch(1, torch.arange(100)), 8).is_conditioned is None
