"""Secret keys (nsec; ncryptsec, NIP-49), and encryption to another key (NIP-44). No I/O.

NIP-44 and NIP-49 go through nostr-sdk, which is imported only when needed.
"""

from typing import NoReturn, Self

import coincurve

from relay_client.errors import InvalidKey, InvalidMessage
from relay_client.event import Event, EventDraft, EventSigner
from relay_client.nip19 import decode_bech32, encode_bech32

_KEY_SIZE = 32  # bytes, secret or public
_LOG_ROUNDS = 16  # scrypt takes 64 MiB and about a second


class SecretKey:
    """A secp256k1 secret key. Prints as `***` and cannot be pickled; only the `reveal` methods return the secret."""

    __slots__ = ("_key", "pubkey")

    pubkey: bytes

    def __init__(self, secret: bytes) -> None:
        try:
            self._key = coincurve.PrivateKey(secret if len(secret) == _KEY_SIZE else b"")
        except ValueError:
            raise InvalidKey("not a secp256k1 secret key") from None
        self.pubkey = self._key.public_key_xonly.format()

    @classmethod
    def generate(cls) -> Self:
        """Generate a key from the operating system's randomness."""
        return cls(coincurve.PrivateKey().secret)

    @classmethod
    def from_nsec(cls, raw_nsec: str) -> Self:
        """Decode an `nsec1…`; raises InvalidKey, without repeating the input."""
        return cls(decode_bech32("nsec", raw_nsec.strip()))

    @classmethod
    def from_ncryptsec(cls, raw_ncryptsec: str, password: str) -> Self:
        """Decrypt an `ncryptsec1…` (NIP-49); raises InvalidKey. Takes about a second and up to 256 MiB."""
        import nostr_sdk  # noqa: PLC0415 (a sixth of a second)

        text = raw_ncryptsec.strip()
        try:
            locked = nostr_sdk.EncryptedSecretKey.from_bech32(text if text.isascii() else "")
        except nostr_sdk.NostrSdkError:
            raise InvalidKey("not a valid ncryptsec") from None
        try:
            return cls(bytes.fromhex(locked.decrypt(password).to_hex()))
        except nostr_sdk.NostrSdkError as error:
            if "log_n" in str(error):
                raise InvalidKey("this ncryptsec needs more than 256 MiB to decrypt (scrypt log_n above 18)") from None
            raise InvalidKey("wrong password for this ncryptsec") from None

    def sign(self, digest: bytes) -> bytes:
        """Return the BIP-340 signature (64 bytes) of a 32-byte digest."""
        return self._key.sign_schnorr(digest)

    async def sign_event(self, draft: EventDraft) -> Event:
        """Return the draft, signed."""
        return draft.sign(self)

    def encrypt(self, pubkey: bytes, text: str) -> str:
        """Return text of 1 to 65,535 bytes, encrypted so that only this key and `pubkey` can read it (NIP-44)."""
        import nostr_sdk  # noqa: PLC0415 (a sixth of a second)

        secret, other = nostr_sdk.SecretKey.from_bytes(self._key.secret), nostr_sdk.PublicKey.from_bytes(pubkey)
        return str(nostr_sdk.nip44_encrypt(secret, other, text, nostr_sdk.Nip44Version.V2))

    def decrypt(self, pubkey: bytes, payload: str) -> str:
        """Return what `pubkey` encrypted to this key (NIP-44); raises InvalidMessage."""
        import nostr_sdk  # noqa: PLC0415 (a sixth of a second)

        secret = nostr_sdk.SecretKey.from_bytes(self._key.secret)
        try:
            return str(nostr_sdk.nip44_decrypt(secret, nostr_sdk.PublicKey.from_bytes(pubkey), payload))
        except nostr_sdk.NostrSdkError as error:
            raise InvalidMessage(f"cannot be decrypted (NIP-44): {error}") from None

    def reveal_nsec(self) -> str:
        """Return the secret as `nsec1…` (NIP-19), for a key file and nothing else."""
        return encode_bech32("nsec", self._key.secret)

    def reveal_ncryptsec(self, password: str) -> str:
        """Return the secret as `ncryptsec1…`, encrypted with a password (NIP-49). Takes about a second and 64 MiB."""
        import nostr_sdk  # noqa: PLC0415 (a sixth of a second)

        secret = nostr_sdk.SecretKey.from_bytes(self._key.secret)
        unknown = nostr_sdk.KeySecurity.UNKNOWN  # the key may have been stored unencrypted before
        return str(nostr_sdk.EncryptedSecretKey(secret, password, _LOG_ROUNDS, unknown).to_bech32())

    def __repr__(self) -> str:
        return "SecretKey(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key cannot be copied or pickled")


def local_key(signer: EventSigner) -> SecretKey | None:
    """Return the secret key of a signer, which authenticates to relays (NIP-42), or None if it is remote."""
    return signer if isinstance(signer, SecretKey) else None


def is_public_key(value: bytes) -> bool:
    """Return whether 32 bytes are an x-only public key, which can be encrypted to."""
    try:
        coincurve.PublicKeyXOnly(value)
    except ValueError:
        return False
    return len(value) == _KEY_SIZE
