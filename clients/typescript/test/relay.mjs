// What the suite starts for each scenario: passes its lines to a page of the browser that suite-chromium.mjs keeps.
import { connect } from 'node:net';

const { TICKGATE_RELAY_PORT, TICKGATE_URL: url, TICKGATE_CHANNELS: channels, TICKGATE_AUTH: auth } = process.env;
const socket = connect(Number(TICKGATE_RELAY_PORT), '127.0.0.1');
socket.write(`${JSON.stringify({ url, channels, auth })}\n`);
process.stdin.pipe(socket, { end: false });
process.stdin.on('end', () => socket.write('{"command":"stop"}\n'));
socket.pipe(process.stdout);
socket.on('close', () => process.exit(0));
