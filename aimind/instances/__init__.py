"""What is served here: the instances, what they have claimed, how they are, and what they printed.

There is no daemon: an instance is a folder of files, and lives for as long as its lock is held
(`aimind.instances.records` says which files). Windows has none.
"""

from __future__ import annotations

from aimind.instances.claims import Claims, Held, check_free, claimed_by, claims, remove_leftovers
from aimind.instances.control import finish_stop, follow_start, remove, send
from aimind.instances.look import MOST_RECENT, Sight, all_names, everything, listing, living, look
from aimind.instances.memory import Used, device_key, used, without_promises
from aimind.instances.ports import choose
from aimind.instances.records import scratch

__all__ = [
    "MOST_RECENT",
    "Claims",
    "Held",
    "Sight",
    "Used",
    "all_names",
    "check_free",
    "choose",
    "claimed_by",
    "claims",
    "device_key",
    "everything",
    "finish_stop",
    "follow_start",
    "listing",
    "living",
    "look",
    "remove",
    "remove_leftovers",
    "scratch",
    "send",
    "used",
    "without_promises",
]
