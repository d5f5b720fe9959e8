// Real gateways over a real Redis, and the site that serves the examples and passes WebSockets on to a replica that lives.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect, createServer as createTcp } from 'node:net';
import { join } from 'node:path';
import { token } from '../../../examples/token.mjs';

const ROOT = new URL('../../../', import.meta.url).pathname;
const GATEWAY = process.env.TICKGATE_BIN ?? `${ROOT}target/debug/tickgate`;
const KEY = 'an API key of the examples, and of nothing else';
const TYPES = { html: 'text/html', js: 'text/javascript', css: 'text/css', svg: 'image/svg+xml' };

const freePort = async () => {
  const probe = createTcp().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
};

/** Waits until a condition holds. */
export const until = async (what, holds, seconds = 15) => {
  for (const end = Date.now() + seconds * 1000; Date.now() < end; ) {
    const found = await holds();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not within ${seconds} s: ${what}`);
};

/** A gateway in development mode, without Redis. */
export const startDevelopment = async () => {
  const [port, ops] = [await freePort(), await freePort()];
  const args = ['serve', '--development', '--listen', `127.0.0.1:${port}`, '--ops-listen', `127.0.0.1:${ops}`];
  const child = spawn(GATEWAY, [...args, '--log', 'error'], { stdio: ['ignore', 'ignore', 'inherit'] });
  const url = `http://127.0.0.1:${port}/`;
  await until('the gateway is ready', () => fetch(`${url}readyz`).then((answer) => answer.ok, () => false), 30);
  const stop = async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  };
  return { url, stop };
};

export const startWorld = async ({ heartbeat = '5s', interval = '500ms' } = {}) => {
  const children = [];
  process.on('exit', () => children.forEach((child) => child.kill('SIGKILL')));
  const run = (command, args, env = {}) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'inherit'] });
    children.push(child);
    return child;
  };
  const redis = await freePort();
  run('redis-server', ['--port', String(redis), '--bind', '127.0.0.1', '--save', '', '--loglevel', 'warning']);

  const startReplica = async () => {
    const [port, ops] = [await freePort(), await freePort()];
    const args = ['serve', '--config', `${ROOT}examples/gateway.toml`, '--redis', `redis://127.0.0.1:${redis}`];
    args.push('--listen', `127.0.0.1:${port}`, '--ops-listen', `127.0.0.1:${ops}`, '--log', 'error');
    const child = run(GATEWAY, args, {
      TICKGATE__SESSION__HEARTBEAT_INTERVAL: heartbeat,
      TICKGATE__SESSION__HEARTBEAT_TIMEOUT: heartbeat,
      TICKGATE__FEEDS__SYNTHETIC__INTERVAL: interval,
    });
    const ready = () => fetch(`http://127.0.0.1:${port}/readyz`).then((answer) => answer.ok, () => false);
    await until('the gateway is ready', ready, 30);
    return { port, ops, child, lives: true };
  };
  await until('redis listens', () =>
    new Promise((resolve) => {
      const socket = connect(redis, '127.0.0.1', () => resolve(true)).on('error', () => resolve(false));
      socket.on('connect', () => socket.destroy());
    }),
  );
  const replicas = [await startReplica(), await startReplica()];
  const world = { replicas, upgrades: 0, tokens: 0, tokenSeconds: 600, url: '', isReachable: true };

  const folders = [
    ['/plain/page.js', `${ROOT}clients/typescript/dist/page.js`],
    ['/plain/', `${ROOT}examples/html/`],
    ['/', `${ROOT}examples/react-trading/dist/`],
  ];
  const site = createServer((request, response) => {
    const path = new URL(request.url, 'http://x').pathname;
    if (path === '/token') {
      world.tokens++;
      return response.end(token(world.tokenSeconds));
    }
    const [prefix, folder] = folders.find(([prefix]) => path.startsWith(prefix));
    let file = join(folder, path.slice(prefix.length));
    if (existsSync(file) && statSync(file).isDirectory()) file = join(file, 'index.html');
    if (!existsSync(file)) return response.writeHead(404).end();
    response.writeHead(200, { 'Content-Type': TYPES[file.split('.').pop()] ?? 'application/octet-stream' });
    createReadStream(file).pipe(response);
  });
  site.on('upgrade', (request, socket, head) => {
    if (!world.isReachable) return socket.destroy();
    world.upgrades++;
    const replica = replicas.find(({ lives }) => lives);
    const upstream = connect(replica.port, '127.0.0.1', () => {
      const headers = request.rawHeaders.reduce((text, part, at) => text + part + (at % 2 ? '\r\n' : ': '), '');
      upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${headers}\r\n`);
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    upstream.on('error', () => socket.destroy()).on('close', () => socket.destroy());
    socket.on('error', () => upstream.destroy()).on('close', () => upstream.destroy());
  });
  site.listen(0, '127.0.0.1');
  await once(site, 'listening');
  world.url = `http://127.0.0.1:${site.address().port}/`;

  /** Publishes through a replica that lives. */
  world.publish = async (publications) => {
    const { ops } = replicas.findLast(({ lives }) => lives);
    const answer = await fetch(`http://127.0.0.1:${ops}/api/v1/publish`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${KEY}`, 'Content-Type': 'application/x-ndjson' },
      body: publications.map((publication) => `${JSON.stringify(publication)}\n`).join(''),
    });
    const lines = (await answer.text()).trim().split('\n').map((line) => JSON.parse(line));
    if (!answer.ok || lines.some(({ id }) => !id)) throw new Error(`not published: ${JSON.stringify(lines[0])}`);
    return lines.map(({ id }) => id);
  };

  /** Publishes orders of the user `demo`. */
  world.orders = (numbers) =>
    world.publish(
      numbers.map((n) => ({
        channel: 'orders',
        user: 'demo',
        data: {
          type: 'order_update',
          order_id: `A-${1000 + n}`,
          symbol: 'BTCUSDT',
          side: n % 3 ? 'buy' : 'sell',
          quantity: (0.1 * ((n % 9) + 1)).toFixed(2),
          price: (50_000 + n * 7.5).toFixed(2),
          status: ['new', 'partially_filled', 'filled'][n % 3],
        },
      })),
    );

  /** Kills the replica that pages are connected to. */
  world.kill = async (replica) => {
    replica.lives = false;
    replica.child.kill('SIGKILL');
    await once(replica.child, 'exit');
  };
  world.replace = async () => replicas.push(await startReplica());

  world.stop = async () => {
    site.close();
    site.closeAllConnections();
    for (const child of children) child.kill('SIGKILL');
    await Promise.all(children.map((child) => child.exitCode ?? child.signalCode ?? once(child, 'exit')));
  };
  return world;
};
