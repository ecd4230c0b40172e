"""Time and memory of `prepare` on raw interactions with string ids, at several sizes.

    python benchmarks/prepare.py DATASET [--times 188 1880] [--folder FOLDER] [PREPARE OPTION ...]

Grows DATASET (a prepared folder) to raw Parquet files by `synthesize --raw`, prepares each in a process of its own with
a 5-core and a ratio split (or the options given), and prints a Markdown table. Interactions a second count the whole
command, start of Python included; memory is the process's largest resident set.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq


def timed(*arguments: object) -> tuple[float, int]:
    """Seconds and largest resident bytes of a command of the package."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "infodcl_dist", *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - started, usage.ru_maxrss * 1024  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--times", type=int, nargs="+", default=[188, 1880])
    parser.add_argument("--folder", type=Path, help="where the files go; some 30 bytes an interaction")
    arguments, options = parser.parse_known_args()
    options = options or ["--k-core", "5"]
    lines = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for times in arguments.times:
            raw, out = Path(folder) / "raw.parquet", Path(folder) / "out"
            growth = ["--times", times, "--item-times", max(times // 5, 1)]
            seconds_made, _ = timed("synthesize", arguments.dataset, *growth, "--raw", "--out", raw)
            seconds, peak = timed("prepare", raw, "--out", out, *options)
            pairs, size = pq.ParquetFile(raw).metadata.num_rows, raw.stat().st_size
            lines.append(
                f"| {pairs:,} | {size / 1e6:,.0f} | {seconds_made:.1f} | {seconds:.1f} | {pairs / seconds:,.0f} | "
                f"{peak / 2**30:.2f} |"
            )
            shutil.rmtree(out)
            raw.unlink()
    print("| interactions | file, MB | made in, s | prepared in, s | interactions a second | largest memory, GiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
