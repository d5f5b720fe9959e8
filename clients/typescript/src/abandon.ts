/** Leaves a WebSocket at once: nothing that still arrives counts. With a code, says goodbye; without, does not wait either. */
export const abandon = (socket: WebSocket, code?: number): void => {
  socket.onopen = socket.onmessage = socket.onclose = null;
  try {
    socket.close(code);
    // The package `ws` waits 30 s for the other side.
    if (!code) (socket as { terminate?(): void }).terminate?.();
  } catch {
    // It was closed already.
  }
};
