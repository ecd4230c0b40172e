"""What the comparisons of other tests hang on."""

import pytest
import torch
from reference.weights import relative_error


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_that_is_not_finite_is_near(value):
    plain, broken = torch.ones(3), torch.tensor([1.0, value, 1.0])
    assert relative_error(plain, plain) == 0
    for found, expected in ((broken, plain), (plain, broken), (broken, broken)):
        assert max(0.0, relative_error(found, expected)) == float("inf")
