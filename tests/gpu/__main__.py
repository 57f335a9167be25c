"""``python -m tests.gpu --out FOLDER``, from the root of the checkout, on a machine with a GPU.

Each piece writes FOLDER/NAME.json. What is finished there is not run again, so that a run that was stopped goes on.
``--pack`` makes the file of images that the training needs, on any machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PACK = Path(".gpu/images.safetensors")
PIECES = ("correctness", "speed", "search", "training")


def main(given: list[str] | None = None) -> None:
    """Parse, and run the pieces."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="What a GPU does with filterdb.")
    parser.add_argument("--out", type=Path, default=Path(".gpu/results"), help="where results are written (.gpu/results)")
    parser.add_argument("--only", nargs="+", choices=PIECES, default=PIECES, metavar="NAME", help=", ".join(PIECES))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="at toy size: a test of the script, not a result")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all pieces together, finished ones counted (12)")
    parser.add_argument("--images", type=Path, default=PACK, help=f"the packed images ({PACK}), or the folder they are in")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="pack the Parquet files in FOLDER into --images, and end")
    parser.add_argument("--mebibytes", type=float, default=60.0, help="the largest pack (60)")
    args = parser.parse_args(given)
    images = args.images if args.images.suffix == ".safetensors" else args.images / PACK.name
    if args.pack is not None:
        from tests.gpu.data import pack

        pack(args.pack, images, args.mebibytes)
        return
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here. `--device cpu --toy` tries the script on the CPU.")
    from tests.gpu import stand_in

    missing = stand_in.install()
    from tests.gpu import correctness, search, speed, training
    from tests.gpu.results import Job, say

    if missing:
        say(f"not installed, and not needed here: {', '.join(missing)}")
    job = Job(args.out, args.device, args.toy, args.minutes, images)
    for name, module in (("correctness", correctness), ("speed", speed), ("search", search)):
        if name in args.only:
            job.run(name, module.piece)
    if "training" in args.only:
        training.piece(job)
    say(f"{args.out}: {job.left / 60:.1f} of {args.minutes:g} minutes are left")


if __name__ == "__main__":
    main()
