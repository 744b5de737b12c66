"""Folders that several machines share: whether locks between them work there."""

from __future__ import annotations

from pathlib import Path

import psutil

from ..headless.graph import Graph
from .problems import stop

STORE_NODE = "FateZero_AttentionStoreCache"
UNLOCKED = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock", "local_lock=posix"),
    "nfs4": ("local_lock=all", "local_lock=flock", "local_lock=posix"),
    "lustre": ("noflock", "localflock"),
}
"""Options of mounts by file system with which each machine sees only its own locks."""
LOCKLESS = ("fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.goofys")
"""File systems without locks between machines."""


def check_cache(graph: Graph) -> None:
    """Raise InvalidPlan where a workflow keeps inversions on a shared disk whose locks other machines do not see."""
    nodes = (node for node in graph.nodes.values() if node.class_type == STORE_NODE)
    if any(node.inputs.get("place") == "disk" for node in nodes):
        from ...fatezero_ext.storage.disk_cache.cache import default_cache  # torch, seconds to import

        folder = default_cache().folder
        mounts = {Path(each.mountpoint): (each.fstype, each.opts) for each in psutil.disk_partitions(all=True)}
        if reason := unlocked(folder, mounts):
            raise stop(
                f"saved inversions are kept in {folder}, {reason}; with several machines one would delete what another "
                f"reads. Mount it with locks, or name a folder of this machine with FATEZERO_CACHE_DIR."
            )


def unlocked(folder: Path, mounts: dict[Path, tuple[str, str]]) -> str:
    """Return why locks in a folder are not seen by other machines, a clause; '' where they are, or it is not shared.

    mounts: file system and options by where it is mounted
    """
    inside = [place for place in mounts if folder.resolve().is_relative_to(place)]
    if not inside:
        return ""
    kind, options = mounts[max(inside, key=lambda place: len(place.parts))]
    if kind in LOCKLESS:
        return f"which is {kind}, a file system without locks"
    found = next((option for option in options.split(",") if option in UNLOCKED.get(kind, ())), None)
    return "" if found is None else f"which is {kind} mounted with {found}"
