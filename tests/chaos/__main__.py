"""The command behind `make chaos`."""

import argparse
import random
import shutil
import sys

from tests import chaos


def main() -> None:
    """Run one seed; what it leaves is kept if it failed."""
    parser = argparse.ArgumentParser(description="random faults under random load")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    folder = chaos.make_folder()
    print(f"seed {arguments.seed}, {arguments.seconds:.0f} s, in {folder}", flush=True)
    try:
        print(chaos.run(folder, arguments.seed, arguments.seconds))
    except AssertionError as error:
        sys.exit(f"FAILED, seed {arguments.seed}: {error}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
