import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.model.psnet import global_svd

# The Gram matrix is summed in float64 from float32 rows, so values and vectors are right to float32's rounding (6e-8)
# times a small constant: measured 5e-8, and 3e-7 for the product of all three. Gradients divide by eigenvalue gaps:
# measured 3e-7.
VALUES, PRODUCT, GRADIENTS = 5e-7, 2e-6, 5e-6


def random_rows(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def decompose(rows: torch.Tensor):
    return global_svd(rows, torch.ones(rows.shape[0]), lambda x: x)


SHAPES = [(40, 8), (9, 8), (8, 8), (5, 8), (1, 8), (3, 1), (200, 64), (50, 64)]


def test_values_and_vectors_equal_torch_linalg_svd():
    for rows, width in SHAPES:
        matrix = random_rows(rows, width)
        left, values, right = decompose(matrix)
        a, s, v = reference.svd(matrix.double())
        assert left.shape == (rows, width)
        assert values.shape == (width,)
        assert right.shape == (width, width)
        assert (values[:-1] >= values[1:]).all()
        assert relative_error(values, s) < VALUES
        present = min(rows, width)
        assert relative_error(left, a) < VALUES, (rows, width)
        assert relative_error(right[:, :present], v) < VALUES, (rows, width)
        assert (left[:, present:] == 0).all()
        assert (values[present:] == 0).all()
        assert relative_error((left * values) @ right.T, matrix) < PRODUCT


def test_gradients_equal_torch_linalg_svd():
    visited = 0
    for rows, width in SHAPES:
        matrix = random_rows(rows, width, seed=3)
        pull_left, pull_values, pull_right = (
            random_rows(rows, width, 4),
            random_rows(1, width, 5),
            random_rows(width, 1, 6),
        )
        found = matrix.clone().requires_grad_()
        left, values, right = decompose(found)
        ((left * pull_left).sum() + (values * pull_values).sum() + (right[:, :1] * pull_right).sum()).backward()
        wanted = matrix.double().requires_grad_()
        a, s, v = reference.svd(wanted)
        ((a * pull_left).sum() + (s * pull_values).sum() + (v[:, :1] * pull_right).sum()).backward()
        assert relative_error(found.grad, wanted.grad) < GRADIENTS, (rows, width)
        visited += 1
    assert visited == len(SHAPES)


def test_signs_do_not_depend_on_the_order_of_rows():
    matrix = random_rows(30, 8)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    left, values, right = decompose(matrix)
    left_again, values_again, right_again = decompose(matrix[order])
    assert relative_error(left_again, left[order]) < VALUES
    assert relative_error(values_again, values) < VALUES
    assert relative_error(right_again, right) < VALUES
    largest = right.gather(0, right.abs().argmax(dim=0, keepdim=True))
    assert (largest > 0).all()


def degenerate() -> dict[str, torch.Tensor]:
    orthogonal = torch.linalg.qr(random_rows(30, 8)).Q
    return {
        "all singular values equal": 3.0 * orthogonal,
        "two equal": orthogonal * torch.tensor([5.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.25]),
        "nearly equal": orthogonal * (1 + 1e-7 * torch.arange(8.0)),
        "rank one": torch.ones(30, 8),
        "equal rows": random_rows(1, 8).expand(30, 8).clone(),
        "zero": torch.zeros(30, 8),
        "near zero": 1e-20 * random_rows(30, 8),
        "tiny": 1e-30 * random_rows(30, 8),
        "huge": 1e10 * random_rows(30, 8),
        "one row": random_rows(1, 8),
        "wide spread": orthogonal * torch.logspace(0, -7, 8),
    }


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_batches_have_finite_values_and_gradients(case):
    matrix = degenerate()[case].requires_grad_()
    left, values, right = decompose(matrix)
    scale = matrix.detach().abs().max().clamp(min=1e-30)
    for part in (left, values / scale, right):
        assert torch.isfinite(part).all()
    assert left.abs().max() < 1.01, "a left vector has length one"
    ((left * random_rows(*left.shape, seed=8)).sum() + (values / scale).sum() + right[:, 0].sum()).backward()
    assert torch.isfinite(matrix.grad).all()
    # Held at 1 / gap floor, 1e6 relative to the largest eigenvalue, and a norm of 1 / σ_min ≤ 1e6 for the left vectors.
    assert matrix.grad.abs().max() * scale < 1e8


def test_rows_of_weight_zero_are_left_out():
    matrix = random_rows(20, 8)
    weights = torch.ones(20)
    weights[[0, 7, 19]] = 0
    left, values, right = global_svd(matrix, weights, lambda x: x)
    kept = weights > 0
    a, s, v = reference.svd(matrix[kept].double())
    assert relative_error(values, s) < VALUES
    assert relative_error(left[kept], a) < VALUES
    assert relative_error(right, v) < VALUES
    assert relative_error(values, reference.svd(matrix.double())[1]) > 100 * VALUES, "the control: they would matter"
