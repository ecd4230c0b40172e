"""Warnings of these versions that tell a user nothing to do, each with the reason that it may be passed over."""

import logging
import os
import warnings

import torch

_PASSED_OVER = {
    # The dense kernel's CPU lookup has its gradient; the tests hold it against dense autograd.
    "fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel was not registered": UserWarning,
    # TorchRec 1.8 still calls these by their old names, and keeps its shards in ShardedTensors.
    r"`torch\.distributed\.\w+` is deprecated": FutureWarning,
    "Please use DTensor instead": FutureWarning,
}
# (Of the planner: that a topology made by hand would fail, which it does not. What does fail, it raises.)
_TALKATIVE = ("torch.fx._symbolic_trace", "torchrec.distributed.utils", "torchrec.distributed.planner", "DeepSpeed")

_UNKNOWN_PAIR = "_fbgemm_torch_compat_table has no entry"


def quiet_imports() -> None:
    """Passes over what FBGEMM 1.6 and 1.7 log five times as they are imported: that they do not know whether this torch
    fits. `infodcl-dist doctor` does."""
    logging.getLogger().addFilter(lambda record: _UNKNOWN_PAIR not in record.getMessage())


def quiet_libraries() -> None:
    """Passes over what is listed above; every other warning is shown."""
    for message, category in _PASSED_OVER.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Otherwise DeepSpeed warns that it looked for an accelerator and found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
