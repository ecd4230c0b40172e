import pytest

from infodcl_dist.train.loop import TrainConfig


def test_a_linear_schedule_falls_in_equal_steps_and_ends_above_zero():
    config = TrainConfig(epochs=4, learning_rate=0.02, schedule="linear")
    assert [config.learning_rate_in(epoch) for epoch in (1, 2, 3, 4)] == pytest.approx([0.02, 0.015, 0.01, 0.005])


def test_without_a_schedule_the_rate_stays_to_the_last_bit():
    config = TrainConfig(epochs=7, learning_rate=0.003)
    assert {config.learning_rate_in(epoch) for epoch in range(1, 8)} == {0.003}
