"""The plain implementation computes what the package computes: a ratio of speeds against it compares like with like."""

import sys
from pathlib import Path

import pytest
import torch
from reference import infodcl as reference
from reference.weights import copied_weights, relative_error, scatter_weights

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import plain

USERS, ITEMS, WIDTH, BATCH, TIMESTEPS = 7, 19, 8, 12, 30
METADATA = {"knowledge": 6, "image": 10}
# Float32 against float64, as in tests/dist/test_steps.py.
TERMS, GRADIENTS = 2e-6, 2e-5


def model() -> plain.InfoDCL:
    generator = torch.Generator().manual_seed(1)
    rows = {name: torch.randn(ITEMS, width, generator=generator) for name, width in METADATA.items()}
    made = plain.InfoDCL(USERS, ITEMS, rows, WIDTH, TIMESTEPS)
    scatter_weights(made, seed=2)
    return made


def examples(made: plain.InfoDCL) -> reference.Examples:
    generator = torch.Generator().manual_seed(3)
    positives = torch.randint(ITEMS, (BATCH,), generator=generator)
    return reference.Examples(
        users=torch.randint(USERS, (BATCH,), generator=generator),
        positives=positives,
        negatives=torch.randint(ITEMS, (BATCH,), generator=generator),
        metadata={name: rows[positives] for name, rows in made.metadata.items()},
        noise={name: torch.randn(BATCH, WIDTH, generator=generator) for name in METADATA},
        steps={name: torch.randint(TIMESTEPS, (BATCH,), generator=generator) for name in METADATA},
    )


def test_terms_and_gradients_are_those_of_the_dense_reference() -> None:
    made = model()
    batch = examples(made)
    names = {"user.weight": "user", "item.weight": "item"}
    w = {names.get(name, name.removeprefix("channels.")): value for name, value in copied_weights(made).items()}
    weights = plain.Weights()
    choices = reference.Choices(channels=tuple(METADATA), timesteps=TIMESTEPS, temperature=weights.temperature)
    expected = reference.loss_terms(w, batch, choices)
    found = made.terms(
        batch.users,
        batch.positives,
        batch.negatives,
        noise=batch.noise,
        steps=batch.steps,
        temperature=weights.temperature,
    )
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=TERMS), name

    plain.total(found, weights).backward()
    sum(getattr(weights, name) * term for name, term in expected.items()).backward()
    parameters = {names.get(n, n.removeprefix("channels.")): p for n, p in made.named_parameters()}
    assert set(parameters) == set(w)
    for name, parameter in parameters.items():
        assert relative_error(parameter.grad, w[name].grad) < GRADIENTS, name


def test_negatives_lie_outside_the_users_training_set_and_reach_every_other_item() -> None:
    pairs = plain.Pairs([0, 0, 1], [0, 2, 1], 5)
    drawn = [pairs[number % 3] for number in range(300)]
    assert {item for user, _, item in drawn if user == 0} == {1, 3, 4}
    assert {item for user, _, item in drawn if user == 1} == {0, 2, 3, 4}
