/** A gateway for unit tests: real sockets, and a script of what it answers. */
import type { AddressInfo } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';

type Fields = Record<string, any>;

export class Line {
  readonly requests: Fields[] = [];
  #waiting: (() => void)[] = [];

  constructor(
    readonly socket: WebSocket,
    readonly protocols: string,
    readonly path: string,
  ) {}

  send(...messages: Fields[]): void {
    for (const message of messages) this.socket.send(JSON.stringify(message));
  }

  push(channel: string, id: string | null, data: Fields = {}, meta: Fields = {}): void {
    this.send({ ...data, _meta: { channel, id, ...meta } });
  }

  /** Keeps a request of the client's. */
  add(request: Fields): void {
    this.requests.push(request);
    this.#waiting.splice(0).forEach((wake) => wake());
  }

  /** The next request of a type. */
  async request(type: string): Promise<Fields> {
    for (;;) {
      const at = this.requests.findIndex((request) => request.type === type);
      if (at >= 0) return this.requests.splice(at, 1)[0]!;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }
}

export class Gateway {
  /** The class of each channel; `reliable` where it is not named. */
  classes: Record<string, string> = {};
  /** Fields of the welcome that differ. */
  welcome: Fields = {};
  /** Answers `subscribe` by itself. */
  grants = true;
  live = true;
  /** Answers `ping`. */
  answers = true;
  #server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: () => 'tickgate.v1' });
  /** How many there were. */
  connections = 0;
  #pinged: (() => void)[] = [];
  #lines: Line[] = [];
  #waiting: ((line: Line) => void)[] = [];

  constructor() {
    this.#server.on('connection', (socket, request) => {
      this.connections++;
      const line = new Line(socket, String(request.headers['sec-websocket-protocol']), request.url!);
      const now = new Date().toISOString();
      line.send({
        type: 'connection_established',
        timestamp: now,
        server_time: now,
        session: 's',
        user: 'alice',
        expires_at: null,
        heartbeat_interval: 30,
        limits: { message_bytes: 65536, names_per_second: 100, names_burst: 400, subscriptions: 200 },
        ...this.welcome,
      });
      socket.on('message', (text) => {
        const request = JSON.parse(String(text));
        if (request.type === 'subscribe' && this.grants) this.#grant(line, request);
        if (request.type !== 'ping') line.add(request);
        else {
          this.#pinged.splice(0).forEach((wake) => wake());
          if (this.answers) line.send({ type: 'pong', id: request.id });
        }
      });
      const waiting = this.#waiting.shift();
      if (waiting) waiting(line);
      else this.#lines.push(line);
    });
  }

  #grant(line: Line, { id, channels }: Fields): void {
    const granted = channels.map(({ channel, since }: Fields) => ({
      channel,
      class: this.classes[channel] ?? 'reliable',
      cursor: since ?? '7-0',
      live: this.live,
    }));
    line.send({ type: 'subscribed', id, channels: granted, errors: [] });
  }

  /** Resolves with the next ping. */
  nextPing(): Promise<void> {
    return new Promise((resolve) => this.#pinged.push(resolve));
  }

  /** Resolves when it listens. */
  listening(): Promise<void> {
    return new Promise((resolve) => this.#server.on('listening', resolve));
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#server.address() as AddressInfo).port}/ws/trading`;
  }

  /** The next connection. */
  line(): Promise<Line> {
    const line = this.#lines.shift();
    return line ? Promise.resolve(line) : new Promise((resolve) => this.#waiting.push(resolve));
  }

  close(): void {
    for (const socket of this.#server.clients) socket.terminate();
    this.#server.close();
  }
}
