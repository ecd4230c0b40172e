"""What a sweep's configuration says of its base run."""

from pathlib import Path

import pytest

from infodcl_dist.base.errors import UserError
from infodcl_dist.tune.config import TuneConfig

GPU_KERNEL = ["data.path=set", "tables.kernel=fused_uvm_caching", "loss.negatives=sampled"]


def test_what_the_base_run_trains_on_is_its_workers_device_not_this_one(tmp_path: Path) -> None:
    values = {"path": tmp_path, "base": {"overrides": GPU_KERNEL}, "space": {"loss.bpr": {"uniform": [0, 1]}}}
    on_gpus = TuneConfig.model_validate({**values, "gpus_per_worker": 1})
    assert on_gpus.base_run().tables.kernel == "fused_uvm_caching"
    with pytest.raises(UserError, match=r"^tables\.kernel: fused_uvm_caching needs a CUDA device"):
        TuneConfig.model_validate(values).base_run()
