"""Remote signers (NIP-46): the key stays in another program, which is asked for each signature over relays."""
