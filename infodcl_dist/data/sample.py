"""Real data to try things on: MovieLens 100K, as the PyPI wheel of RecBole carries it.

The data belong to GroupLens (University of Minnesota) and come with its terms of use: research, no redistribution. So
they are fetched, not shipped.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from infodcl_dist.base.errors import UserError
from infodcl_dist.base.files import new_folder, sha256_of_file

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
FOLDER_IN_WHEEL = "recbole/dataset_example/ml-100k"
INTERACTIONS = "ml-100k.inter"
FILES = {
    INTERACTIONS: "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
    "ml-100k.link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
"""What lies in the fetched folder, and the SHA-256 of each file."""


def default_cache() -> Path:
    """Where fetched data are kept: `$INFODCL_CACHE`, else `~/.cache/infodcl_dist`."""
    return Path(os.environ.get("INFODCL_CACHE") or "~/.cache/infodcl_dist").expanduser()


def fetch_ml_100k(cache: Path) -> Path:
    """Fetches MovieLens 100K once; later calls only verify what is there.

    Args:
        cache: the folder to keep it in, as `ml-100k/`, whole or not at all.

    Returns:
        The path of `ml-100k.inter`; the other `FILES` (items, users, knowledge graph, its links) lie beside it.

    Raises:
        UserError: no network, or what came is not what was expected.
    """
    folder = cache / "ml-100k"
    if not _is_whole(folder):
        with new_folder(folder, replace=True) as building:
            wheel = _download(building)
            with zipfile.ZipFile(wheel) as archive:
                for name in FILES:
                    (building / name).write_bytes(archive.read(f"{FOLDER_IN_WHEEL}/{name}"))
            wheel.unlink()
    return folder / INTERACTIONS


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() and sha256_of_file(folder / name) == known for name, known in FILES.items())


def _download(folder: Path) -> Path:
    """Lets pip bring the wheel, from wherever pip is set up to look, and verifies it."""
    command = ["pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--dest", str(folder), WHEEL], capture_output=True, text=True, check=False
    )
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise UserError(
            f"{WHEEL} cannot be downloaded ({reason}); check the network and pip's index, or bring the folder "
            f"{folder.parent / 'ml-100k'} from a machine that has it"
        )
    if (found := sha256_of_file(wheel)) != WHEEL_SHA256:
        raise UserError(
            f"{wheel.name}: SHA-256 is {found}, expected {WHEEL_SHA256}; pip's index serves another file under this "
            f"name, so use another index (PIP_INDEX_URL)"
        )
    return wheel
