"""An installed base, forks of it, and one that is turned around."""

from pathlib import Path

import numpy as np

from distribution.installed import InstalledRelease
from relay_client.event import Tags
from relay_client.keys import SecretKey
from support.models import CONFIG
from support.release_store import ReleaseStore, checkpoint, weights

AUTHOR, FRIEND = (SecretKey(bytes([byte]) * 32) for byte in (0x11, 0x22))


def change(seed: int) -> np.ndarray:
    """Return a change that has something in common with those of other seeds."""
    together = np.random.default_rng(0).normal(scale=0.02, size=CONFIG.parameter_count)
    return (together + np.random.default_rng(seed).normal(scale=0.02, size=CONFIG.parameter_count)).astype("<f4")


def b_tag(release: InstalledRelease, role: str = "base") -> tuple[str, ...]:
    return ("b", release.id.hex(), "", release.author.hex(), role)


class Family:
    """A base, three forks of it, and one that is turned around; all are installed."""

    def __init__(self, home: Path) -> None:
        self.author = ReleaseStore(home=home, key=AUTHOR)
        self.friend = ReleaseStore(home=home, key=FRIEND)
        self.base = self.author.install(name="base", checkpoint=checkpoint(weights(1)))
        self.forks = [self.fork(f"fork{seed}", change(seed)) for seed in (1, 2, 3)]
        self.liar = self.fork("liar", -10 * change(4))

    def fork(self, name: str, changed: np.ndarray, tags: Tags | None = None) -> InstalledRelease:
        data = checkpoint((weights(1) + changed).astype("<f4"))
        return self.friend.install(name=name, tags=(b_tag(self.base),) if tags is None else tags, checkpoint=data)
