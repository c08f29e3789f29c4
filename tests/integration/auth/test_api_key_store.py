"""Test API keys in the ledger, on every database: who is let in, until when, and what is stored."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from auth.api_key_store import ApiKey, add_key, authenticate, list_keys, replace_keys, revoke_key
from auth.api_keys import Audience, KeyText, Peppers, derive_pepper, generate
from auth.void_keys import find_void_keys
from runtime.db.engine import reading, transaction
from schema.tables import api_keys
from testbed.fixtures.registering import NOW, PEPPERS, account
from testbed.fixtures.world import add_monitor, monitor_name

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def added(engine: Engine, audience: Audience = Audience.MONITOR) -> tuple[int, KeyText, int]:
    """Add a key, for one monitor; return its id, the key, and the monitor's id."""
    owner = account(engine, f"t{generate().lookup[5:]}")
    monitor = transaction(engine, lambda c: add_monitor(c, monitor_name("nlams1-a")))
    key_id, key = transaction(
        engine,
        lambda c: add_key(c, PEPPERS, NOW, audience=audience, account_id=owner, monitor_ids=[monitor]),
    )
    return key_id, key, monitor


def shown(engine: Engine, key: KeyText, peppers: Peppers = PEPPERS, after: timedelta = SECOND) -> ApiKey | None:
    return authenticate(engine, peppers, key.clear, NOW + after)


def test_key_lets_its_monitors_in_and_no_other_key_does(engine: Engine) -> None:
    key_id, key, monitor = added(engine)
    found = shown(engine, key)
    assert found is not None and (found.id, found.monitor_ids, found.ends_on) == (key_id, (monitor,), None)
    same_lookup = KeyText(key.clear[:-1] + ("0" if key.clear[-1] != "0" else "1"))
    assert same_lookup.lookup == key.lookup
    for wrong in (same_lookup, generate(), KeyText("ntpa_" + key.clear[5:]), KeyText(key.clear.upper()), KeyText("")):
        assert shown(engine, wrong) is None


def test_ledger_has_nothing_of_a_key_but_its_first_characters(engine: Engine) -> None:
    _, key, _ = added(engine)
    with reading(engine) as connection:
        row = connection.execute(sa.select(api_keys)).one()
    assert key.clear[16:] not in repr(tuple(row)) and row.token_lookup == key.clear[:16]


def test_replaced_key_is_valid_for_ten_minutes_and_a_revoked_one_no_longer(engine: Engine) -> None:
    key_id, key, _ = added(engine)
    transaction(engine, lambda c: replace_keys(c, [key_id], NOW))
    transaction(engine, lambda c: replace_keys(c, [key_id], NOW + 5 * MINUTE))
    assert shown(engine, key, after=10 * MINUTE - SECOND) is not None
    assert shown(engine, key, after=10 * MINUTE) is None
    done = transaction(engine, lambda c: revoke_key(c, key_id, NOW + SECOND))
    assert done is not None and done.names == (monitor_name("nlams1-a"),)
    assert shown(engine, key, after=SECOND) is None
    assert transaction(engine, lambda c: revoke_key(c, key_id + 1, NOW)) is None


def test_pepper_is_rotated_by_use(engine: Engine) -> None:
    _, key, _ = added(engine)
    new = derive_pepper("n" * 40)
    assert shown(engine, key, Peppers(new)) is None
    assert shown(engine, key, Peppers(new, (PEPPERS.current,))) is not None
    assert shown(engine, key, Peppers(new)) is not None, "hashed anew when it was used"


def test_last_seen_is_recorded_once_a_minute_and_after_a_wrong_clock(engine: Engine) -> None:
    _, key, _ = added(engine)

    def seen(after: timedelta) -> timedelta | None:
        shown(engine, key, after=after)
        with reading(engine) as connection:
            at = list_keys(connection)[0].last_seen
        return None if at is None else at - NOW.replace(tzinfo=None)

    assert seen(timedelta(days=400)) == timedelta(days=400)
    assert [seen(SECOND), seen(59 * SECOND), seen(61 * SECOND)] == [SECOND, SECOND, 61 * SECOND]


def test_keys_of_another_program_are_left_alone(engine: Engine) -> None:
    key = generate()
    row = {"audience": "monitor", "token_lookup": key.lookup, "token_hashed": key.clear, "created_on": NOW}
    transaction(engine, lambda c: c.execute(sa.insert(api_keys).values(row | {"created_on": NOW.replace(tzinfo=None)})))
    assert shown(engine, key) is None


def test_keys_of_a_lost_pepper_are_counted_until_they_are_used_again_or_ended(engine: Engine) -> None:
    """A copied or mistyped pepper refuses all hosts, which looks as if their keys were wrong."""
    key_id, key, _ = added(engine)
    other = derive_pepper("another secret of at least 32 bytes")

    def void(peppers: Peppers, after: timedelta = SECOND) -> int:
        with reading(engine) as connection:
            found = find_void_keys(connection, peppers, NOW + after)
        return 0 if found is None else found.count

    assert void(PEPPERS) == 0
    assert void(Peppers(other)) == 1
    assert void(Peppers(other, (PEPPERS.current,))) == 0, "the former pepper is set"
    assert shown(engine, key, Peppers(other, (PEPPERS.current,))) is not None
    assert (void(Peppers(other)), void(PEPPERS)) == (0, 1), "it was hashed again"
    transaction(engine, lambda c: revoke_key(c, key_id, NOW + MINUTE))
    assert (void(PEPPERS), void(PEPPERS, 2 * MINUTE)) == (1, 0), "given up on purpose"


def test_hashes_of_other_forms_are_no_void_keys(engine: Engine) -> None:
    key_id, _, _ = added(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(token_hashed="sha256:older"))
    with reading(engine) as connection:
        assert find_void_keys(connection, PEPPERS, NOW) is None
