// The kiosk at work: look, ask, show. Whatever goes wrong, the door stays shut and the loop goes on.
// One view at a time; every word on it is text, never markup.

import { ClientError, TerminalClient, pairTerminal } from "./client.js";
import { Connection } from "./connection.js";
import { CameraError, Eyes } from "./eyes.js";
import { Pad } from "./pad.js";
import { keepTerminal, loadTerminal } from "./store.js";
import { Words } from "./texts.js";

const GRANTED_MS = 5000;
const REFUSED_MS = 6000;
const REFRESH_S = 60;
const ENROLLMENT_POLL_S = 3;
const BETWEEN_ENROLLMENT_CAPTURES_S = 1;
const IDLE_LOOK_MS = 350; // while nobody is there
const BUSY_LOOK_MS = 60;
const DIM_AFTER_S = 45;
const PAD_IDLE_MS = 20_000; // without a key: whoever stood there has gone
const LEFT_AFTER_LOOKS = 3; // looks without a face, until whoever was let in counts as gone

const words = new Words();
const connection = new Connection();
const eyes = new Eyes();
const pad = new Pad(document.getElementById("pad"), words);
let client = null;
let shown = { view: "starting" };
let cutShort = () => {};

const element = (id) => document.getElementById(id);
const steady = () => performance.now() / 1000;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// What is on the screen ---------------------------------------------------------------------------------------------

/** Shows one view. `texts` maps ids of elements to what they say; `say` is read aloud by a screen reader. */
function show(view, { texts = {}, tone = "", say = "" } = {}) {
  const changed = shown.view !== view;
  shown = { view, tone };
  document.body.dataset.view = view;
  setFlag("tone", tone);
  setFlag("dim", "");
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const [id, text] of Object.entries(texts)) if (element(id).textContent !== text) element(id).textContent = text;
  if (say && element("speaker").textContent !== say) element("speaker").textContent = say;
  return changed;
}

function setFlag(name, value) {
  if (value) document.body.dataset[name] = value;
  else delete document.body.dataset[name];
}

function translate() {
  document.documentElement.lang = words.language;
  document.documentElement.dir = words.direction;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words.say(node.dataset.text);
  element("language-name").lang = words.language;
  element("language-name").textContent = words.name;
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === words.language));
  }
  tellPlace();
  tellTime();
}

function tellPlace() {
  const terminal = client?.terminal;
  element("door").textContent = terminal?.doorName || terminal?.name || "Lintel";
  element("site").textContent = terminal?.siteName ?? "";
  document.title = terminal ? `${terminal.doorName || terminal.name} · Lintel` : words.say("app_name");
  const prompt = { card_and_pin: "idle_card", face_or_card_and_pin: "idle_face_or_card" }[terminal?.asksFor];
  element("prompt").textContent = words.say(terminal && !terminal.doorId ? "idle_desk" : (prompt ?? "idle_door"));
  for (const button of document.querySelectorAll("[data-card]")) {
    button.hidden = !takesCards();
    button.textContent = words.say(looksAtFaces() ? "card_instead" : "card_type");
  }
}

/** Whether a card and its PIN open this door without a face. */
function takesCards() {
  const terminal = client?.terminal;
  return Boolean(terminal?.doorId) && ["card_and_pin", "face_or_card_and_pin"].includes(terminal.asksFor);
}

/** At a door of cards alone the camera stays off. */
function looksAtFaces() {
  return client?.terminal.asksFor !== "card_and_pin" || !client?.terminal.doorId;
}

function tellTime() {
  const now = new Date();
  const zone = client?.terminal.timeZone || undefined;
  const time = element("time");
  time.dateTime = now.toISOString();
  time.textContent = clockFace({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }, zone).format(now);
  element("date").textContent = clockFace({ weekday: "long", day: "numeric", month: "long" }, zone).format(now);
}

function clockFace(parts, timeZone) {
  try {
    return new Intl.DateTimeFormat(words.language, { ...parts, timeZone });
  } catch {
    return new Intl.DateTimeFormat(words.language, parts); // a zone this browser does not know
  }
}

function notice(text) {
  const bar = element("notice");
  if (bar.textContent !== text) bar.textContent = text;
  bar.hidden = !text;
}

/** Shows the pad and waits; null when nobody typed. */
async function type(question) {
  element("languages").hidePopover(); // whoever types has chosen
  const typed = pad.ask({ idleMs: PAD_IDLE_MS, ...question });
  show("pad", { say: words.say(`pad_${question.kind}`) });
  pad.focus();
  return typed;
}

