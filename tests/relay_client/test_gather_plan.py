"""Request scheduling: batches, endgame, and relays that lack events, misbehave or disconnect."""

from hypothesis import given
from hypothesis import strategies as st

from relay_client.gather_plan import IDS_PER_REQUEST, GatherPlan

KEYS = [f"{number:03}" for number in range(240)]
A, B, C = "ws://a", "ws://b", "ws://c"


def test_lone_relay_gets_full_batches_in_order() -> None:
    plan = GatherPlan(KEYS, [A])
    taken = [plan.next_batch(A) for _ in range(6)]
    assert [len(batch) for batch in taken] == [50, 50, 50, 50, 40, 0]
    assert [key for batch in taken for key in batch] == KEYS
    assert not plan.may_need(A)


def test_batches_shrink_towards_the_end() -> None:
    plan = GatherPlan(KEYS, [A, B, C])
    assert [len(plan.next_batch(A)) for _ in range(9)] == [50, 50, 47, 31, 21, 14, 10, 10, 7]


def test_no_duplicates_while_keys_are_unassigned() -> None:
    plan = GatherPlan(KEYS, [A, B])
    first, second = plan.next_batch(A), plan.next_batch(B)
    assert not set(first) & set(second)


def test_missing_keys_move_to_other_relays() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    plan.mark_received(KEYS[0])
    plan.requeue(A, batch, answered=True)
    assert plan.next_batch(A) == []
    assert not plan.may_need(A)
    assert plan.next_batch(B) == KEYS[1:3]
    assert plan.wanted == KEYS[1:3]


def test_unanswered_keys_may_be_asked_again() -> None:
    plan = GatherPlan(KEYS[:3], [A])
    plan.requeue(A, plan.next_batch(A), answered=False)
    assert plan.next_batch(A) == KEYS[:3]


def test_idle_relay_duplicates_requests_in_flight() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    assert plan.next_batch(B) == []
    assert plan.may_need(B)
    assert plan.endgame_batch(A) == []  # it is asked for them already
    assert plan.endgame_batch(B) == batch
    plan.requeue(A, batch, answered=True)
    assert plan.next_batch(A) == plan.next_batch(B) == []  # still in flight at B
    for key in batch:
        plan.mark_received(key)
    assert plan.complete
    plan.requeue(B, batch, answered=True)
    assert plan.wanted == []


def test_useless_batch_is_halved_down_to_one() -> None:
    plan = GatherPlan(KEYS, [A, B])
    assert plan.shrink_batch(A, 50)
    assert len(plan.next_batch(A)) == 25
    assert plan.shrink_batch(A, 2)
    assert len(plan.next_batch(A)) == 1
    assert not plan.shrink_batch(A, 1)
    assert len(plan.next_batch(A)) == 1
    assert len(plan.next_batch(B)) == 50
    assert len(plan.endgame_batch(A)) == 1


def test_endgame_prefers_keys_with_fewest_requests() -> None:
    plan = GatherPlan(KEYS[:60], [A, B, C])
    while plan.next_batch(A):
        pass
    assert plan.endgame_batch(B) == KEYS[:50]
    assert plan.endgame_batch(C)[:10] == KEYS[50:60]


def test_nearly_done_avoids_duplicates() -> None:
    plan = GatherPlan(KEYS[:30], [A])
    plan.next_batch(A)
    assert not plan.nearly_done(30)
    for key in KEYS[:6]:
        plan.mark_received(key)
    assert plan.nearly_done(30)  # 6 arrived, 24 remain: four more intervals
    assert not plan.nearly_done(29)


def test_endgame_batch_is_limited() -> None:
    plan = GatherPlan(KEYS, [A, B])
    while plan.next_batch(A):
        pass
    assert len(plan.endgame_batch(B)) == IDS_PER_REQUEST


def test_misbehaving_relay_is_asked_last() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    assert plan.report_invalid(A, KEYS[0])
    assert not plan.report_invalid(A, KEYS[0])
    plan.requeue(A, batch, answered=False)
    assert plan.next_batch(A) == plan.endgame_batch(A) == []
    assert plan.may_need(A)
    plan.requeue(B, plan.next_batch(B), answered=True)
    assert plan.next_batch(A) == KEYS[1:3]  # without the key it sent an invalid event for


def test_misbehaving_relay_is_asked_when_alone() -> None:
    plan = GatherPlan(KEYS[:3], [A, B], misbehaving=[A])
    assert plan.next_batch(A) == []
    plan.remove_relay(B)
    assert plan.next_batch(B) == []
    assert not plan.may_need(B)
    assert plan.next_batch(A) == KEYS[:3]


def test_key_received_twice_counts_once() -> None:
    plan = GatherPlan(KEYS[:1], [A])
    for _ in range(2):
        plan.mark_received(KEYS[0])
    assert not plan.wants(KEYS[0])
    assert plan.complete


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 5), st.integers(0, 9)), max_size=80))
def test_no_key_is_lost(steps: list[tuple[str, int, int]]) -> None:
    plan, settled, open_requests = GatherPlan(KEYS[:40], [A, B, C]), set[str](), list[tuple[str, list[str]]]()
    for url, action, number in steps:
        if action <= 1:
            batch = plan.next_batch(url) or (plan.endgame_batch(url) if action else [])
            assert len(batch) == len(set(batch)) <= IDS_PER_REQUEST
            open_requests.append((url, batch))
        elif action == 2:
            settled.update(plan.wanted[number : number + 1])
            for key in plan.wanted[number : number + 1]:
                plan.mark_received(key)
        elif action == 5:
            plan.report_invalid(url, KEYS[number])
        elif open_requests:
            relay, batch = open_requests.pop(number % len(open_requests))
            plan.requeue(relay, batch, answered=action == 3)
    assert sorted(plan.wanted) == sorted(set(KEYS[:40]) - settled)
    assert plan.complete == (not plan.wanted)
