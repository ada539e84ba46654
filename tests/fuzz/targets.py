"""Every target by its name: a function that takes foreign bytes. A family of targets is a file of this folder."""

from fuzz import (
    blossom,
    checkpoints,
    events,
    http_connections,
    http_requests,
    names,
    relays,
    releases,
    signers,
    user_files,
)
from fuzz.oracle import Target

_FAMILIES = (
    events,
    relays,
    names,
    releases,
    blossom,
    signers,
    checkpoints,
    user_files,
    http_requests,
    http_connections,
)
TARGETS: dict[str, Target] = {name: target for family in _FAMILIES for name, target in family.TARGETS.items()}
