"""The nemesis for a minute, with a seed of the day's luck: failing, it shows the seed for `make chaos SEED=…`."""

import os
import random
import shutil

import pytest

from tests import chaos


@pytest.mark.timeout(400)
def test_random_faults_under_random_load_lose_nothing_and_double_nothing() -> None:
    seed = int(os.environ.get("ANALYTICS_TEST_CHAOS_SEED", random.randrange(10**6)))
    print(f"chaos, seed {seed}")
    folder = chaos.make_folder()
    try:
        print(chaos.run(folder, seed, 60))
    finally:
        shutil.rmtree(folder)
