"""Imports of packages that nodes need only when they run."""

from threading import Event, Thread

import torch

from fatezero_ext.cli.node_pack import load_pack

importing = load_pack("nodes.first_use").importing


def test_imports_are_not_in_inference_mode():
    with torch.inference_mode():
        with importing():
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


def test_one_thread_imports_at_a_time_and_may_do_so_again_inside():
    begun, done = Event(), Event()

    def import_too():
        begun.set()
        with importing():
            done.set()

    other = Thread(target=import_too)
    with importing(), importing():
        other.start()
        assert begun.wait(60) and not done.wait(0.05)
    other.join(60)
    assert done.is_set()
