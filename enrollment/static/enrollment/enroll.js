// The desk: guides a person before this browser's camera through several captures and shows the server's answer to each.

import { Capture, CameraProblem, listCameras } from "./capture.js";
import { Guide } from "./guide.js";
import { CONTENT_TYPE } from "./payload.js";
import { readSentences } from "./words.js";

// A desk can ask for more than a door: the person stands still, near, and has time.
const LIMITS = { eyeDistance: 36, tallest: 0.8, centre: 0.22 };
const ASK_AGAIN_MS = 250; // for what became of a capture
const SETTLED_WITHIN_MS = 40_000; // longer than a capture lives on the server
const TRY_AGAIN_MS = 1500; // after a lost connection
const LONGEST_PRESS_MS = 3000; // a finger that never says that it has gone
const OPEN = "open";

class Over extends Error {} // the server takes no more captures for this enrollment

class Desk {
  constructor(station) {
    this.station = station;
    this.sentence = readSentences();
    this.wanted = Number(station.dataset.wanted);
    this.accepted = Number(station.dataset.accepted);
    this.video = station.querySelector("video");
    this.button = station.querySelector("[data-start]");
    this.guide = new Guide({
      show: (code) => {
        station.querySelector("[data-guidance]").textContent = this.sentence(code);
      },
      speak: (code) => {
        station.querySelector("[data-speaker]").textContent = this.sentence(code);
      },
    });
    this.capture = null;
    this.ending = null;
    this.released = Promise.resolve();
    document.addEventListener("pointerdown", ({ target }) => this.hold(target));
    station.hidden = false;
    this.button.addEventListener("click", () => this.start());
    station.querySelector("[data-cameras] select").addEventListener("change", (event) => this.start(event.target.value));
    window.addEventListener("pagehide", () => this.stop());
    this.showProgress();
    this.setState("idle");
    this.guide.say("ready");
    this.startIfAllowed();
  }

  /** Whoever allowed the camera before is not asked to press a button again. */
  async startIfAllowed() {
    try {
      const permission = await navigator.permissions.query({ name: "camera" });
      if (permission.state === "granted") this.start();
    } catch {
      // Firefox before 2025 does not tell; the button is there.
    }
  }

  async start(deviceId = null) {
    await this.stop();
    const ending = new AbortController();
    this.ending = ending;
    this.setState("starting");
    this.guide.say("starting");
    const capture = new Capture({
      video: this.video,
      profile: { url: this.station.dataset.profile },
      limits: LIMITS,
      camera: { deviceId },
      onQuality: (seen) => this.see(seen),
      onProblem: (problem) => this.fail(problem),
    });
    this.capture = capture;
    try {
      await capture.start();
      if (ending.signal.aborted) return;
      await this.offerCameras(deviceId);
      this.setState("looking");
      this.guide.say("no_face");
      await this.takeAll(ending.signal);
    } catch (error) {
      if (!ending.signal.aborted) this.fail(error);
    }
  }

  async stop() {
    this.ending?.abort();
    await this.capture?.stop();
    this.capture = null;
  }

  see(seen) {
    if (this.station.dataset.state !== "looking") return; // the last answer stands until the next capture is asked for
    this.station.dataset.face = seen.ok ? "good" : seen.face ? "seen" : "none";
    this.guide.see(seen);
  }

  async takeAll(signal) {
    for (;;) {
      const { bytes, score } = await this.capture.takeCapture({ signal });
      this.setState("sending");
      this.guide.say("taken");
      const progress = await this.settled(await this.send(bytes, score, signal), signal);
      if (progress.state !== OPEN) return this.finish(progress);
      this.accepted = progress.captures_accepted;
      this.showProgress();
      await this.refresh();
      this.guide.say(progress.reason === "capture_accepted" ? "accepted" : progress.reason);
      await pause(800, signal); // the sentence is read before the next capture is taken
      this.setState("looking");
    }
  }

  /** Hands one capture in. A capture is sent again only when the server cannot have seen it. */
  async send(bytes, score, signal) {
    const headers = {
      "Content-Type": CONTENT_TYPE,
      "Lintel-Capture-Quality": `score=${score.toFixed(3)}`,
      "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value,
    };
    const answer = await this.ask({ method: "POST", headers, body: bytes }, signal);
    return answer ?? this.ask({}, signal);
  }