/** An answer, for as long as it takes to read it, or until somebody touches "Try again". */
async function answer({ tone, sentence, next, milliseconds, again = false }) {
  show("answer", { texts: { sentence, next }, tone, say: `${sentence} ${next}` });
  element("again").hidden = !again;
  const wait = element("wait");
  wait.style.setProperty("--hold", `${milliseconds}ms`);
  wait.replaceChildren(document.createElement("span")); // starts the animation anew
  await untilCutShort(milliseconds);
}

/** So long, or until somebody touches what ends it. A wait that is over leaves the end of a later one alone. */
async function untilCutShort(milliseconds) {
  let end;
  await new Promise((resolve) => {
    end = resolve;
    cutShort = end;
    setTimeout(end, milliseconds);
  });
  if (cutShort === end) cutShort = () => {};
}

function showIdle() {
  if (show("idle")) idleSince = steady();
  if (steady() - idleSince > DIM_AFTER_S && connection.online) setFlag("dim", "yes");
}

let idleSince = 0;

// Pairing ---------------------------------------------------------------------------------------------------------

function askForCode(problem = "") {
  show("pair", { texts: { "pair-error": problem } });
  element("pair-cancel").hidden = client === null;
  element("pair-again").hidden = true;
  element("code").focus();
}

async function pair(code) {
  const terminal = await pairTerminal(code);
  await keepTerminal(terminal);
  await navigator.storage?.persist?.().catch(() => false); // a browser that clears it only costs another pairing
  client = new TerminalClient(terminal);
  connection.succeeded();
  showFingerprints();
}

function showFingerprints() {
  const { doorName, siteName, keyId } = client.terminal;
  const place = doorName ? [doorName, siteName].filter(Boolean).join(", ") : words.say("paired_desk");
  show("paired", { texts: { "paired-door": place, "paired-own": keyId } });
  tellPlace();
  element("begin").focus();
}

function whyPairingFailed(error) {
  if (!(error instanceof ClientError)) return words.say("pair_failed", { detail: String(error?.message ?? error) });
  if (error.code === "unreachable") return words.say("pair_offline");
  if (error.hint === "pairing_code_invalid" || error.hint === "invalid") return words.say("pair_wrong");
  if (error.hint === "too_many_requests") return words.say("pair_many");
  return words.say("pair_failed", { detail: error.message });
}

// At work ---------------------------------------------------------------------------------------------------------

function whyEnrollmentEnded(task) {
  const name = `enrollment_${task.reason}`;
  return words.has(name) ? words.say(name) : task.message; // a reason newer than this page
}

/** An answer came to a work that was stopped meanwhile: what is on the screen is somebody else's. */
class Over extends Error {}

/** One door terminal: see `step`. Its counterpart for a machine is terminal/loop.py. It may be stopped in the middle of
 *  any step, by whoever pairs the tablet again, and shows nothing afterwards. */
class Work {
  constructor() {
    this.nextRefreshAt = 0;
    this.nextPollAt = 0;
    this.nextCaptureAt = 0;
    this.task = null;
    this.card = null; // what a reader or a finger began: a card instead of a face
    this.letIn = false; // somebody was let in and still stands there
    this.looksWithoutFace = 0;
    this.stopped = false;
  }

  /** Runs until `stop`; a step never throws. */
  async run() {
    while (!this.stopped) {
      const pause = document.hidden ? IDLE_LOOK_MS : await this.step();
      await sleep(pause);
    }
  }

  stop() {
    this.stopped = true;
  }

  async step() {
    try {
      return await this.look();
    } catch (error) {
      if (!this.stopped) await this.noteFailure(error);
      return IDLE_LOOK_MS;
    }
  }

