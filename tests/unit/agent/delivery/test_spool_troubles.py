"""Test a disk that fails temporarily, and files removed by others: nothing is lost or counted twice."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.delivery.spool import Batched, Spool

ERRORS = [errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return opened(tmp_path)


def opened(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", max_bytes=10**6, max_age=3600)


def batch(identifier: int, results: int = 2) -> Batched:
    return Batched(id=f"{identifier:026}", results=results, created=int(time.time()), payload=b"payload")


def add(spool: Spool, identifier: int) -> int:
    number = spool.reserve()
    spool.admit(number, spool.store(number, batch(identifier)), time.time())
    return number


def ids(spool: Spool) -> list[int]:
    return [int(one.id) for number in list(spool) if (one := spool.read(number)) is not None]


def failing(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", ERRORS)
def test_temporarily_unreadable_batch_is_kept(spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    stored = add(spool, 1)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", failing(number))
        broken.setattr(Path, "open", failing(number))
        with pytest.raises(OSError, match=os.strerror(number)):
            spool.read(stored)
        spool.expire(time.time() + 10_000)
    assert (ids(spool), spool.counters.torn, spool.counters.dropped_results) == ([1], 0, 0)
    spool.expire(time.time() + 10_000)
    assert (ids(spool), spool.counters.dropped_results) == ([], 2), "it is dropped when it can be read, and counted"


def test_batch_whose_directory_sync_failed_does_not_reappear(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has its final name when the directory sync fails, and its results are stored again in another batch."""
    with monkeypatch.context() as broken:
        broken.setattr("agent.files._sync_directory", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            spool.store(spool.reserve(), batch(1))
    assert len(list(tmp_path.glob("spool/0*"))) == 1
    add(spool, 2)
    assert ids(opened(tmp_path)) == [2]


def test_nothing_is_written_while_a_leftover_cannot_be_removed(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(spool, 1)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "unlink", failing(errno.EROFS))
        spool.remove(first)
        assert first not in spool and spool.bytes == 0, "it is not sent again"
        with pytest.raises(OSError, match="Read-only"):
            spool.store(spool.reserve(), batch(2))
    add(spool, 3)
    assert ids(opened(tmp_path)) == [3]


def test_removed_directory_is_recreated_and_its_batches_are_counted(spool: Spool, tmp_path: Path) -> None:
    lost = add(spool, 1)
    shutil.rmtree(tmp_path / "spool")
    with pytest.raises(FileNotFoundError):
        spool.read(lost)
    kept = add(spool, 2)
    assert spool.read(lost) is None
    assert (ids(spool), list(spool), spool.counters.torn) == ([2], [kept], 1)
    assert ids(opened(tmp_path)) == [2]
    spool.set_aside(kept)
    assert (len(spool), spool.counters.set_aside) == (0, 1)
    assert len(list(tmp_path.glob("spool/set-aside/*"))) == 1


def test_missing_file_system_is_not_recreated_and_loses_no_batches(tmp_path: Path) -> None:
    state, gone = tmp_path / "state", tmp_path / "gone"
    state.mkdir()
    spool = Spool(state / "spool" / "v4", max_bytes=10**6, max_age=3600)
    first = add(spool, 1)
    state.rename(gone)
    with pytest.raises(FileNotFoundError):
        spool.store(spool.reserve(), batch(2))
    with pytest.raises(FileNotFoundError):
        spool.read(first)
    spool.expire(time.time())
    assert not state.exists()
    gone.rename(state)
    add(spool, 3)
    assert ids(spool) == [1, 3]
    assert spool.counters.torn == 0


def test_file_removed_by_others_is_counted_once(spool: Spool, tmp_path: Path) -> None:
    number = add(spool, 1)
    (tmp_path / "spool" / f"{number:012d}").unlink()
    assert spool.read(number) is None
    assert (len(spool), spool.bytes, spool.counters.torn) == (0, 0, 1)
    spool.read(number)
    assert spool.counters.torn == 1


def test_properly_removed_batch_is_not_counted(spool: Spool) -> None:
    number = add(spool, 1)
    spool.remove(number)
    assert spool.read(number) is None
    assert spool.counters.torn == 0


def test_batch_that_cannot_be_set_aside_is_not_sent_again(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = add(spool, 1)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", failing(errno.EROFS))
        spool.set_aside(number)
    assert (list(spool), spool.counters.set_aside) == ([], 1)
    add(spool, 2)
    assert ids(opened(tmp_path)) == [2]


def test_counters_that_cannot_be_written_are_kept_and_logged_once(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("agent.delivery.spool.write_atomically", failing(errno.ENOSPC))
        for _ in range(100):
            spool.drop_results(1)
    assert spool.counters.dropped_results == 100
    assert len([record for record in caplog.records if "counters.json" in record.message]) == 1
    spool.drop_results(1)
    assert opened(tmp_path).counters.dropped_results == 101
