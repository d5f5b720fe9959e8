import { defineConfig } from 'vite';
import { token } from '../token.mjs';

// In development, the page's server also acts as the login service and proxies WebSockets to the gateway.
const login = {
  name: 'login',
  configureServer(server) {
    server.middlewares.use('/token', (_, response) => response.end(token()));
  },
};

export default defineConfig({
  plugins: [login],
  resolve: { dedupe: ['react', 'react-dom'] },
  // The worker of the client is a separate file.
  optimizeDeps: { exclude: ['@tickgate/client'] },
  worker: { format: 'es' },
  server: { proxy: { '/ws': { target: 'ws://127.0.0.1:8000', ws: true } } },
});
