// A camera in a page, and captures from it. Everything that sees a face runs in a worker; this module passes frames in
// and hands perturbed bytes out. Used by the desk, by invitations and by the kiosk.
//
//   const capture = new Capture({
//     video: document.querySelector("video"),            // shows the picture, mirrored by CSS; autoplay, muted, playsinline
//     profile: { url: "/people/enroll/profile/" },       // or { text, hash } when the profile is at hand
//     folder: "/static/enrollment/networks/",            // optional; where set-up put networks and runtime
//     liveness: "none",                                  // or "motion", see liveness.js
//     limits: {},                                        // optional changes to quality.js LIMITS
//     camera: { width: 1280, height: 720 },              // optional, see camera.js openCamera
//     onQuality: (seen) => {},                           // after every frame that was looked at
//     onProblem: (problem) => {},                        // a CameraProblem while running: camera pulled out, worker died
//   });
//   await capture.start();                               // throws CameraProblem (denied, missing, busy, ...) or Error
//   const { bytes, score } = await capture.takeCapture({ signal });   // Uint8Array wire bytes of the next good frame
//   await capture.stop();                                // camera light off, worker gone
//
// `seen`: { ok, reason, live, score, measures, face, milliseconds }. `reason` is one of quality.js; `face` holds box and
// points as shares of the frame (0..1, not mirrored) or is null. Without a takeCapture() waiting no noise is drawn and
// nothing leaves the worker. Frames are looked at one at a time, the newest first; the page's thread only copies a
// handle. Pause with `capture.paused = true` (a hidden page pauses by itself). Nothing is kept in any storage.

import { CameraProblem, openCamera } from "./camera.js";

export { CameraProblem, listCameras } from "./camera.js";

const WORKER = new URL("./capture-worker.js", import.meta.url);
const NETWORKS = new URL("./networks/", import.meta.url).href;
const VIDEO_PATIENCE_MS = 20_000;

export class Capture {
  #options;
  #stream = null;
  #worker = null;
  #waiting = null; // the capture that is asked for: { resolve, reject }
  #busy = false;
  #running = false;
  #ready = null; // settles "ready" or "failed" of the worker's beginning
  #answered = null; // settles with the answer to the frame under way

  constructor({ video, profile, folder = NETWORKS, liveness = "none", limits = {}, camera = {}, onQuality, onProblem }) {
    this.video = video;
    this.paused = false;
    this.#options = {
      profile,
      folder: new URL(folder, document.baseURI).href,
      liveness,
      limits,
      camera,
      onQuality: onQuality ?? (() => {}),
      onProblem: onProblem ?? (() => {}),
    };
  }

  get running() {
    return this.#running;
  }

  /** Ask for the camera and load the networks, side by side. Resolves when the first frame can be looked at. */
  async start() {
    if (this.#running) return;
    this.#running = true;
    try {
      this.#stream = await openCamera(this.#options.camera);
      if (!this.#running) return this.#release(); // stopped while the person was asked
      await Promise.all([this.#showStream(), this.#beginWorker()]);
    } catch (error) {
      this.#running = false;
      this.#release();
      throw error;
    }
    if (this.#running) this.#look();
  }

  async stop() {
    this.#running = false;
    this.#release();
  }

  /**
   * The next good frame as a capture: { bytes: Uint8Array, score: 0..1 }. One at a time. Waits for as long as it takes a
   * person to stand well; rejects with an AbortError when `signal` is aborted or the camera is stopped.
   */
  takeCapture({ signal = null } = {}) {
    if (this.#waiting) return Promise.reject(new Error("a capture is being taken already"));
    if (signal?.aborted) return Promise.reject(aborted());
    return new Promise((resolve, reject) => {
      const waiting = { resolve, reject };
      this.#waiting = waiting;
      signal?.addEventListener(
        "abort",
        () => {
          if (this.#waiting !== waiting) return;
          this.#waiting = null;
          reject(aborted());
        },
        { once: true },
      );
    });
  }

  async #showStream() {
    const [track] = this.#stream.getVideoTracks();
    track.addEventListener("ended", () => this.#fail(new CameraProblem("lost")));
    this.video.srcObject = this.#stream;
    this.video.muted = true;
    await within(VIDEO_PATIENCE_MS, this.video.play(), new CameraProblem("busy", "the camera gives no picture"));
  }

  async #beginWorker() {
    const { profile, folder, limits, liveness } = this.#options;
    this.#worker = new Worker(WORKER, { type: "module" });
    this.#worker.onmessage = ({ data }) => this.#hear(data);
    this.#worker.onerror = (event) => this.#hear({ type: "failed", message: event.message || "the worker did not start" });
    const ready = new Promise((resolve, reject) => {
      this.#ready = { resolve, reject };
    });
    const known = profile.text ? profile : { text: await fetchText(profile.url), hash: profile.hash ?? null };
    this.#worker?.postMessage({ type: "begin", folder, profile: known, limits, liveness });
    await ready;
  }

  #hear(message) {
    if (message.type === "ready") {
      this.#ready.resolve();
      return;
    }
    if (message.type === "failed") {
      const error = new Error(message.message);
      this.#ready?.reject(error);
      if (this.#busy) this.#fail(error);
      return;
    }
    this.#answered?.(message);
  }

  /** Look at the newest frame, then at the next one, until this stream ends: a new start has a loop of its own. */
  async #look() {
    const stream = this.#stream;
    const over = () => !this.#running || this.#stream !== stream;
    while (!over()) {
      await this.#newFrame();
      if (over()) return;
      if (this.paused || document.hidden || this.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) continue;
      let bitmap;
      try {
        bitmap = await createImageBitmap(this.video);
      } catch {
        continue; // between two streams there is no picture
      }
      if (over() || !this.#worker) return bitmap.close();
      const asked = this.#waiting;
      const answer = new Promise((resolve) => {
        this.#answered = resolve;
      });
      this.#busy = true;
      this.#worker.postMessage({ type: "frame", bitmap, wanted: asked !== null }, [bitmap]);
      const { type, bytes, ...seen } = await answer;
      if (over()) return;
      this.#busy = false;
      this.#options.onQuality(seen);
      if (bytes && this.#waiting === asked && asked) {
        this.#waiting = null;
        asked.resolve({ bytes, score: seen.score });
      }
    }
  }

  /** Resolves with the video's next frame, or after a while where the browser does not tell or the page is hidden. */
  #newFrame() {
    return new Promise((resolve) => {
      let handle = 0;
      const timer = setTimeout(() => {
        this.video.cancelVideoFrameCallback?.(handle);
        resolve();
      }, 200);
      handle = this.video.requestVideoFrameCallback?.(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #fail(error) {
    if (!this.#running) return;
    this.#running = false;
    this.#release(error);
    this.#options.onProblem(error);
  }

  #release(error = aborted()) {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.video.srcObject = null;
    this.#worker?.terminate();
    this.#worker = null;
    this.#busy = false;
    this.#waiting?.reject(error);
    this.#waiting = null;
  }
}

async function fetchText(url) {
  const answer = await fetch(url, { credentials: "same-origin", headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error("the privacy profile could not be fetched");
  return answer.text();
}

function aborted() {
  return new DOMException("no capture was taken", "AbortError");
}

function within(milliseconds, promise, error) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(error), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
