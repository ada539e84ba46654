// A remote signer (NIP-46) of npm's NDK. Usage: BUNKER_KEY=hex BUNKER_TOKEN=text node bunker.mjs RELAY BEHAVIOR
// BEHAVIOR: signs, refuses, waits (2 s before each answer), or a number of signatures after which it ends.
import NDK, { NDKNip46Backend, NDKPrivateKeySigner } from '@nostr-dev-kit/ndk';
import WebSocket from 'ws';

globalThis.WebSocket ??= WebSocket; // Node has none before version 22
const [relay, behavior] = process.argv.slice(2);
const { BUNKER_KEY: key, BUNKER_TOKEN: token } = process.env;

let left = Number.isInteger(Number(behavior)) ? Number(behavior) : Infinity;
async function permit({ method }) {
  if (method !== 'sign_event') return true;
  if (behavior === 'waits') await new Promise((resolve) => setTimeout(resolve, 2000));
  if (left-- <= 0) process.exit(0);
  return behavior !== 'refuses';
}

const ndk = new NDK({ explicitRelayUrls: [relay] });
await ndk.connect(2000);
const signer = new NDKPrivateKeySigner(key);
const backend = new NDKNip46Backend(ndk, signer, permit, [relay]);
backend.applyToken = async (_client, given) => {
  if (given !== token) throw new Error('wrong secret');
};
await backend.start();
const { pubkey } = await signer.user();
console.log(`bunker://${pubkey}?relay=${encodeURIComponent(relay)}&secret=${token}`);
