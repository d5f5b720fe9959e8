/** The client as `tickgate-client-suite` plays with it: lines of JSON, as docs/client-suite.md describes them. Knows neither Node nor
 * a browser, and plays the package as it is published: `start` is given a way to write a line, and returns where the suite's lines go. */
import { connect, type Gap, type Message, type Messages, type Options, RequestError, requests } from '@tickgate/client';

interface Setup {
  url: string;
  /** A JSON array of names and elements of `subscribe`. */
  channels: string;
  auth: string;
  options: Options;
  write(event: object): void;
  ended(): void;
}

type Line = Record<string, any>;

export const start = ({ url, channels, auth, options, write, ended }: Setup): ((line: string) => void) => {
  const tokens: ((line: Line) => void)[] = [];
  const reading = new Map<string, Messages<any>>();
  const gaps = new WeakSet<Gap>();
  let holding = false;
  let go = () => {};
  let released = Promise.resolve();

  const client = connect(url, {
    ...options,
    ...(auth !== 'none' && {
      token: () =>
        new Promise((resolve, reject) => {
          tokens.push(({ token, error }) => (error ? reject(new Error(error)) : resolve(token)));
          write({ event: 'token' });
        }),
    }),
    auth: auth === 'message' ? 'message' : 'handshake',
    onError: (error) => write({ event: 'log', text: String(error) }),
  });
  client.on('status', ({ state, code, reason, retryInMs }) =>
    write({ event: 'state', state, code, reason, wait_ms: retryInMs }),
  );

  const { publish, command } = requests(client);
  const handled = (event: object) => (holding ? released.then(() => write(event)) : write(event));
  const report = ({ channel, id, data, replayed, snapshot, conflated }: Message) => ({
    event: 'message',
    channel,
    id,
    data,
    replayed: replayed || undefined,
    snapshot: snapshot || undefined,
    conflated: conflated || undefined,
  });

  const subscribe = (element: any) => {
    const { channel: name, since, last, ...rest } = typeof element === 'string' ? { channel: element } : element;
    const wish = { since, last, maxRate: rest.max_rate, snapshot: rest.snapshot };
    reading.get(name)?.close();
    const messages = client.messages(name, {
      ...wish,
      // A gap of several channels is the same object for each.
      onGap: (gap) => {
        if (gaps.has(gap)) return;
        gaps.add(gap);
        return handled({ event: 'gap', ...gap });
      },
      onRefused: ({ channel, code, error }) => write({ event: 'refused', channel, code, error }),
    });
    reading.set(name, messages);
    messages.each((message) => handled(report(message)));
  };
  const unsubscribe = (name: string) => {
    reading.get(name)?.close();
    reading.delete(name);
  };
  const outcome = (ref: string, request: Promise<{ id: string | null; duplicate: boolean }>) =>
    request.then(
      (accepted) => write({ event: 'outcome', ref, outcome: 'accepted', ...accepted }),
      (error: RequestError) => {
        const { outcome: became, code, message } = error;
        write({ event: 'outcome', ref, outcome: became, code, error: error.error ?? message });
      },
    );

  JSON.parse(channels).forEach(subscribe);
  return (text) => {
    const line: Line = JSON.parse(text);
    const within = line.deadline_ms;
    switch (line.command) {
      case 'token':
        return tokens.shift()?.(line);
      case 'subscribe':
        return line.channels.forEach(subscribe);
      case 'unsubscribe':
        return line.channels.forEach(unsubscribe);
      case 'publish':
        return void outcome(line.ref, publish(line.channel, line.data, { within }));
      case 'command':
        return void outcome(line.ref, command(line.name, undefined, { within }));
      case 'hold':
        holding = true;
        released = new Promise((resolve) => (go = resolve));
        return;
      case 'go':
        holding = false;
        return go();
      case 'cursors':
        return write({ event: 'cursors', cursors: client.cursors() });
      case 'stop':
        return void client.close().then(ended);
      default:
        write({ event: 'log', text: `unknown command: ${text}` });
    }
  };
};
