"""Small caches, and other processes that use them."""

import multiprocessing

import pytest

from fatezero_ext.storage.disk_cache.cache import InversionCache

from .saved import LIMIT

MODULES = ["fatezero_ext.storage.disk_cache.cache", "tests.storage.disk_cache.saved"]


@pytest.fixture
def cache(tmp_path):
    return InversionCache(tmp_path / "inversions", LIMIT)


@pytest.fixture(scope="session")
def processes():
    """Starts processes quickly: torch is loaded once, in a server that forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(MODULES)
    return context


@pytest.fixture
def start(processes):
    """Start a process that calls a function of `saved` with a connection and arguments; killed at the end."""
    started = []

    def start(work, *arguments):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=work, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.join()
