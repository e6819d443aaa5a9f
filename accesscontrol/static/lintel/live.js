// Keeps a server-rendered region fresh: an event says "something happened", the page fetches the region again.
// What a reader may see is decided on the server alone; events carry nothing that is shown.
//
//   <div data-live="/events/" data-part="/?part=live" data-topics="attempt alarm terminal">...</div>
//   <span class="live-state" data-live-state></span>

const QUIET_MS = 400; // at most one fetch in this time, however many events arrive
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;
const SAY_EVERY_MS = 5000; // for who listens: a sentence takes its time
const LONGEST_PRESS_MS = 3000;
const RELEASES = ["pointerup", "pointercancel"];

const WORDS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting" };

class LiveRegion {
  constructor(element) {
    this.element = element;
    this.retry = FIRST_RETRY_MS;
    this.timer = null;
    this.busy = false;
    this.again = false;
    this.pressed = false;
    this.waiting = null;
    element.addEventListener("pointerdown", () => this.hold());
    this.show("connecting");
    this.connect();
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  connect() {
    this.source = new EventSource(this.element.dataset.live);
    this.source.onopen = () => {
      this.retry = FIRST_RETRY_MS;
      this.show("live");
      this.refresh(); // whatever happened while nobody listened
    };
    this.source.onerror = () => {
      this.show("reconnecting");
      this.source.close();
      setTimeout(() => this.connect(), this.retry * (0.75 + Math.random() / 2));
      this.retry = Math.min(this.retry * 2, LONGEST_RETRY_MS);
    };
    for (const topic of this.element.dataset.topics.split(" ")) {
      this.source.addEventListener(topic, () => this.refresh());
    }
  }

  show(state) {
    for (const indicator of document.querySelectorAll("[data-live-state]")) {
      indicator.dataset.state = state;
      indicator.textContent = WORDS[state];
    }
  }

  refresh() {
    if (this.timer) {
      this.again = true;
      return;
    }
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.again) {
        this.again = false;
        this.refresh();
      }
    }, QUIET_MS);
    this.fetchPart();
  }

  async fetchPart() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      const answer = await fetch(this.element.dataset.part, { headers: { "X-Requested-With": "fetch" } });
      if (answer.redirected) return window.location.reload(); // signed out meanwhile
      if (answer.ok) this.replace(await answer.text());
    } catch {
      this.show("reconnecting"); // the stream notices too, and tries again
    } finally {
      this.busy = false;
    }
  }

  /** What a finger is on stays where it is until the finger is gone. */
  hold() {
    this.pressed = true;
    const release = () => {
      clearTimeout(tired);
      for (const ending of RELEASES) window.removeEventListener(ending, release);
      setTimeout(() => {
        this.pressed = false;
        const html = this.waiting;
        this.waiting = null;
        if (html) this.replace(html);
      }); // after the click that belongs to it
    };
    const tired = setTimeout(release, LONGEST_PRESS_MS);
    for (const ending of RELEASES) window.addEventListener(ending, release);
  }

  replace(html) {
    if (this.pressed) {
      this.waiting = html;
      return;
    }
    const known = new Set([...this.element.querySelectorAll("[id]")].map((node) => node.id));
    const focused = this.element.contains(document.activeElement) ? document.activeElement : null;
    const fresh = new DOMParser().parseFromString(html, "text/html");
    for (const row of fresh.querySelectorAll("tr[id]")) {
      if (!known.has(row.id)) row.dataset.fresh = "";
    }
    mergeChildren(this.element, fresh.body);
    if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
    this.announce(this.element.querySelector("[data-announce]")?.dataset.announce ?? "");
  }

  /** The newest attempt, for who listens; in a crowd not each of them, so that a sentence is heard to its end. */
  announce(words) {
    const speaker = document.querySelector("[data-speaker]");
    if (!speaker || words === this.announced) return;
    this.announced = words;
    if (this.speaking) return;
    speaker.textContent = words;
    this.speaking = setTimeout(() => {
      this.speaking = null;
      const newest = this.announced;
      this.announced = words;
      this.announce(newest);
    }, SAY_EVERY_MS);
  }
}

/** Makes `old` the same as `fresh` and keeps every node that is still right: one that has the focus, or is selected,
 * or is under a pointer, is not taken away because something else happened. Nodes with an id are themselves wherever
 * they go; others are the next of their kind. */
function merge(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.isEqualNode(fresh)) return;
  for (const name of old.getAttributeNames()) {
    if (!fresh.hasAttribute(name) && name !== "data-fresh") old.removeAttribute(name);
  }
  for (const name of fresh.getAttributeNames()) {
    if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  }
  mergeChildren(old, fresh);
}

function mergeChildren(old, fresh) {
  const named = new Map([...old.children].filter((node) => node.id).map((node) => [node.id, node]));
  const others = [...old.childNodes].filter((node) => !node.id);
  const pairs = [...fresh.childNodes].map((wanted) => {
    let known = named.get(wanted.id);
    if (!wanted.id) {
      const next = others.findIndex((node) => node.nodeName === wanted.nodeName && node.className === wanted.className);
      if (next >= 0) [known] = others.splice(0, next + 1).slice(-1);
    }
    return [wanted, known];
  });
  // What goes, goes first: a node that stays would be lifted over it otherwise, and lose what is selected in it.
  const kept = new Set(pairs.map(([, known]) => known));
  for (const node of [...old.childNodes]) if (!kept.has(node)) node.remove();
  let place = old.firstChild;
  for (const [wanted, known] of pairs) {
    if (known) merge(known, wanted);
    const node = known ?? wanted;
    if (node === place) place = place.nextSibling;
    else old.insertBefore(node, place);
  }
}

const regions = [...document.querySelectorAll("[data-live]")].map((element) => new LiveRegion(element));

// Filters of a live region: what is typed narrows the region at once and stays in the address.
//   <form data-live-filter>...</form>
const PAUSE_MS = 250; // in typing

for (const form of document.querySelectorAll("[data-live-filter]")) {
  let pause = null;
  const apply = () => {
    clearTimeout(pause);
    const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", asked.size ? `?${asked}` : window.location.pathname);
    asked.set("part", "live");
    for (const region of regions) {
      region.element.dataset.part = `${window.location.pathname}?${asked}`;
      region.refresh();
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(apply, PAUSE_MS);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    apply();
  });
}

// An enrollment page asks htmx to refresh at once when its terminal reports, instead of at the next second.
const followed = document.querySelector("[data-events]");
if (followed) {
  const source = new EventSource(followed.dataset.events);
  source.addEventListener("enrollment", () => document.body.dispatchEvent(new Event("lintel:enrollment")));
  document.body.addEventListener("htmx:afterSettle", () => {
    if (!document.querySelector("[data-events]")) source.close();
  });
  // While it goes on, what is pressed or has the focus stays; when it is over there is something else to do.
  document.body.addEventListener("htmx:beforeSwap", ({ detail }) => {
    const fresh = new DOMParser().parseFromString(detail.serverResponse, "text/html").getElementById(detail.target.id);
    if (fresh?.dataset.state !== detail.target.dataset.state) return;
    detail.shouldSwap = false;
    merge(detail.target, fresh);
  });
}
