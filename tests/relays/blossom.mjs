// Clients of Blossom servers: blossom-client-sdk and nostr-tools.
// Usage: node blossom.mjs (sdk | tools) SERVER OTHER: upload to SERVER, read, list, mirror to OTHER, delete.
import assert from 'node:assert';
import { webcrypto } from 'node:crypto';

globalThis.crypto ??= webcrypto;
const { Actions, createUploadAuth, createMirrorAuth, createDeleteAuth } = await import('blossom-client-sdk');
const { finalizeEvent, generateSecretKey, getPublicKey } = await import('nostr-tools/pure');
const { BlossomClient } = await import('nostr-tools/nipb7');

const [name, server, other] = process.argv.slice(2);
const secret = generateSecretKey();
const pubkey = getPublicKey(secret);
const signer = async (draft) => finalizeEvent({ pubkey, ...draft }, secret);
const bytes = Uint8Array.from({ length: 3_000_000 }, (_, number) => (number * 31) % 251);
const blob = new Blob([bytes], { type: 'application/octet-stream' });

async function assertSame(response) {
  assert.deepStrictEqual(new Uint8Array(await response.arrayBuffer()), bytes);
}

async function withSdk() {
  const sdk = (make) => ({ onAuth: async (at, sha256) => make(signer, sha256, { servers: [at] }), auth: true });
  const stored = await Actions.uploadBlob(server, blob, sdk(createUploadAuth));
  await assertSame(await Actions.downloadBlob(server, stored.sha256));
  assert.ok(await Actions.hasBlob(server, stored.sha256));
  const listed = await Actions.listBlobs(server, pubkey);
  assert.deepStrictEqual(listed, [stored]);
  await Actions.mirrorBlob(other, stored, sdk(createMirrorAuth));
  await assertSame(await Actions.downloadBlob(other, stored.sha256));
  await Actions.deleteBlob(server, stored.sha256, sdk(createDeleteAuth));
  assert.ok(!(await Actions.hasBlob(server, stored.sha256)));
}

async function withTools() {
  const person = { getPublicKey: async () => pubkey, signEvent: signer };
  const [client, second] = [new BlossomClient(server, person), new BlossomClient(other, person)];
  const stored = await client.uploadBlob(blob);
  assert.deepStrictEqual(new Uint8Array(await client.download(stored.sha256)), bytes);
  await client.check(stored.sha256);
  assert.deepStrictEqual(await client.list(), [stored]);
  await second.mirror(stored.url);
  await second.check(stored.sha256);
  await client.delete(stored.sha256);
  await assert.rejects(client.check(stored.sha256));
}

await (name === 'sdk' ? withSdk() : withTools());
