// One tab that watches a run: prints each event. A line on its input is a command for the engine.

const readline = require('readline');
const WebSocket = require('ws');

const [path] = process.argv.slice(2);
const ws = new WebSocket(`${process.env.GATEWAY}${path}`);

ws.onmessage = (event) => {
  console.log(event.data);
};

ws.onclose = (event) => {
  console.log(`closed ${event.code}`);
};

readline.createInterface({ input: process.stdin }).on('line', (command) => {
  ws.send(JSON.stringify({ type: 'command', command }));
});
