"""Admission: limits on sequences and tokens, in total and per key."""

from contextlib import ExitStack

import pytest

from server.admission import Admission
from server.errors import Busy, KeyLimitReached
from server.limits import Limits


def test_sequences_of_all_requests_are_limited() -> None:
    admission = Admission(Limits(max_sequences=3))
    with admission.admit(None, sequences=2, tokens=9):
        with pytest.raises(Busy, match="2 of at most 3 sequences are running or waiting"):
            admission.admit(None, sequences=2, tokens=9).__enter__()
        with admission.admit(None, sequences=1, tokens=9):
            pass
    with admission.admit(None, sequences=3, tokens=9):
        pass


def test_sequences_of_a_key_are_limited() -> None:
    admission = Admission(Limits(max_per_key=8))
    with admission.admit(1, sequences=6, tokens=6):
        with pytest.raises(KeyLimitReached, match=r"6 of at most 8 sequences of this key .* this request has 3"):
            admission.admit(1, sequences=3, tokens=3).__enter__()
        with admission.admit(1, sequences=2, tokens=2), admission.admit(2, sequences=8, tokens=8):
            pass
    with admission.admit(1, sequences=8, tokens=8):
        pass


def test_tokens_of_a_key_are_limited() -> None:
    admission = Admission(Limits(max_tokens_per_key=1000))
    with admission.admit(1, sequences=1, tokens=900):
        with pytest.raises(KeyLimitReached, match=r"900 of at most 1000 tokens .* may need 101"):
            admission.admit(1, sequences=1, tokens=101).__enter__()
        with admission.admit(2, sequences=1, tokens=1000):
            pass
    with admission.admit(1, sequences=1, tokens=1000):
        pass


def test_full_queues_of_other_keys_leave_a_share() -> None:
    admission = Admission(Limits(max_sequences=12, max_per_key=20))
    with ExitStack() as stack:
        stack.enter_context(admission.admit(1, sequences=12, tokens=12))
        stack.enter_context(admission.admit(2, sequences=6, tokens=6))  # half of them
        stack.enter_context(admission.admit(3, sequences=4, tokens=4))  # a third
        for key in (1, 2, 3):
            with pytest.raises(Busy):
                admission.admit(key, sequences=1, tokens=1).__enter__()
