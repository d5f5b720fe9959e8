/** Everything in one file, for pages without a build step. */
export * from './index.js';
export { showOverlay } from './overlay.js';
export { share } from './tabs.js';
