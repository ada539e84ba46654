"""Which relay is asked for what: shares, take-overs, relays that lack something, lie or go away."""

from hypothesis import given
from hypothesis import strategies as st

from relay_client.gather_plan import IDS_PER_REQUEST, GatherPlan

KEYS = [f"{number:03}" for number in range(240)]
A, B, C = "ws://a", "ws://b", "ws://c"


def test_a_lone_relay_is_asked_for_everything_in_order_and_in_full_requests() -> None:
    plan = GatherPlan(KEYS, [A])
    taken = [plan.next_batch(A) for _ in range(6)]
    assert [len(batch) for batch in taken] == [50, 50, 50, 50, 40, 0]
    assert [key for batch in taken for key in batch] == KEYS
    assert not plan.may_need(A)


def test_shares_become_smaller_towards_the_end_so_that_relays_end_together() -> None:
    plan = GatherPlan(KEYS, [A, B, C])
    assert [len(plan.next_batch(A)) for _ in range(9)] == [50, 50, 47, 31, 21, 14, 10, 10, 7]


def test_nothing_is_asked_of_two_relays_while_something_is_free() -> None:
    plan = GatherPlan(KEYS, [A, B])
    first, second = plan.next_batch(A), plan.next_batch(B)
    assert not set(first) & set(second)


def test_what_did_not_come_is_asked_of_others_and_not_again_of_the_same() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    plan.mark_received(KEYS[0])
    plan.requeue(A, batch, answered=True)
    assert plan.next_batch(A) == []
    assert not plan.may_need(A)
    assert plan.next_batch(B) == KEYS[1:3]
    assert plan.wanted == KEYS[1:3]


def test_what_a_relay_never_answered_may_be_asked_of_it_again() -> None:
    plan = GatherPlan(KEYS[:3], [A])
    plan.requeue(A, plan.next_batch(A), answered=False)
    assert plan.next_batch(A) == KEYS[:3]


def test_an_idle_relay_takes_over_what_another_owes() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    assert plan.next_batch(B) == []
    assert plan.may_need(B)
    assert plan.endgame_batch(A) == []  # it is being asked already
    assert plan.endgame_batch(B) == batch
    plan.requeue(A, batch, answered=True)
    assert plan.next_batch(A) == plan.next_batch(B) == []  # still asked of B
    for key in batch:
        plan.mark_received(key)
    assert plan.complete
    plan.requeue(B, batch, answered=True)
    assert plan.wanted == []


def test_a_request_that_brought_nothing_of_use_is_halved_down_to_one_key() -> None:
    plan = GatherPlan(KEYS, [A, B])
    assert plan.shrink_batch(A, 50)
    assert len(plan.next_batch(A)) == 25
    assert plan.shrink_batch(A, 2)
    assert len(plan.next_batch(A)) == 1
    assert not plan.shrink_batch(A, 1)
    assert len(plan.next_batch(A)) == 1
    assert len(plan.next_batch(B)) == 50
    assert len(plan.endgame_batch(A)) == 1


def test_what_is_asked_of_the_fewest_is_taken_over_first() -> None:
    plan = GatherPlan(KEYS[:60], [A, B, C])
    while plan.next_batch(A):
        pass
    assert plan.endgame_batch(B) == KEYS[:50]
    assert plan.endgame_batch(C)[:10] == KEYS[50:60]


def test_what_will_be_here_soon_need_not_be_asked_for_twice() -> None:
    plan = GatherPlan(KEYS[:30], [A])
    plan.next_batch(A)
    assert not plan.nearly_done(30)
    for key in KEYS[:6]:
        plan.mark_received(key)
    assert plan.nearly_done(30)  # 6 came, 24 are left: four times as long
    assert not plan.nearly_done(29)


def test_a_share_taken_over_is_one_request_long() -> None:
    plan = GatherPlan(KEYS, [A, B])
    while plan.next_batch(A):
        pass
    assert len(plan.endgame_batch(B)) == IDS_PER_REQUEST


def test_a_liar_is_asked_last() -> None:
    plan = GatherPlan(KEYS[:3], [A, B])
    batch = plan.next_batch(A)
    assert plan.report_invalid(A, KEYS[0])
    assert not plan.report_invalid(A, KEYS[0])
    plan.requeue(A, batch, answered=False)
    assert plan.next_batch(A) == plan.endgame_batch(A) == []
    assert plan.may_need(A)
    plan.requeue(B, plan.next_batch(B), answered=True)
    assert plan.next_batch(A) == KEYS[1:3]  # not the one that it lied about


def test_a_liar_is_asked_where_the_others_are_gone() -> None:
    plan = GatherPlan(KEYS[:3], [A, B], misbehaving=[A])
    assert plan.next_batch(A) == []
    plan.remove_relay(B)
    assert plan.next_batch(B) == []
    assert not plan.may_need(B)
    assert plan.next_batch(A) == KEYS[:3]


def test_settled_twice_is_settled() -> None:
    plan = GatherPlan(KEYS[:1], [A])
    for _ in range(2):
        plan.mark_received(KEYS[0])
    assert not plan.wants(KEYS[0])
    assert plan.complete


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 5), st.integers(0, 9)), max_size=80))
def test_no_key_is_ever_lost(steps: list[tuple[str, int, int]]) -> None:
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
