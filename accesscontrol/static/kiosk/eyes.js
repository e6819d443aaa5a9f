// The kiosk's camera: enrollment/capture.js, which sees faces in a worker, asked one look at a time. Between looks the
// camera rests, so that an idle tablet stays cool; a capture that was not asked for at once is never kept.

import { Capture, CameraProblem } from "../enrollment/capture.js";

const CODES = new Set(["denied", "missing", "busy", "lost", "insecure", "unsupported"]);

/** The camera cannot be used. `code`: one of CODES, or `failed` where what finds a face did not start. */
export class CameraError extends Error {
  constructor(code, message) {
    super(message);
    this.name = "CameraError";
    this.code = code;
  }
}

export class Eyes {
  #capture = null;
  #next = null; // whoever waits for the next frame: { resolve, reject }
  #taking = null; // the AbortController of a capture that is asked for
  #taken = null; // { bytes, score } of the frame that was just seen
  profileHash = "";

  get open() {
    return this.#capture !== null;
  }

  /** Throws CameraError. */
  async start({ video, profileText, profileHash, liveness = "none" }) {
    const capture = new Capture({
      video,
      profile: { text: profileText, hash: profileHash },
      liveness,
      onQuality: (seen) => this.#next?.resolve(seen),
      onProblem: (problem) => this.#lose(problem),
    });
    try {
      await capture.start();
    } catch (error) {
      throw asCameraError(error);
    }
    this.#capture = capture;
    this.profileHash = profileHash;
    this.rest();
  }

  /** One look: { face: boolean, reason, score, payload }. `payload` is a capture if one was asked for and the frame is
   *  good, else null. Throws CameraError when the camera was lost meanwhile. */
  async look({ capture }) {
    if (capture) this.#take();
    else this.#stopTaking();
    this.#capture.paused = false;
    const seen = await new Promise((resolve, reject) => {
      this.#next = { resolve, reject };
    });
    this.#next = null;
    await new Promise((resolve) => setTimeout(resolve)); // a capture of this frame arrives right after it
    const taken = this.#taken;
    this.#taken = null;
    if (taken || !seen.face) this.rest();
    return {
      face: seen.face !== null,
      reason: seen.ok && !seen.live ? "not_live" : seen.reason,
      score: taken?.score ?? seen.score,
      payload: taken?.bytes ?? null,
    };
  }

  /** Look at nothing until the next `look`. */
  rest() {
    this.#stopTaking();
    if (this.#capture) this.#capture.paused = true;
  }

  async close() {
    this.#stopTaking();
    const capture = this.#capture;
    this.#capture = null;
    await capture?.stop();
  }

  #take() {
    if (this.#taking) return;
    const taking = new AbortController();
    this.#taking = taking;
    this.#capture.takeCapture({ signal: taking.signal }).then(
      (taken) => {
        if (this.#taking !== taking) return;
        this.#taking = null;
        this.#taken = taken;
      },
      () => {
        if (this.#taking === taking) this.#taking = null;
      },
    );
  }

  #stopTaking() {
    this.#taking?.abort();
    this.#taking = null;
    this.#taken = null;
  }

  #lose(problem) {
    this.#stopTaking();
    this.#capture = null;
    this.#next?.reject(asCameraError(problem));
    this.#next = null;
  }
}

function asCameraError(error) {
  const known = error instanceof CameraProblem && CODES.has(error.code);
  return new CameraError(known ? error.code : "failed", error.message);
}
