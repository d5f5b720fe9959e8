// What the suite starts for each scenario: passes its lines to a page of the browser that suite-chromium.mjs keeps.
import { connect } from 'node:net';

const { TICKGATE_RELAY_PORT, TICKGATE_URL: url, TICKGATE_CHANNELS: channels, TICKGATE_AUTH: auth } = process.env;
const socket = connect(Number(TICKGATE_RELAY_PORT), '127.0.0.1');
socket.write(`${JSON.stringify({ url, channels, auth })}\n`);
process.stdin.pipe(socket, { end: false });
process.stdin.on('end', () => socket.write('{"command":"stop"}\n'));
socket.pipe(process.stdout);
let ended = false;
socket.on('end', () => (ended = true));
// The input may end, or go on, while the client has stopped already: nobody takes it then.
socket.on('error', (error) => ended || console.error(`the page is gone: ${error.message}`));
socket.on('close', () => process.exit(ended ? 0 : 1));
