"""Which relay gets which event, and what becomes of its share when it takes no more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_client.allocation import Delivery

ABC = ["a", "b", "c"]


def handed_out(delivery: Delivery, relay: str) -> list[int]:
    """Everything there is for a relay now; it takes all of it."""
    numbers = []
    while (number := delivery.next(relay)) is not None:
        delivery.took(relay, number)
        numbers.append(number)
    return numbers


def test_every_relay_gets_everything_in_order() -> None:
    delivery = Delivery(ABC, [3] * 5)
    assert [handed_out(delivery, relay) for relay in ABC] == [[0, 1, 2, 3, 4]] * 3
    assert delivery.pending == 0
    assert delivery.homeless == []


def test_fewer_copies_are_striped_over_the_relays() -> None:
    delivery = Delivery(ABC, [2] * 6)
    assert delivery.pending == 12
    shares = {relay: handed_out(delivery, relay) for relay in ABC}
    assert shares == {"a": [0, 2, 3, 5], "b": [0, 1, 3, 4], "c": [1, 2, 4, 5]}


def test_more_copies_than_relays_are_one_for_each() -> None:
    delivery = Delivery(["a", "b"], [9] * 2)
    assert (handed_out(delivery, "a"), handed_out(delivery, "b")) == ([0, 1], [0, 1])


def test_what_a_relay_has_is_a_copy_and_is_not_sent() -> None:
    delivery = Delivery(ABC, [2] * 3, held={"c": {0, 1, 2}, "a": {1}})
    assert {relay: handed_out(delivery, relay) for relay in ABC} == {"a": [0, 2], "b": [], "c": []}


def test_the_last_wait_for_all_that_go_before_them() -> None:
    delivery = Delivery(["a", "b"], [1, 1, 2], last=2)
    assert delivery.next("a") == 0
    assert not delivery.has_work("a")
    assert delivery.next("a") is None
    assert handed_out(delivery, "b") == [1]
    assert not delivery.has_work("b")
    delivery.took("a", 0)
    assert handed_out(delivery, "a") == handed_out(delivery, "b") == [2]


def test_what_is_given_back_is_next() -> None:
    delivery = Delivery(["a"], [1] * 4)
    assert [delivery.next("a") for _ in range(3)] == [0, 1, 2]
    delivery.give_back("a", 1)
    assert handed_out(delivery, "a") == [1, 3]


def test_the_share_of_a_relay_that_refuses_moves_and_what_it_took_counts() -> None:
    delivery = Delivery(ABC, [1] * 6)
    assert delivery.next("a") == 0
    delivery.took("a", 0)
    delivery.drop("a", keeps=True)
    assert sorted(handed_out(delivery, "b") + handed_out(delivery, "c")) == [1, 2, 3, 4, 5]
    assert (delivery.relays, delivery.homeless, delivery.pending) == (["b", "c"], [], 0)


def test_what_a_relay_took_that_is_gone_is_sent_elsewhere() -> None:
    delivery = Delivery(ABC, [1] * 6)
    handed_out(delivery, "a")
    delivery.drop("a", keeps=False)
    assert sorted(handed_out(delivery, "b") + handed_out(delivery, "c")) == [0, 1, 2, 3, 4, 5]


def test_every_event_keeps_its_number_of_copies_while_there_are_relays() -> None:
    delivery = Delivery(ABC, [2] * 6)
    delivery.drop("b", keeps=False)
    assert (handed_out(delivery, "a"), handed_out(delivery, "c")) == (list(range(6)), list(range(6)))


def test_a_share_that_moves_holds_the_last_up_again() -> None:
    delivery = Delivery(["a", "b"], [1, 1, 2], last=2)
    handed_out(delivery, "a")
    assert delivery.next("b") == 1
    delivery.took("b", 1)
    assert delivery.next("b") == 2
    delivery.drop("a", keeps=False)
    delivery.give_back("b", 2)
    assert handed_out(delivery, "b") == [0, 2]


def test_what_nobody_takes_is_homeless() -> None:
    delivery = Delivery(["a", "b"], [1] * 4)
    assert delivery.next("a") == 0
    delivery.took("a", 0)
    delivery.drop("a", keeps=True)
    delivery.drop("b", keeps=False)
    assert delivery.homeless == [1, 2, 3]
    assert delivery.relays == []
    assert Delivery([], [1, 1]).homeless == [0, 1]


@given(
    relays=st.integers(1, 5),
    copies=st.integers(1, 5),
    events=st.integers(0, 30),
    drops=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4), st.booleans()), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_whatever_fails_each_event_gets_all_the_copies_it_can(
    relays: int, copies: int, events: int, drops: list[tuple[int, int, bool]]
) -> None:
    names = [str(number) for number in range(relays)]
    delivery = Delivery(names, [copies] * events)
    has: dict[str, set[int]] = {name: set() for name in names}
    gone: dict[str, set[int]] = {}
    step = 0
    while True:
        for at, which, keeps in drops:
            if at == step and str(which) in delivery.relays:
                delivery.drop(str(which), keeps=keeps)
                gone[str(which)] = has.pop(str(which)) if keeps else has.pop(str(which)) & set()
        step += 1
        ready = [name for name in delivery.relays if delivery.has_work(name)]
        if not ready:
            break
        name = ready[step % len(ready)]
        number = delivery.next(name)
        assert number is not None
        assert number not in has[name]  # nothing is sent twice
        has[name].add(number)
        delivery.took(name, number)
    assert delivery.pending == 0
    for number in range(events):
        homes = [taken for taken in [*has.values(), *gone.values()] if number in taken]
        assert len(homes) >= min(copies, len(delivery.relays))
        assert (number in delivery.homeless) == (not homes)


def test_a_relay_that_left_has_no_work() -> None:
    delivery = Delivery(["a"], [1])
    delivery.drop("a", keeps=False)
    assert not delivery.has_work("a")
    with pytest.raises(KeyError):
        delivery.drop("a", keeps=False)
