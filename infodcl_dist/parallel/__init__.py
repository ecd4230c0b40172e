"""What knows that there is more than one process: the group, collectives, TorchRec's tables, DeepSpeed's engine."""
