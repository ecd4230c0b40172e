import pytest
import torch
from reference import infodcl as reference
from reference.weights import relative_error

from infodcl_dist.model import losses
from infodcl_dist.model.losses import LossConfig

# A sum of 20 to 160 float32 products of order one: measured 1.1e-7.
TOLERANCE = 1e-6
EXAMPLES, PADDING, WIDTH = 20, 6, 8


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def rows(seed: int) -> torch.Tensor:
    return torch.randn(EXAMPLES + PADDING, WIDTH, generator=torch.Generator().manual_seed(seed)).requires_grad_()


# Each term as the package computes it from three matrices and shares, and as the reference does without padding.
CASES = {
    "bpr": (losses.bpr, reference.bpr, 3),
    "reconstruction": (losses.reconstruction, reference.reconstruction, 2),
    "balance l2": (
        lambda x, y, shares: losses.balance([x, y], shares, "l2", EXAMPLES, identity),
        lambda x, y: reference.balance(x, "l2") + reference.balance(y, "l2"),
        2,
    ),
    "balance l2_squared": (
        lambda x, shares: losses.balance([x], shares, "l2_squared", EXAMPLES, identity),
        lambda x: reference.balance(x, "l2_squared"),
        1,
    ),
    "regularization": (losses.regularization, reference.regularization, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_equal_the_reference_and_padding_has_no_part(case):
    ours, theirs, arity = CASES[case]
    shares = (torch.arange(EXAMPLES + PADDING) < EXAMPLES).float() / EXAMPLES
    found = [rows(seed) for seed in range(arity)]
    value = ours(*found, shares)
    value.backward()
    wanted = [x.detach().double()[:EXAMPLES].requires_grad_() for x in found]
    expected = theirs(*wanted)
    expected.backward()
    assert relative_error(value, expected) < TOLERANCE
    for x, y in zip(found, wanted, strict=True):
        assert relative_error(x.grad[:EXAMPLES], y.grad) < TOLERANCE
        assert (x.grad[EXAMPLES:] == 0).all()
    unpadded = ours(*(x.detach() for x in found), torch.full((EXAMPLES + PADDING,), 1.0 / EXAMPLES))
    assert relative_error(unpadded, expected) > 0.01, "the control: padding would be noticed"


def test_a_split_batch_has_the_same_mean_over_ranks():
    """Shares make the mean over ranks of a term the term of the whole batch, however unevenly the batch was split."""
    visited = 0
    for case, (ours, theirs, arity) in CASES.items():
        if case == "balance l2":  # needs the mean itself; tested over real ranks
            continue
        matrices = [rows(seed).detach()[:EXAMPLES] for seed in range(arity)]
        for cuts in ([10, 10], [19, 1], [20, 0], [7, 7, 6]):
            world_size = len(cuts)
            parts = zip(*(x.split(cuts) for x in matrices), strict=True)
            values = [ours(*part, torch.full((part[0].shape[0],), world_size / EXAMPLES)) for part in parts]
            expected = theirs(*(x.double() for x in matrices))
            assert relative_error(torch.stack(values).mean(), expected) < TOLERANCE, (case, cuts)
            visited += 1
    assert visited == 4 * 4


def test_bpr_of_large_margins_is_finite():
    users = torch.full((2, WIDTH), 100.0, requires_grad=True)
    items = torch.stack([torch.full((WIDTH,), 100.0), torch.full((WIDTH,), -100.0)])
    value = losses.bpr(users, items, -items, torch.tensor([0.5, 0.5]))
    value.backward()
    assert value.item() == pytest.approx(
        0.5 * 2 * 100.0 * 100.0 * WIDTH
    )  # softplus(−m) is −m for a large negative margin
    assert torch.isfinite(users.grad).all()


def test_balance_of_zero_embeddings_has_a_finite_gradient():
    generated = torch.zeros(4, WIDTH, requires_grad=True)
    losses.balance([generated], torch.full((4,), 0.25), "l2", 4, identity).backward()
    assert torch.isfinite(generated.grad).all()


def test_the_reconstruction_weight_is_one_minus_that_of_bpr_unless_given():
    assert LossConfig(bpr=0.6).reconstruction_weight == pytest.approx(0.4)
    assert LossConfig(bpr=1.0).reconstruction_weight == 0.0
    assert LossConfig(bpr=0.6, reconstruction=0.7).reconstruction_weight == 0.7
