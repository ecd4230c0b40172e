"""Warnings of these versions that tell a user nothing to do, each with the reason that it may be passed over."""

import logging
import os
import sys
import warnings
from typing import Any

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
_LEFT_BY_A_FAILED_SAVE = "NoCloseWriter"


def quiet_from_now_on() -> None:
    """What holds for the process, once, before FBGEMM is imported; every other message is told.

    FBGEMM 1.6 and 1.7 log five times that they do not know whether this torch fits; `infodcl-dist doctor` knows. And a
    checkpoint that cannot be written, which is told, leaves torch's writer of a closed file: Python 3.13 tells its end
    with a traceback.
    """
    logging.getLogger().addFilter(lambda record: _UNKNOWN_PAIR not in record.getMessage())
    tell = sys.unraisablehook

    def tell_others(unraisable: Any) -> None:
        if type(unraisable.object).__name__ != _LEFT_BY_A_FAILED_SAVE:
            tell(unraisable)

    sys.unraisablehook = tell_others


def quiet_libraries() -> None:
    """Passes over what is listed above; every other warning is shown."""
    for message, category in _PASSED_OVER.items():
        warnings.filterwarnings("ignore", message=message, category=category)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        # Otherwise DeepSpeed warns that it looked for an accelerator and found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
