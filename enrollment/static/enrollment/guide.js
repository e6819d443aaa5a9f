// Turns what the camera sees, many times a second, into one calm sentence at a time.

const FRAMES_IN_A_ROW = 2; // one odd frame changes nothing
const SHOWN_AT_LEAST_MS = 900; // a sentence stands long enough to be read
const SPOKEN_AT_LEAST_MS = 2500; // and is spoken rarely enough to be heard out

export class Guide {
  #show;
  #speak;
  #now;
  #shown = "";
  #shownAt = -Infinity;
  #spokenAt = -Infinity;
  #spoken = "";
  #candidate = "";
  #count = 0;

  /** show(code), speak(code): called when the sentence changes; codes are those of words.js. */
  constructor({ show, speak, now = () => performance.now() }) {
    this.#show = show;
    this.#speak = speak;
    this.#now = now;
  }

  /** seen: what Capture's onQuality gives. */
  see(seen) {
    const code = seen.ok && !seen.live ? "still" : seen.reason;
    this.#count = code === this.#candidate ? this.#count + 1 : 1;
    this.#candidate = code;
    if (this.#count < FRAMES_IN_A_ROW || this.#now() - this.#shownAt < SHOWN_AT_LEAST_MS) return;
    this.say(code, { urgent: false });
  }

  /** At once, whatever stands there. */
  say(code, { urgent = true } = {}) {
    if (code !== this.#shown) {
      this.#shown = code;
      this.#shownAt = this.#now();
      this.#show(code);
    }
    if (code !== this.#spoken && (urgent || this.#now() - this.#spokenAt >= SPOKEN_AT_LEAST_MS)) {
      this.#spoken = code;
      this.#spokenAt = this.#now();
      this.#speak(code);
    }
  }
}
