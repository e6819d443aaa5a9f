// Keeps a server-rendered region fresh: an event says "something happened", the page fetches the region again.
// What a reader may see is decided on the server alone; events carry nothing that is shown.
//
//   <div data-live="/events/" data-part="/?part=live" data-topics="attempt alarm terminal">...</div>
//   <span class="live-state" data-live-state></span>

const QUIET_MS = 400; // at most one fetch in this time, however many events arrive
const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 30000;

const WORDS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting" };

class LiveRegion {
  constructor(element) {
    this.element = element;
    this.retry = FIRST_RETRY_MS;
    this.timer = null;
    this.busy = false;
    this.again = false;
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

  replace(html) {
    const known = new Set([...this.element.querySelectorAll("[id]")].map((node) => node.id));
    const focused = document.activeElement?.closest?.("[id]")?.id;
    const fresh = new DOMParser().parseFromString(html, "text/html");
    this.element.replaceChildren(...fresh.body.childNodes);
    for (const row of this.element.querySelectorAll("tr[id]")) {
      if (!known.has(row.id)) row.classList.add("fresh");
    }
    if (focused && this.element.contains(document.getElementById(focused))) {
      document.getElementById(focused).querySelector("a, button")?.focus({ preventScroll: true });
    }
    const announcement = this.element.querySelector("[data-announce]")?.dataset.announce ?? "";
    const speaker = document.querySelector("[data-speaker]");
    if (speaker && speaker.textContent !== announcement) speaker.textContent = announcement;
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
}