  async look() {
    const now = steady();
    if (this.card !== null) return this.askByCard();
    if (!connection.mayTry(now)) {
      showIdle();
      return IDLE_LOOK_MS;
    }
    await this.keepUp(now);
    if (this.stopped) return IDLE_LOOK_MS;
    if (this.card !== null) return this.askByCard();
    if (!looksAtFaces() && this.task === null) {
      if (eyes.open) await eyes.close();
      showIdle();
      return IDLE_LOOK_MS;
    }
    if (!eyes.open) await this.openEyes();
    if (this.stopped || shown.view === "pair" || this.card !== null) return IDLE_LOOK_MS;
    if (now < this.nextCaptureAt) return BUSY_LOOK_MS;
    if (this.task !== null) return this.enroll();
    const seen = await eyes.look({ capture: !this.letIn && client.terminal.doorId !== null });
    if (this.stopped || shown.view === "pair" || this.card !== null) return BUSY_LOOK_MS;
    this.looksWithoutFace = seen.face ? 0 : this.looksWithoutFace + 1;
    if (this.looksWithoutFace >= LEFT_AFTER_LOOKS) this.letIn = false;
    if (!seen.face || this.letIn || client.terminal.doorId === null) {
      if (this.looksWithoutFace >= LEFT_AFTER_LOOKS || this.letIn || shown.view !== "look") showIdle();
      return IDLE_LOOK_MS;
    }
    this.showPerson(seen, words.say(`advice_${seen.reason}`));
    if (!seen.payload) return BUSY_LOOK_MS;
    return this.ask(seen.payload);
  }

  async ask(payload) {
    setFlag("checking", "yes");
    show("look", { texts: { advice: words.say("checking") }, say: words.say("checking") });
    let decision;
    try {
      decision = await client.attempt(payload);
    } finally {
      setFlag("checking", "");
    }
    this.answered();
    const kind = { pin_required: "pin", card_required: "card" }[decision.reason];
    if (kind === undefined || decision.proofUntil === null) return this.tell(decision);
    // By this tablet's clock the server's time may be over at once, or hours away: count from now.
    const left = Math.min(300, Math.max(5, decision.proofUntil - Date.now() / 1000));
    const typed = await type({ kind, untilMs: Date.now() + left * 1000 });
    if (typed === null) return this.tellNothingCame();
    return this.prove({ attemptId: decision.attemptId, [kind]: typed });
  }

  /** Called by a key of a reader or by a finger. The pad is there at once, so that no key is lost. */
  beginCard(first = "") {
    if (!takesCards() || this.card !== null || document.body.dataset.checking) return;
    if (!["idle", "look", "camera"].includes(shown.view)) return;
    if (shown.view === "camera") cutShort(); // a card needs no camera: its wait is over
    this.card = type({ kind: "card", first });
  }

  async askByCard() {
    try {
      eyes.rest();
      if (pad.open) show("pad"); // something else may have been shown since
      const card = await this.card;
      if (card === null) {
        if (!this.stopped) showIdle();
        return 0;
      }
      const pin = await type({ kind: "pin" });
      if (pin === null) return await this.tellNothingCame();
      return await this.prove({ card, pin });
    } finally {
      this.card = null;
    }
  }

  async prove(proof) {
    setFlag("checking", "yes");
    setFlag("blind", eyes.open ? "" : "yes"); // no camera, so no picture of it
    show("look", { texts: { advice: words.say("checking") }, say: words.say("checking") });
    let decision;
    try {
      decision = await client.prove(proof);
    } finally {
      setFlag("checking", "");
    }
    this.answered();
    return this.tell(decision);
  }

  async tellNothingCame() {
    if (this.stopped) return 0;
    const [sentence, next] = [words.say("pad_over"), words.say("pad_over_next")];
    await answer({ tone: "warn", sentence, next, milliseconds: REFUSED_MS, again: true });
    return 0;
  }

  async tell(decision) {
    if (decision.granted === true) {
      this.letIn = looksAtFaces();
      const greeting = decision.name ? words.say("granted_name", { name: decision.name }) : words.say("granted");
      await answer({ tone: "yes", sentence: greeting, next: words.say("granted_next"), milliseconds: GRANTED_MS });
    } else {
      await answer({
        tone: "no",
        sentence: words.has(decision.reason) ? words.say(decision.reason) : decision.message,
        next: words.has(decision.reason) ? words.say(`${decision.reason}_next`) : decision.nextStep,
        milliseconds: REFUSED_MS,
        again: true,
      });
    }
    return 0;
  }

  /** Every minute: who am I, which keys, which profile. Every few seconds: is there somebody to enroll? */
  async keepUp(now) {
    if (now >= this.nextRefreshAt) {
      const before = JSON.stringify(client.terminal);
      const terminal = await client.refresh();
      this.answered();
      this.nextRefreshAt = now + REFRESH_S;
      if (JSON.stringify(terminal) !== before) {
        await keepTerminal(terminal);
        tellPlace();
      }
      if (eyes.open && eyes.profileHash !== terminal.profileHash) await eyes.close();
    }
    if (now >= this.nextPollAt && this.task === null) {
      this.task = await client.enrollment();
      this.answered();
      this.nextPollAt = now + ENROLLMENT_POLL_S;
    }
  }

