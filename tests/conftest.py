import os
import shutil

import pytest

SEED = 20260214


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=SEED, help=f"seed of random tests (default {SEED})")


def pytest_report_header(config):
    return f"seed: {config.getoption('--seed')} (change it with --seed)"


@pytest.fixture
def seed(request):
    """Seed of random tests; pytest shows it with the captured output of a test that fails."""
    value = request.config.getoption("--seed")
    print(f"seed {value}")
    return value


def pytest_collection_modifyitems(config, items):
    """Tests that need a C++ compiler are skipped by name where there is none."""
    command = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(command) is None:
        skip = pytest.mark.skip(reason=f"no C++ compiler: {command} is not on the PATH")
        for item in items:
            if "verilator" in item.keywords:
                item.add_marker(skip)
