"""Timeouts and retry delays of relay connections. No I/O."""

from dataclasses import dataclass, fields

from relay_client.errors import CallerError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts and retry delays of relay connections, in seconds; one immutable value passed down from the pool."""

    connect_s: float = 10.0  # DNS, TCP, TLS and websocket handshake
    answer_s: float = 30.0  # without a single answer while some are owed
    request_s: float = 90.0  # for a whole request with its repeats, whatever the relay sends meanwhile
    event_s: float = 5.0  # added to that for each event requested by id or hash, which may be large
    settle_s: float = 2.0  # for other relays, once one of them answered a question that any of them can answer
    straggler_s: float = 15.0  # for other relays, once one of them gave an answer that each of them owes
    straggler_event_s: float = 0.5  # at most added to that for each event requested, while they arrive
    count_s: float = 5.0  # for the count of some events (NIP-45)
    sign_s: float = 60.0  # for a remote signer, whose user may have to approve
    sign_repeat_s: float = 15.0  # until a request is sent again that the signer has not answered
    sign_notice_s: float = 1.0  # before a note says what the signer has to approve
    pair_s: float = 300.0  # for a remote signer to scan our address
    relay_info_s: float = 3.0  # for a NIP-11 document
    retry_first_s: float = 0.5  # bound of the first wait before reconnecting; doubles up to `retry_longest_s`
    retry_longest_s: float = 60.0
    rate_limit_first_s: float = 2.0  # first wait after "rate-limited"; doubles up to `rate_limit_longest_s`
    rate_limit_longest_s: float = 300.0
    patience_s: float = 30.0  # with a relay that keeps failing and accepts no event in between
    endgame_s: float = 0.5  # until an idle relay is asked for what another one owes
    readable_first_s: float = 0.1  # first wait for an accepted event to become readable; doubles each time

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:  # refuses NaN too
                raise CallerError(f"timeout {field.name} must not be negative, not {getattr(self, field.name)}")


DEFAULT_TIMEOUTS = Timeouts()
