"""`torchrun --nproc_per_node N -m infodcl_dist.train --config FILE [key=value …]`: one worker of a run."""

from infodcl_dist.cli.main import main
from infodcl_dist.cli.train import worker

if __name__ == "__main__":
    main(worker)
