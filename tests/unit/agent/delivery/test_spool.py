"""Test the spool: a crash loses no complete batch, no truncated one is sent, and its size is bounded."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from agent.delivery import spool as module
from agent.delivery.spool import Batched, Spool
from agent.delivery.ulid import new_ulid
from testbed.random_inputs import examples

NOW = 1_700_000_000


def opened(path: Path, **bounds: int) -> Spool:
    return Spool(path / "spool", **{"max_bytes": 10**6, "max_age": 3600, **bounds})


def batch(payload: bytes = b"payload", results: int = 2, created: int = NOW) -> Batched:
    return Batched(id=new_ulid(created * 10**9), results=results, created=created, payload=payload)


def add(spool: Spool, made: Batched | None = None, now: float = NOW) -> int:
    number = spool.reserve()
    spool.admit(number, spool.store(number, made or batch()), now)
    return number


def test_batches_keep_their_order_across_a_restart(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    made = [batch(b"x" * n, results=n) for n in range(1, 6)]
    numbers = [add(spool, one) for one in made]
    again = opened(tmp_path)
    assert list(again) == numbers == sorted(numbers)
    assert [again.read(number) for number in again] == made
    assert again.bytes == spool.bytes == sum(p.stat().st_size for p in (tmp_path / "spool").iterdir() if p.is_file())
    assert again.reserve() > max(numbers)


def test_only_its_owner_can_read_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool" / "v4", max_bytes=10**6, max_age=3600)
    number = add(spool)
    found = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert {found.pop(name) for name in ("spool", "spool/v4", "spool/v4/set-aside")} == {0o700}
    assert len(found) >= 1 and set(found.values()) == {0o600}, (number, found)


def test_the_order_does_not_depend_on_the_clock(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    late, early = batch(created=NOW + 500), batch(created=NOW - 500)
    add(spool, late)
    add(spool, early)
    again = opened(tmp_path)
    assert [again.read(number) for number in again] == [late, early]


def test_removed_batch_is_gone_even_after_a_restart(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    first, second = add(spool), add(spool)
    spool.remove(first)
    spool.remove(first)
    assert list(spool) == list(opened(tmp_path)) == [second]
    assert spool.read(first) is None


def test_files_are_accessible_to_their_owner_only(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    number = add(spool)
    assert (tmp_path / "spool" / f"{number:012d}").stat().st_mode & 0o077 == 0


def test_partial_files_of_a_dead_process_are_removed(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "spool" / "000000000007.tmp").write_bytes(b"ntppool-spool 1 ")
    (tmp_path / "spool" / "notes.txt").write_text("not ours")
    spool = opened(tmp_path)
    assert len(spool) == 0
    assert sorted(p.name for p in (tmp_path / "spool").iterdir()) == ["notes.txt", "set-aside"]


def test_batch_is_synced_to_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1])
    spool = opened(tmp_path)
    events.clear()
    spool.store(spool.reserve(), batch())
    assert events == ["fsync", "rename", "fsync"], "the file, its name, then the directory"


def test_failed_write_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        spool.store(spool.reserve(), batch())
    assert [p.name for p in (tmp_path / "spool").iterdir()] == ["set-aside"]


@given(cut=st.integers(0, 200), noise=st.binary(max_size=3))
@examples(60, suppress=[HealthCheck.function_scoped_fixture])
def test_torn_file_is_counted_and_never_returned(tmp_path: Path, cut: int, noise: bytes) -> None:
    for path in (tmp_path / "spool").glob("*.json"):
        path.unlink()
    spool = opened(tmp_path)
    number = add(spool, batch(b"p" * 100))
    path = tmp_path / "spool" / f"{number:012d}"
    whole = path.read_bytes()
    torn = whole[:cut] + noise
    path.write_bytes(torn)
    again = opened(tmp_path)
    read = again.read(number)
    if torn == whole:
        assert read is not None
    else:
        assert read is None
        assert again.counters.torn == 1
        assert number not in again
        assert (tmp_path / "spool" / "set-aside" / path.name).exists()
    again.remove(number)
    assert again.bytes == 0


@pytest.mark.parametrize("flipped", [0, 20, 60, -1])
def test_flipped_bit_is_detected(tmp_path: Path, flipped: int) -> None:
    spool = opened(tmp_path)
    path = tmp_path / "spool" / f"{add(spool):012d}"
    content = bytearray(path.read_bytes())
    content[flipped] ^= 1
    path.write_bytes(content)
    assert opened(tmp_path).read(1) is None


def test_oldest_batches_beyond_the_size_limit_are_dropped_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=1000)
    numbers = [add(spool, batch(b"x" * 300, results=n)) for n in (1, 2, 3)]
    assert list(spool) == numbers[1:]
    assert spool.counters.dropped_results == 1
    assert spool.bytes <= 1000
    add(spool, batch(b"x" * 5000, results=4))
    assert (len(spool), spool.bytes, spool.counters.dropped_results) == (0, 0, 10)
    assert opened(tmp_path).counters.dropped_results == 10, "known after a restart"


def test_oldest_batches_beyond_the_maximum_number_are_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=10**6, max_age=3600, max_batches=2)
    numbers = [add(spool) for _ in range(4)]
    assert list(spool) == numbers[2:]


def test_expired_batch_is_dropped_and_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    add(spool, batch(created=NOW - 3601))
    kept = add(spool, batch(created=NOW - 3599))
    assert list(spool) == [kept]
    assert spool.counters.dropped_results == 2


def test_a_batch_from_the_future_is_kept(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    add(spool, batch(created=NOW + 10**6))
    assert len(spool) == 1


def test_number_of_batches_set_aside_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SET_ASIDE", 2)
    spool = opened(tmp_path)
    for _ in range(4):
        spool.set_aside(add(spool))
    assert len(spool) == 0
    assert spool.counters.set_aside == opened(tmp_path).counters.set_aside == 4
    assert sorted(p.name for p in (tmp_path / "spool" / "set-aside").iterdir()) == ["000000000003", "000000000004"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"torn": "x"}', b"\xff"])
def test_counters_start_at_zero_if_their_file_is_invalid(tmp_path: Path, content: bytes) -> None:
    opened(tmp_path)
    (tmp_path / "spool" / "counters.json").write_bytes(content)
    assert opened(tmp_path).counters.dropped_results == 0


def test_ulids_are_well_formed_and_contain_their_time() -> None:
    made = [new_ulid(NOW * 10**9 + n * 10**6) for n in range(50)]
    assert len(set(made)) == 50 and sorted(made) == made
    assert all(len(one) == 26 and not set(one) & set("ILOU") for one in made)
    assert new_ulid(0)[:10] == "0" * 10
    # The example of the specification: 2016-07-30 23:54:10.259 UTC.
    assert new_ulid(1469922850259 * 10**6)[:10] == "01ARZ3NDEK"
