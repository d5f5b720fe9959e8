/** The adapter in Node: standard input and output. */
import { createInterface } from 'node:readline';
import WebSocket from 'ws';
import { start } from './adapter.js';

const input = start({
  url: process.env.TICKGATE_URL!,
  channels: process.env.TICKGATE_CHANNELS!,
  auth: process.env.TICKGATE_AUTH!,
  options: { WebSocket },
  write: (event) => process.stdout.write(`${JSON.stringify(event)}\n`),
  ended: () => process.exit(0),
});
createInterface({ input: process.stdin })
  .on('line', input)
  .on('close', () => input('{"command":"stop"}'));
