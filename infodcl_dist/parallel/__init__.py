"""What knows that there is more than one process: the group, collectives, TorchRec's tables, DeepSpeed's engine."""

from infodcl_dist.parallel.quiet import quiet_from_now_on

quiet_from_now_on()  # before any module here imports FBGEMM
