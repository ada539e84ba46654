"""Durable writes: atomicity, modes and errors. The order of fsync and rename calls stands for a power loss."""

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from relay_client import durable


class Interrupted(BaseException):
    """A BaseException like KeyboardInterrupt."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def write_half(path: Path, error: BaseException) -> None:
    with durable.atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        raise error


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Record calls that make data durable or visible, with the content synced or the path made."""
    calls: list[str] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def recording_fsync(descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        path = next(path for path in (tmp_path, *tmp_path.rglob("*")) if path.stat().st_ino == inode)
        calls.append(f"fsync folder {path.name}" if path.is_dir() else f"fsync {path.read_bytes()!r}")
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        calls.append(f"replace {Path(target).name}")
        replace(source, target)

    def recording_link(source: Path, target: Path) -> None:
        calls.append(f"link {Path(target).name}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    monkeypatch.setattr(os, "rename", recording_replace)
    monkeypatch.setattr(os, "link", recording_link)
    return calls


def test_write_is_complete(tmp_path: Path) -> None:
    durable.write(tmp_path / "a", b"old")
    durable.write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_content_is_synced_before_its_name(tmp_path: Path, order: list[str]) -> None:
    durable.write(tmp_path / "a", b"content")
    assert order == ["fsync b'content'", "replace a", f"fsync folder {tmp_path.name}"]


def test_create_syncs_in_the_same_order(tmp_path: Path, order: list[str]) -> None:
    durable.create(tmp_path / "a", b"content", mode=durable.SECRET)
    assert order.index("fsync b'content'") < order.index("link a")
    assert order[-2:] == ["link a", f"fsync folder {tmp_path.name}"]


def test_new_directory_is_synced_in_its_parent(tmp_path: Path, order: list[str]) -> None:
    assert durable.make_directory(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert order == [f"fsync folder {tmp_path.name}", "fsync folder a"]
    order.clear()
    durable.make_directory(tmp_path / "a" / "b")
    assert order == []


def test_old_file_stays_until_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write(path, b"old")
    with durable.atomic_file(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("bug"), Interrupted()], ids=repr)
@pytest.mark.parametrize("before", [b"old", None])
def test_error_leaves_only_the_old_file(tmp_path: Path, error: BaseException, before: bytes | None) -> None:
    path = tmp_path / "a"
    if before is not None:
        durable.write(path, before)
    with pytest.raises(type(error)):
        write_half(path, error)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if before is None else {"a": before})


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    durable.write(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="disk full"):
        durable.write(tmp_path / "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


LEFTOVER = ".tmp-0123456789abcdef-a[1]"


def test_only_leftovers_of_the_file_are_removed(tmp_path: Path) -> None:
    others = {"a[1]", ".tmp-0123456789abcdef-a1", ".tmp-0123456789abcdef-a[1].b", ".tmp-0123-a[1]", f"{LEFTOVER}~"}
    for name in (LEFTOVER, *others):
        (tmp_path / name).write_bytes(b"half")
    durable.remove_leftovers(tmp_path / "a[1]")
    assert {path.name for path in tmp_path.iterdir()} == others


def test_directory_named_like_a_leftover_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    (tmp_path / LEFTOVER).symlink_to("mine")
    (tmp_path / LEFTOVER.replace("0", "1")).mkdir()
    durable.remove_leftovers(tmp_path / "a[1]")
    assert len(list(tmp_path.iterdir())) == 3


def test_file_being_written_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove leftovers between creation and lock, and between write and rename."""
    flock, replace, path = fcntl.flock, os.replace, tmp_path / "a"
    taken: list[bool] = []

    def late_flock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        durable.remove_leftovers(path)
        taken.append(not list(tmp_path.iterdir()))
        flock(descriptor, operation)

    def late_replace(source: Path, target: Path) -> None:
        durable.remove_leftovers(path)
        replace(source, target)

    monkeypatch.setattr(fcntl, "flock", late_flock)
    monkeypatch.setattr(os, "replace", late_replace)
    with durable.atomic_file(path) as file:
        file.write(b"new")
        durable.remove_leftovers(path)
    assert taken == [True]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_file_system_without_locks_keeps_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    with durable.atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        durable.remove_leftovers(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_error_names_the_target_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write_half(tmp_path / "m.bin", OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(tmp_path / "m.bin")


@pytest.mark.parametrize("wanted", [durable.PUBLIC, durable.READ_ONLY, durable.SECRET])
def test_files_get_the_requested_mode(tmp_path: Path, wanted: int) -> None:
    durable.write(tmp_path / "written", b"", mode=wanted)
    durable.create(tmp_path / "created", b"", mode=wanted)
    assert mode(tmp_path / "written") == mode(tmp_path / "created") == wanted


def test_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    with durable.atomic_file(tmp_path / "key", mode=durable.SECRET) as file:
        file.write(b"secret")
        assert [mode(path) for path in tmp_path.iterdir()] == [0o600]


def test_replaced_file_gets_the_requested_mode(tmp_path: Path) -> None:
    durable.write(tmp_path / "key", b"1", mode=durable.PUBLIC)
    durable.write(tmp_path / "key", b"2", mode=durable.SECRET)
    assert mode(tmp_path / "key") == 0o600


def test_create_writes_a_file(tmp_path: Path) -> None:
    durable.create(tmp_path / "a", b"content", mode=durable.PUBLIC)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"content"}
    assert (tmp_path / "a").stat().st_nlink == 1


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("occupy", [lambda path: path.write_bytes(b"old"), Path.mkdir, dangling])
def test_create_never_overwrites(tmp_path: Path, occupy: Callable[[Path], object]) -> None:
    occupy(tmp_path / "a")
    before = (tmp_path / "a").lstat()
    with pytest.raises(FileExistsError):
        durable.create(tmp_path / "a", b"new", mode=durable.PUBLIC)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").lstat() == before


def test_symlink_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"mine")
    link.symlink_to(target)
    durable.write(link, b"new")
    assert not link.is_symlink()
    assert (target.read_bytes(), link.read_bytes()) == (b"mine", b"new")


def test_directory_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        durable.write(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("length", [1, 200, 255])
def test_longest_file_name_can_be_written(tmp_path: Path, length: int) -> None:
    durable.write(tmp_path / ("n" * length), b"1")
    durable.create(tmp_path / ("m" * length), b"2", mode=durable.PUBLIC)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m" * length, "n" * length]


def test_make_directory_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        durable.make_directory(tmp_path / "a")
    with pytest.raises(OSError, match="a"):
        durable.make_directory(tmp_path / "a" / "b")


def test_make_directory_applies_the_mode(tmp_path: Path) -> None:
    durable.make_directory(tmp_path / "keys", mode=0o700)
    assert mode(tmp_path / "keys") == 0o700


@pytest.mark.parametrize(("mode", "protected"), [(0o777, 0o755), (0o775, 0o755), (0o1777, 0o1755), (0o700, 0o700)])
def test_write_access_of_others_is_taken(tmp_path: Path, mode: int, protected: int) -> None:
    tmp_path.chmod(mode)
    durable.protect(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == protected


def refuse(number: int) -> Callable[..., None]:
    def chmod(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return chmod


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_open_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", refuse(number))
    with pytest.raises(PermissionError, match=f"every user can change it; its owner should run chmod go-w {tmp_path}"):
        durable.protect(tmp_path)


def test_open_directory_of_a_read_only_disk_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(Path, "chmod", refuse(errno.EROFS))
    durable.protect(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777


def test_directory_appears_when_complete(tmp_path: Path, order: list[str]) -> None:
    target = tmp_path / "target"
    with durable.atomic_directory(target) as folder:
        durable.write(folder / "a", b"1")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (target / "a").read_bytes() == b"1"
    assert order[0] == "fsync b'1'"
    assert order[-2:] == ["replace target", f"fsync folder {tmp_path.name}"]


def test_only_an_empty_directory_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with durable.atomic_directory(target) as folder:
        durable.write(folder / "a", b"1")
    with pytest.raises(OSError, match="not empty"), durable.atomic_directory(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in target.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [Interrupted(), OSError(errno.ENOSPC, "full")])
def test_incomplete_directory_is_removed(tmp_path: Path, error: BaseException) -> None:
    def fill_half() -> None:
        with durable.atomic_directory(tmp_path / "target") as folder:
            durable.write(folder / "a", b"1")
            raise error

    with pytest.raises(type(error)):
        fill_half()
    assert list(tmp_path.iterdir()) == []


def test_error_names_the_target_directory(tmp_path: Path) -> None:
    def fill_without_room() -> None:
        with durable.atomic_directory(tmp_path / "target") as folder, durable.atomic_file(folder / "a"):
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full") as caught:
        fill_without_room()
    assert caught.value.filename == str(tmp_path / "target" / "a")
    with pytest.raises(FileNotFoundError) as missing, durable.atomic_directory(tmp_path / "gone" / "target"):
        pass
    assert missing.value.filename == str(tmp_path / "gone" / "target")
