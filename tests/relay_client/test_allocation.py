"""Replica allocation: initial assignment, the barrier, and reassignment of dropped relays' shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_client.allocation import Allocation

ABC = ["a", "b", "c"]


def stored_now(allocation: Allocation, relay: str) -> list[int]:
    """Return the events a relay may get now, and mark them stored."""
    numbers = []
    while (number := allocation.next(relay)) is not None:
        allocation.mark_stored(relay, number)
        numbers.append(number)
    return numbers


def test_each_relay_gets_all_events_in_order() -> None:
    allocation = Allocation(ABC, [3] * 5)
    assert [stored_now(allocation, relay) for relay in ABC] == [[0, 1, 2, 3, 4]] * 3
    assert allocation.pending == 0
    assert allocation.unplaced == []


def test_fewer_copies_are_striped_over_relays() -> None:
    allocation = Allocation(ABC, [2] * 6)
    assert allocation.pending == 12
    shares = {relay: stored_now(allocation, relay) for relay in ABC}
    assert shares == {"a": [0, 2, 3, 5], "b": [0, 1, 3, 4], "c": [1, 2, 4, 5]}


def test_copies_are_limited_by_number_of_relays() -> None:
    allocation = Allocation(["a", "b"], [9] * 2)
    assert (stored_now(allocation, "a"), stored_now(allocation, "b")) == ([0, 1], [0, 1])


def test_stored_events_count_as_copies() -> None:
    allocation = Allocation(ABC, [2] * 3, stored={"c": {0, 1, 2}, "a": {1}})
    assert {relay: stored_now(allocation, relay) for relay in ABC} == {"a": [0, 2], "b": [], "c": []}


def test_barrier_holds_later_events_back() -> None:
    allocation = Allocation(["a", "b"], [1, 1, 2], barrier=2)
    assert allocation.next("a") == 0
    assert not allocation.has_work("a")
    assert allocation.next("a") is None
    assert stored_now(allocation, "b") == [1]
    assert not allocation.has_work("b")
    allocation.mark_stored("a", 0)
    assert stored_now(allocation, "a") == stored_now(allocation, "b") == [2]


def test_requeued_event_is_next() -> None:
    allocation = Allocation(["a"], [1] * 4)
    assert [allocation.next("a") for _ in range(3)] == [0, 1, 2]
    allocation.requeue("a", 1)
    assert stored_now(allocation, "a") == [1, 3]


def test_dropped_relay_that_keeps_its_copies() -> None:
    allocation = Allocation(ABC, [1] * 6)
    assert allocation.next("a") == 0
    allocation.mark_stored("a", 0)
    allocation.drop("a", keeps=True)
    assert sorted(stored_now(allocation, "b") + stored_now(allocation, "c")) == [1, 2, 3, 4, 5]
    assert (allocation.relays, allocation.unplaced, allocation.pending) == (["b", "c"], [], 0)


def test_copies_of_lost_relay_are_reassigned() -> None:
    allocation = Allocation(ABC, [1] * 6)
    stored_now(allocation, "a")
    allocation.drop("a", keeps=False)
    assert sorted(stored_now(allocation, "b") + stored_now(allocation, "c")) == [0, 1, 2, 3, 4, 5]


def test_number_of_copies_survives_dropped_relays() -> None:
    allocation = Allocation(ABC, [2] * 6)
    allocation.drop("b", keeps=False)
    assert (stored_now(allocation, "a"), stored_now(allocation, "c")) == (list(range(6)), list(range(6)))


def test_reassigned_share_holds_barrier_again() -> None:
    allocation = Allocation(["a", "b"], [1, 1, 2], barrier=2)
    stored_now(allocation, "a")
    assert allocation.next("b") == 1
    allocation.mark_stored("b", 1)
    assert allocation.next("b") == 2
    allocation.drop("a", keeps=False)
    allocation.requeue("b", 2)
    assert stored_now(allocation, "b") == [0, 2]


def test_events_without_relay_are_unplaced() -> None:
    allocation = Allocation(["a", "b"], [1] * 4)
    assert allocation.next("a") == 0
    allocation.mark_stored("a", 0)
    allocation.drop("a", keeps=True)
    allocation.drop("b", keeps=False)
    assert allocation.unplaced == [1, 2, 3]
    assert allocation.relays == []
    assert Allocation([], [1, 1]).unplaced == [0, 1]


@given(
    relays=st.integers(1, 5),
    copies=st.integers(1, 5),
    events=st.integers(0, 30),
    drops=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4), st.booleans()), max_size=4),
)
def test_each_event_gets_all_possible_copies(
    relays: int, copies: int, events: int, drops: list[tuple[int, int, bool]]
) -> None:
    names = [str(number) for number in range(relays)]
    allocation = Allocation(names, [copies] * events)
    has: dict[str, set[int]] = {name: set() for name in names}
    gone: dict[str, set[int]] = {}
    step = 0
    while True:
        for at, which, keeps in drops:
            if at == step and str(which) in allocation.relays:
                allocation.drop(str(which), keeps=keeps)
                gone[str(which)] = has.pop(str(which)) if keeps else has.pop(str(which)) & set()
        step += 1
        ready = [name for name in allocation.relays if allocation.has_work(name)]
        if not ready:
            break
        name = ready[step % len(ready)]
        number = allocation.next(name)
        assert number is not None
        assert number not in has[name]  # no event is sent twice
        has[name].add(number)
        allocation.mark_stored(name, number)
    assert allocation.pending == 0
    for number in range(events):
        homes = [taken for taken in [*has.values(), *gone.values()] if number in taken]
        assert len(homes) >= min(copies, len(allocation.relays))
        assert (number in allocation.unplaced) == (not homes)


def test_dropped_relay_has_no_work() -> None:
    allocation = Allocation(["a"], [1])
    allocation.drop("a", keeps=False)
    assert not allocation.has_work("a")
    with pytest.raises(KeyError):
        allocation.drop("a", keeps=False)