  async openEyes() {
    const hash = client.terminal.profileHash;
    await eyes.start({ video: element("video"), profileHash: hash, profileText: await client.profile(hash) });
    keepShell();
  }

  async enroll() {
    const task = this.task;
    const done = task.captures_accepted;
    const wanted = task.captures_wanted;
    this.showSteps(done, wanted);
    if (task.state !== "open") {
      this.task = null;
      this.showSteps(0, 0);
      const completed = task.state === "completed";
      await answer({
        tone: completed ? "yes" : "warn",
        sentence: words.say(completed ? "enrolled" : "enrollment_over", { name: task.person_name }),
        next: completed ? words.say("enrolled_next") : whyEnrollmentEnded(task),
        milliseconds: REFUSED_MS,
      });
      this.letIn = true; // not asked at the door before having stepped away
      return 0;
    }
    const tell = (advice) => words.say("enrolling_progress", { name: task.person_name, done, wanted, advice });
    if (task.captures_pending || done >= wanted) {
      this.showPerson({ face: true }, tell(words.say("checking")));
      this.task = await client.enrollmentProgress(task.enrollment_id);
      this.nextCaptureAt = steady() + BETWEEN_ENROLLMENT_CAPTURES_S;
      return BUSY_LOOK_MS;
    }
    const seen = await eyes.look({ capture: true });
    this.showPerson(seen, tell(words.say(`advice_${seen.reason}`)));
    if (!seen.payload) {
      if (steady() >= this.nextPollAt) {
        this.task = await client.enrollmentProgress(task.enrollment_id); // somebody may have cancelled it
        this.nextPollAt = steady() + ENROLLMENT_POLL_S;
      }
      return BUSY_LOOK_MS;
    }
    this.task = await client.submitEnrollmentCapture(task.enrollment_id, seen.payload, seen.score);
    this.answered();
    this.nextCaptureAt = steady() + BETWEEN_ENROLLMENT_CAPTURES_S;
    return BUSY_LOOK_MS;
  }

  showPerson(seen, advice) {
    setFlag("blind", "");
    setFlag("face", seen.face ? "yes" : "");
    show("look", { texts: { advice }, say: advice });
  }

  showSteps(done, wanted) {
    const list = element("steps");
    list.hidden = !wanted;
    list.replaceChildren(
      ...Array.from({ length: wanted }, (_, index) => {
        const item = document.createElement("li");
        item.className = index < done ? "done" : "";
        return item;
      }),
    );
  }

  /** Throws Over, so that whatever asked goes no further, where this work was stopped before the answer came. */
  answered() {
    if (this.stopped) throw new Over();
    if (!connection.online) element("speaker").textContent = words.say("online");
    connection.succeeded();
    notice("");
    element("pair-again").hidden = true;
  }

  async noteFailure(error) {
    if (error instanceof CameraError) return this.waitForCamera(error);
    const code = error instanceof ClientError ? error.code : "fault";
    const hint = error instanceof ClientError && words.has(`hint_${error.hint}`) ? words.say(`hint_${error.hint}`) : "";
    const asked = shown.view === "look"; // somebody stands there and waits for an answer
    if (code === "fault") console.error(error);
    if (code === "refused" || code === "unanswered") {
      // The server is there and said no to this one thing, or is slow: its word, and a pause.
      this.task = null;
      this.nextPollAt = steady() + ENROLLMENT_POLL_S;
      if (code === "refused" && this.nextRefreshAt === 0) this.nextRefreshAt = steady() + ENROLLMENT_POLL_S;
      if (code === "refused" && !hint) console.warn(error); // the server's own words, for whoever mends it
      const next = hint || words.say(code);
      return answer({ tone: "warn", sentence: words.say("stays_shut"), next, milliseconds: REFUSED_MS, again: true });
    }
    this.task = null;
    connection.failed(steady());
    const why = code === "unreachable" ? words.say("offline") : hint || words.say(code === "fault" ? "fault" : code);
    notice(why);
    element("pair-again").hidden = code !== "unverified";
    if (asked || code === "unverified") {
      const next = code === "unreachable" ? words.say("offline_next") : why;
      await answer({ tone: "warn", sentence: words.say("stays_shut"), next, milliseconds: REFUSED_MS });
    }
    if (this.stopped) return undefined;
    showIdle();
    element("speaker").textContent = why;
    return undefined;
  }

