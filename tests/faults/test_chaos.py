"""The nemesis for half a minute; in CI with the same seed each time. Failing, it shows it for `make chaos SEED=…`."""

import shutil

import pytest

from tests import chaos
from tests.support import seed_of


@pytest.mark.timeout(400)
def test_random_faults_under_random_load_lose_nothing_and_double_nothing() -> None:
    seed = seed_of("CHAOS")
    print(f"chaos, seed {seed}")
    folder = chaos.make_folder()
    try:
        print(chaos.run(folder, seed, 30))
    finally:
        shutil.rmtree(folder)
