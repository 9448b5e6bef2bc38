"""Run by test_faults.py: the small run with a fault planted while it goes on; its result as JSON.

python fault.py FAULT FOLDER
"""

import json
import os
import shutil
import sys
from pathlib import Path

from trainee import MeshConfig, live

STEPS, AT, UNTIL = 60, 22, 42  # batches laid when the fault comes and goes


def fill(folder: Path) -> None:
    """Takes all that the disk has left."""
    with (folder.parent / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


def forbid(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o500)


def allow(folder: Path) -> None:
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o700)


def nothing(folder: Path) -> None:
    pass


def become_a_file(folder: Path) -> None:
    """The run may make its folder again in between."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.write_text("mine")
            return
        except IsADirectoryError:
            continue


FAULTS = {
    "none": (nothing, nothing),
    "disk full for a while": (fill, lambda folder: (folder.parent / "filler").unlink()),
    "disk full to the end": (fill, nothing),
    "permission lost for a while": (forbid, allow),
    "permission lost to the end": (forbid, nothing),
    "folder deleted": (lambda folder: shutil.rmtree(folder, ignore_errors=True), nothing),
    "folder replaced by a file": (become_a_file, nothing),
}


def main() -> None:
    comes, goes = FAULTS[sys.argv[1]]
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if "permission" in sys.argv[1] and os.getuid() == 0:  # who root is, may everything
        for path in (folder.parent, folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)

    def on_step(laid: int) -> None:
        if laid in (AT, UNTIL):
            (comes if laid == AT else goes)(folder)

    print(json.dumps(live(folder, MeshConfig(), STEPS, on_step)))


if __name__ == "__main__":
    main()
