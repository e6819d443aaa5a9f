// Whether the server answers, and when to try again: terminal/offline.py in the browser. Nothing is queued: a capture
// kept for later would be a stored face, and a late yes would open for whoever stands there by then.

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 60;

export class Connection {
  /** `chance` gives numbers in 0..1: full jitter, so that doors do not all return in the same second. */
  constructor(chance = Math.random) {
    this.chance = chance;
    this.failures = 0;
    this.retryAt = 0;
  }

  get online() {
    return this.failures === 0;
  }

  mayTry(now) {
    return this.online || now >= this.retryAt;
  }

  succeeded() {
    this.failures = 0;
    this.retryAt = 0;
  }

  /** The network says it is back: try at once, still counting the failures. */
  hurry() {
    this.retryAt = 0;
  }

  /** Note a failure; the wait in seconds. `now` is in seconds of a steady clock. */
  failed(now) {
    this.failures += 1;
    const ceiling = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** Math.min(this.failures - 1, 10));
    const wait = Math.max(FIRST_WAIT_S / 10, ceiling * this.chance());
    this.retryAt = now + wait;
    return wait;
  }
}