  /** Waits until every capture on its way is judged, and the last one's search is done. */
  async settled(first, signal) {
    let progress = first;
    const until = performance.now() + SETTLED_WITHIN_MS;
    while (
      progress.state === OPEN &&
      (progress.captures_pending > 0 || progress.captures_accepted >= this.wanted) &&
      performance.now() < until
    ) {
      if (progress.captures_accepted >= this.wanted) {
        this.accepted = this.wanted;
        this.showProgress();
        this.guide.say("checking");
      }
      await pause(ASK_AGAIN_MS, signal);
      progress = await this.ask({}, signal);
    }
    return progress;
  }

  /** The progress as the server tells it, through lost connections. Null when this capture was not wanted any more. */
  async ask(request, signal) {
    for (;;) {
      let answer;
      try {
        answer = await fetch(this.station.dataset.captures, { credentials: "same-origin", signal, ...request });
      } catch (error) {
        if (signal.aborted) throw error;
        this.guide.say("offline");
        await pause(TRY_AGAIN_MS, signal);
        continue;
      }
      if (answer.redirected || answer.status === 401) throw new CameraProblem("signed_out");
      if (answer.ok) return answer.json();
      if (answer.status === 503) {
        await pause(TRY_AGAIN_MS, signal);
        continue;
      }
      const { code } = await answer.json().catch(() => ({ code: "" }));
      if (code === "captures_complete") return null;
      if (answer.status === 409 || answer.status === 404) throw new Over();
      throw new CameraProblem("refused", code);
    }
  }

  async finish(progress) {
    if (progress.captures_accepted) this.accepted = progress.captures_accepted;
    this.showProgress();
    await this.stop();
    const done = progress.state === "completed";
    this.setState(done ? "done" : "over");
    this.guide.say(done || progress.state === "duplicate_found" ? progress.state : "over");
    await this.refresh();
    document.querySelector("#enrollment").scrollIntoView({ block: "nearest" });
  }

  async fail(error) {
    await this.stop();
    if (error instanceof Over) {
      this.setState("over");
      this.guide.say("over");
      await this.refresh();
      return;
    }
    this.setState("failed");
    this.guide.say(error instanceof CameraProblem ? error.code : "unloaded");
    if (!(error instanceof CameraProblem)) console.error(error);
  }

  setState(state) {
    this.station.dataset.state = state;
    this.station.dataset.face = "none";
    this.button.hidden = !["idle", "failed"].includes(state);
    this.button.textContent = this.sentence(state === "failed" ? "again" : "start");
  }

  showProgress() {
    const share = this.wanted ? (100 * this.accepted) / this.wanted : 0;
    this.station.querySelector(".done").setAttribute("stroke-dasharray", `${share} 100`);
  }

  async offerCameras(current) {
    const cameras = await listCameras();
    const choice = this.station.querySelector("[data-cameras]");
    choice.hidden = cameras.length < 2;
    if (document.activeElement === choice.querySelector("select")) return; // it is being chosen from
    const used = current ?? this.video.srcObject?.getVideoTracks()[0]?.getSettings().deviceId;
    choice
      .querySelector("select")
      .replaceChildren(...cameras.map(({ id, label }) => new Option(label, id, false, id === used)));
  }

  /** What a finger is on stays until the finger has gone: renewed under it, a button would be pressed in vain. */
  hold(target) {
    if (!target.closest("#enrollment")) return;
    this.released = new Promise((resolve) => {
      for (const ending of ["pointerup", "pointercancel"]) {
        window.addEventListener(ending, () => setTimeout(resolve), { once: true }); // after the click that belongs to it
      }
      setTimeout(resolve, LONGEST_PRESS_MS);
    });
  }

  /** The server's own words about this enrollment, with what can be done now. */
  async refresh() {
    const answer = await fetch(this.station.dataset.progress, { credentials: "same-origin" }).catch(() => null);
    if (!answer?.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#enrollment");
    await this.released;
    const old = document.querySelector("#enrollment");
    const focused = old.contains(document.activeElement) ? document.activeElement.form?.getAttribute("action") : null;
    old.replaceWith(fresh);
    if (focused) fresh.querySelector(`form[action="${focused}"] button`)?.focus({ preventScroll: true });
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener(
      "abort",
      () => {
        clearTimeout(timer);
        reject(new DOMException("stopped", "AbortError"));
      },
      { once: true },
    );
  });
}

const station = document.querySelector("#station");
if (station) new Desk(station);
