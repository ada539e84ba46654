"""What is kept of a pairing with a remote signer (NIP-46). No I/O."""

from dataclasses import dataclass

from relay_client.errors import CallerError
from relay_client.keys import SecretKey, is_public_key
from relay_client.nip46.uri import MAX_RELAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """What is kept of a pairing with a remote signer; the secret of its address is not."""

    signer: bytes  # x-only public key of the signer, 32 bytes
    relays: tuple[str, ...]  # URLs on which it listens
    client_key: SecretKey  # ours, which the signer knows
    user: bytes  # x-only public key that it signs with: the author, 32 bytes

    def __post_init__(self) -> None:
        are_keys = is_public_key(self.signer) and is_public_key(self.user)
        if not are_keys or not 0 < len(self.relays) <= MAX_RELAYS:
            raise CallerError(f"a pairing needs two public keys and 1 to {MAX_RELAYS} relays")
