"""The roofline picture of a step, from what `infodcl-dist bench step --json STEP.json` measured.

    python benchmarks/roofline.py STEP.json … --out FILE.png

A point is a part whose operations and bytes are counted: at its operations a byte, the operations a second that it
reached. The roofs are a large matrix product and a large copy, measured in the same run.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen is needed

import matplotlib.pyplot as plt
import numpy as np

INTENSITY = np.logspace(0, 2.5, 200)
MARKERS = "osD^"  # of parts, in their order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    figure, axis = plt.subplots(figsize=(7, 4.5))
    for number, file in enumerate(given.steps):
        found = json.loads(file.read_text())
        flops, moved = found["roofline"]["gemm_flops_per_s"], found["roofline"]["copy_bytes_per_s"]
        axis.plot(INTENSITY, np.minimum(flops, INTENSITY * moved), color=f"C{number}", linewidth=1)
        sizes = f"{found['data']['users']:,} × {found['data']['items']:,}, B {batch_of(found):,}"
        counted = [part for part in found["figures"] if part["flops"] and part["bytes"]]
        for part, marker in zip(counted, MARKERS, strict=False):
            point = part["flops"] / part["bytes"], part["flops"] / part["median_s"]
            axis.plot(*point, marker, color=f"C{number}", label=f"{part['name'].strip()}: {sizes}")
    axis.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(given.out, dpi=120, bbox_inches="tight")


def batch_of(found: dict) -> int:
    """The global batch of a measurement."""
    return int(found["configuration"]["train"]["global_batch_size"])


if __name__ == "__main__":
    main()
