"""Which relay is asked for what: shares, take-overs, relays that lack something, lie or go away."""

from hypothesis import given, settings
from hypothesis import strategies as st

from relay_client.gather_plan import IDS_PER_REQUEST, Shares

KEYS = [f"{number:03}" for number in range(240)]
A, B, C = "ws://a", "ws://b", "ws://c"


def test_a_lone_relay_is_asked_for_everything_in_order_and_in_full_requests() -> None:
    shares = Shares(KEYS, [A])
    taken = [shares.take(A) for _ in range(6)]
    assert [len(share) for share in taken] == [50, 50, 50, 50, 40, 0]
    assert [key for share in taken for key in share] == KEYS
    assert not shares.can_help(A)


def test_shares_become_smaller_towards_the_end_so_that_relays_end_together() -> None:
    shares = Shares(KEYS, [A, B, C])
    assert [len(shares.take(A)) for _ in range(9)] == [50, 50, 47, 31, 21, 14, 10, 10, 7]


def test_nothing_is_asked_of_two_relays_while_something_is_free() -> None:
    shares = Shares(KEYS, [A, B])
    first, second = shares.take(A), shares.take(B)
    assert not set(first) & set(second)


def test_what_did_not_come_is_asked_of_others_and_not_again_of_the_same() -> None:
    shares = Shares(KEYS[:3], [A, B])
    share = shares.take(A)
    shares.settle(KEYS[0])
    shares.give_back(A, share, answered=True)
    assert shares.take(A) == []
    assert not shares.can_help(A)
    assert shares.take(B) == KEYS[1:3]
    assert shares.wanted == KEYS[1:3]


def test_what_a_relay_never_answered_may_be_asked_of_it_again() -> None:
    shares = Shares(KEYS[:3], [A])
    shares.give_back(A, shares.take(A), answered=False)
    assert shares.take(A) == KEYS[:3]


def test_an_idle_relay_takes_over_what_another_owes() -> None:
    shares = Shares(KEYS[:3], [A, B])
    share = shares.take(A)
    assert shares.take(B) == []
    assert shares.can_help(B)
    assert shares.take_over(A) == []  # it is being asked already
    assert shares.take_over(B) == share
    shares.give_back(A, share, answered=True)
    assert shares.take(A) == shares.take(B) == []  # still asked of B
    for key in share:
        shares.settle(key)
    assert shares.complete
    shares.give_back(B, share, answered=True)
    assert shares.wanted == []


def test_a_request_that_brought_nothing_of_use_is_halved_down_to_one_key() -> None:
    shares = Shares(KEYS, [A, B])
    assert shares.narrow(A, 50)
    assert len(shares.take(A)) == 25
    assert shares.narrow(A, 2)
    assert len(shares.take(A)) == 1
    assert not shares.narrow(A, 1)
    assert len(shares.take(A)) == 1
    assert len(shares.take(B)) == 50
    assert len(shares.take_over(A)) == 1


def test_what_is_asked_of_the_fewest_is_taken_over_first() -> None:
    shares = Shares(KEYS[:60], [A, B, C])
    while shares.take(A):
        pass
    assert shares.take_over(B) == KEYS[:50]
    assert shares.take_over(C)[:10] == KEYS[50:60]


def test_what_will_be_here_soon_need_not_be_asked_for_twice() -> None:
    shares = Shares(KEYS[:30], [A])
    shares.take(A)
    assert not shares.nearly_there(30)
    for key in KEYS[:6]:
        shares.settle(key)
    assert shares.nearly_there(30)  # 6 came, 24 are left: four times as long
    assert not shares.nearly_there(29)


def test_a_share_taken_over_is_one_request_long() -> None:
    shares = Shares(KEYS, [A, B])
    while shares.take(A):
        pass
    assert len(shares.take_over(B)) == IDS_PER_REQUEST


def test_a_liar_is_asked_last() -> None:
    shares = Shares(KEYS[:3], [A, B])
    share = shares.take(A)
    assert shares.accuse(A, KEYS[0])
    assert not shares.accuse(A, KEYS[0])
    shares.give_back(A, share, answered=False)
    assert shares.take(A) == shares.take_over(A) == []
    assert shares.can_help(A)
    shares.give_back(B, shares.take(B), answered=True)
    assert shares.take(A) == KEYS[1:3]  # not the one that it lied about


def test_a_liar_is_asked_where_the_others_are_gone() -> None:
    shares = Shares(KEYS[:3], [A, B], liars=[A])
    assert shares.take(A) == []
    shares.leave(B)
    assert shares.take(B) == []
    assert not shares.can_help(B)
    assert shares.take(A) == KEYS[:3]


def test_settled_twice_is_settled() -> None:
    shares = Shares(KEYS[:1], [A])
    for _ in range(2):
        shares.settle(KEYS[0])
    assert not shares.wants(KEYS[0])
    assert shares.complete


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 5), st.integers(0, 9)), max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_key_is_ever_lost(steps: list[tuple[str, int, int]]) -> None:
    shares, settled, open_requests = Shares(KEYS[:40], [A, B, C]), set[str](), list[tuple[str, list[str]]]()
    for url, action, number in steps:
        if action <= 1:
            share = shares.take(url) or (shares.take_over(url) if action else [])
            assert len(share) == len(set(share)) <= IDS_PER_REQUEST
            open_requests.append((url, share))
        elif action == 2:
            settled.update(shares.wanted[number : number + 1])
            for key in shares.wanted[number : number + 1]:
                shares.settle(key)
        elif action == 5:
            shares.accuse(url, KEYS[number])
        elif open_requests:
            relay, share = open_requests.pop(number % len(open_requests))
            shares.give_back(relay, share, answered=action == 3)
    assert sorted(shares.wanted) == sorted(set(KEYS[:40]) - settled)
    assert shares.complete == (not shares.wanted)
