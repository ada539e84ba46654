// @nostr-relay/core behind a websocket server. Usage: node relay.cjs PORT (0: any that is free)
const { WebSocketServer } = require('ws');
const { NostrRelay } = require('@nostr-relay/core');
const { LogLevel } = require('@nostr-relay/common');
const { Validator } = require('@nostr-relay/validator');
const { EventRepositorySqlite } = require('@nostr-relay/event-repository-sqlite');

async function main(port) {
  const repository = new EventRepositorySqlite(':memory:');
  await repository.init();
  const relay = new NostrRelay(repository, { logLevel: LogLevel.ERROR });
  const validator = new Validator({ maxContentLength: 102400 });
  const server = new WebSocketServer({ host: '127.0.0.1', port });
  server.on('listening', () => console.log(`ws://127.0.0.1:${server.address().port}`));
  server.on('connection', (socket) => {
    relay.handleConnection(socket);
    socket.on('error', () => {});
    socket.on('close', () => relay.handleDisconnect(socket));
    socket.on('message', async (frame) => {
      try {
        await relay.handleMessage(socket, await validator.validateIncomingMessage(frame));
      } catch (error) {
        socket.send(JSON.stringify(['NOTICE', String(error.message).slice(0, 200)]));
      }
    });
  });
}

main(Number(process.argv[2]));
