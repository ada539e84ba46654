"""`remove`: one release leaves the store, and nothing that another one needs."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import invoke, only_line
from support.release_store import ReleaseStore
from support.releases import visible

from distribution import locking
from distribution.installed import InstalledRelease
from relay_client.keys import SecretKey


@pytest.fixture
def releases(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(home=tmp_path, key=SecretKey(bytes.fromhex("11" * 32)))


@pytest.fixture
def three(releases: ReleaseStore) -> list[InstalledRelease]:
    """Three versions, the second and third of which were made current."""
    made = [releases.install() for _ in range(3)]
    for release in made[1:]:
        releases.store.activate(release.id)
    return made


def blobs(releases: ReleaseStore) -> set[str]:
    return {path.name for path in (releases.store.folder / "blobs").iterdir()}


@pytest.mark.parametrize("command", ["remove", "rm"])
def test_removed_release_frees_only_its_own_files(
    releases: ReleaseStore, three: list[InstalledRelease], command: str
) -> None:
    first, rest = three[0], three[1:]
    done = invoke(releases.home, command, "tiny@1", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, [each["version"] for each in result["releases"]]) == (0, [1])
    assert result["freed"] == first.file("checkpoint").size  # vocabulary and shape are shared
    assert [each.id for each in releases.store.releases()] == [each.id for each in reversed(rest)]
    assert not any(releases.store.damaged_files(release) for release in rest)
    assert blobs(releases) == {file.sha256.hex() for release in rest for file in release.files}
    assert not first.folder.exists()


def test_current_release_needs_force(releases: ReleaseStore, three: list[InstalledRelease]) -> None:
    before = visible(releases.home)
    refused = invoke(releases.home, "remove", "current")
    assert refused.returncode == 2
    assert "tiny version 3 is the current release; choose another with randygpt use" in only_line(refused.stderr)
    assert visible(releases.home) == before
    assert invoke(releases.home, "remove", "current", "--force").returncode == 0
    assert releases.store.current() is None
    assert invoke(releases.home, "use", "previous", "--json").returncode == 0
    assert releases.store.current() == three[1].id


def test_pinned_release_is_kept(releases: ReleaseStore, three: list[InstalledRelease]) -> None:
    assert invoke(releases.home, "pin", "tiny@1").returncode == 0
    before = visible(releases.home)
    refused = invoke(releases.home, "remove", "tiny@1", "--force")
    assert refused.returncode == 2
    assert f"randygpt pin --remove {three[0].id.hex()[:12]}" in only_line(refused.stderr)
    assert visible(releases.home) == before


def test_release_in_use_by_another_process_is_kept(releases: ReleaseStore, three: list[InstalledRelease]) -> None:
    before = visible(releases.home)
    with ExitStack() as fetching:
        locking.enter(fetching, releases.store.lock_path(three[0].id))
        refused = invoke(releases.home, "remove", "tiny@1")
    assert refused.returncode == 5
    assert "tiny version 1 is in use by another process" in only_line(refused.stderr)
    assert visible(releases.home) == before


def test_files_stay_while_another_release_is_fetched(releases: ReleaseStore, three: list[InstalledRelease]) -> None:
    before = blobs(releases)
    with ExitStack() as fetching:
        locking.enter(fetching, releases.store.lock_path(bytes(32)))
        assert json.loads(invoke(releases.home, "remove", "tiny@1", "--json").stdout)["freed"] == 0
    assert not three[0].folder.exists()
    assert blobs(releases) == before
    assert invoke(releases.home, "gc").returncode == 0
    assert len(blobs(releases)) == len(before) - 1


@pytest.mark.parametrize(("last", "reason"), [("nothing", "'nothing'"), ("current", "pass --force")])
def test_one_refused_name_removes_nothing(
    releases: ReleaseStore, three: list[InstalledRelease], last: str, reason: str
) -> None:
    refused = invoke(releases.home, "remove", "tiny@1", last)
    assert refused.returncode == 2
    assert reason in only_line(refused.stderr)
    assert len(releases.store.releases()) == len(three)