  async waitForCamera(error) {
    if (this.card !== null) return; // somebody types a card, which needs no camera
    console.warn(error); // its cause, for whoever mends it
    show("camera", { texts: { "camera-why": words.say(`camera_${error.code}`) }, say: words.say("camera_title") });
    await untilCutShort(30_000); // a camera that was plugged in again needs nobody's hand
  }
}

// Around it -------------------------------------------------------------------------------------------------------

let work = null;

function begin() {
  element("pair-again").hidden = true;
  showIdle();
  work?.stop();
  work = new Work();
  work.run();
  stayAwake();
}

/** The screen of a door stays on. The browser lets go whenever the page is hidden, so ask again after that. */
async function stayAwake() {
  if (document.hidden || !client) return;
  try {
    await navigator.wakeLock?.request("screen");
  } catch {
    // battery saver or an old browser: the tablet's own settings must keep the screen on
  }
}

async function keepShell() {
  const registration = await navigator.serviceWorker?.ready;
  const keep = performance.getEntriesByType("resource").map((entry) => entry.name);
  registration?.active?.postMessage({ keep });
}

async function registerWorker() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(document.body.dataset.worker, { scope: document.body.dataset.scope });
    await keepShell();
  } catch (error) {
    console.warn("the page will not open without a network:", error);
  }
}

async function whatIsMissing() {
  if (!isSecureContext || !crypto.subtle) return "unsupported_insecure";
  try {
    await crypto.subtle.generateKey({ name: "Ed25519" }, false, ["sign", "verify"]);
  } catch {
    return "unsupported_key";
  }
  return "";
}

function listen() {
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => {
      words.speak(button.dataset.language);
      element("languages").hidePopover();
      translate();
      if (client && shown.view === "paired") showFingerprints();
    });
  }
  let forgotten = 0; // a list that somebody opened and left
  element("languages").addEventListener("toggle", (event) => {
    clearTimeout(forgotten);
    if (event.newState === "open") forgotten = setTimeout(() => element("languages").hidePopover(), PAD_IDLE_MS);
  });
  element("pair-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const code = element("code").value.replace(/[\s-]/g, "").toUpperCase();
    if (!code) return askForCode(words.say("pair_empty"));
    const button = event.target.querySelector("button[type=submit]");
    button.disabled = true;
    try {
      await pair(code);
      element("code").value = "";
    } catch (error) {
      askForCode(whyPairingFailed(error));
    } finally {
      button.disabled = false;
    }
  });
  element("pair-cancel").addEventListener("click", begin);
  element("pair-again").addEventListener("click", () => {
    work?.stop();
    pad.close(null); // or it would go on to hear what is typed into the form
    notice("");
    askForCode();
  });
  element("begin").addEventListener("click", begin);
  for (const button of document.querySelectorAll("[data-card]")) {
    button.addEventListener("click", () => work?.beginCard());
  }
  document.addEventListener("keydown", (event) => {
    const plain = !event.ctrlKey && !event.altKey && !event.metaKey && !pad.open;
    if (plain && /^[0-9A-Za-z]$/.test(event.key)) work?.beginCard(event.key);
  });
  element("again").addEventListener("click", () => cutShort());
  element("camera-again").addEventListener("click", () => cutShort());
  const fullscreen = element("fullscreen");
  fullscreen.addEventListener("click", () => document.documentElement.requestFullscreen().catch(() => {}));
  const offerFullscreen = () => {
    const already = document.fullscreenElement || matchMedia("(display-mode: fullscreen)").matches;
    fullscreen.hidden = Boolean(already) || !document.fullscreenEnabled;
  };
  document.addEventListener("fullscreenchange", offerFullscreen);
  offerFullscreen();
  document.addEventListener("visibilitychange", stayAwake);
  for (const kind of ["pointerdown", "keydown"]) {
    document.addEventListener(kind, () => {
      idleSince = steady();
      setFlag("dim", "");
    });
  }
  window.addEventListener("online", () => connection.hurry());
  setInterval(tellTime, 1000);
}

async function start() {
  translate();
  listen();
  const missing = await whatIsMissing();
  if (missing) return show("unsupported", { texts: { "unsupported-why": words.say(missing) } });
  registerWorker();
  let terminal;
  try {
    terminal = await loadTerminal();
  } catch {
    return show("unsupported", { texts: { "unsupported-why": words.say("unsupported_store") } });
  }
  if (!terminal) return askForCode();
  client = new TerminalClient(terminal);
  translate();
  begin();
}

start();
