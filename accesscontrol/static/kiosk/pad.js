// The pad: a PIN or a card's number, by touch, by keyboard, or by a reader that types. What is typed lives in one
// variable of this module until it is handed over; of a PIN the page itself never holds a digit.

const PIN_MOST = 8;
const CARD_MOST = 32;
const LEAST = { pin: 4, card: 8 };

/** One pad on the page. `words` says its texts; `ask` resolves to what was typed, or null. */
export class Pad {
  constructor(root, words) {
    this.root = root;
    this.words = words;
    this.kind = "";
    this.typed = "";
    this.end = null;
    this.timer = 0;
    this.part = (name) => root.querySelector(`[data-pad="${name}"]`);
    for (const key of root.querySelectorAll("button")) {
      // A touch leaves the focus where it is, so that Enter of a reader never presses the key touched last.
      key.addEventListener("pointerdown", (event) => event.preventDefault());
      key.addEventListener("click", () => this.press(key.value));
    }
    document.addEventListener("keydown", (event) => this.hear(event));
  }

  get open() {
    return this.end !== null;
  }

  /** `kind`: pin or card. `first`: what a reader typed before the pad was there. `idleMs`: until nobody is there any
   *  more, counted from the last key; `untilMs`: the end whatever is typed (Date.now() counts). */
  ask({ kind, first = "", idleMs, untilMs = Infinity }) {
    this.close(null);
    this.kind = kind;
    this.typed = first;
    this.idleMs = idleMs;
    this.untilMs = untilMs;
    this.say("title", this.words.say(`pad_${kind}`));
    this.say("hint", this.words.say(`pad_${kind}_hint`));
    this.say("problem", "");
    const answered = new Promise((resolve) => {
      this.end = resolve;
    });
    this.render();
    this.wind();
    return answered;
  }

  /** Puts the focus on the pad; call once it is shown. */
  focus() {
    this.part("title").focus();
  }

  press(key) {
    if (!this.open) return;
    this.say("problem", "");
    if (key === "cancel") return this.close(null);
    if (key === "enter") return this.enter();
    if (key === "clear") this.typed = "";
    else if (key === "back") this.typed = this.typed.slice(0, -1);
    else if (this.typed.length < (this.kind === "pin" ? PIN_MOST : CARD_MOST)) this.typed += key;
    this.render();
    this.wind();
  }

  hear(event) {
    if (!this.open || event.ctrlKey || event.altKey || event.metaKey) return;
    const onButton = event.target instanceof HTMLButtonElement;
    if (event.key === "Enter" && onButton) return; // somebody who goes from key to key presses this one
    const named = { Enter: "enter", Backspace: "back", Delete: "clear", Escape: "cancel" }[event.key];
    const accepted = this.kind === "pin" ? /^[0-9]$/ : /^[0-9A-Za-z]$/;
    const key = named ?? (accepted.test(event.key) ? event.key : null);
    if (key === null) return;
    event.preventDefault();
    this.press(key);
  }

  enter() {
    if (this.typed.length < LEAST[this.kind]) {
      this.say("problem", this.words.say(this.typed ? `pad_${this.kind}_short` : `pad_${this.kind}_empty`));
      return this.wind();
    }
    return this.close(this.typed);
  }

  close(answer) {
    clearTimeout(this.timer);
    const end = this.end;
    this.end = null;
    this.typed = "";
    this.render();
    end?.(answer);
  }

  wind() {
    clearTimeout(this.timer);
    const left = Math.max(0, Math.min(this.idleMs, this.untilMs - Date.now()));
    this.timer = setTimeout(() => this.close(null), left);
  }

  /** Dots for a PIN, the number itself for a card; a screen reader hears how many, never which. */
  render() {
    const count = this.typed.length;
    const shown = this.part("shown");
    if (this.kind === "card") shown.textContent = this.typed.replace(/(.{4})(?=.)/g, "$1 ");
    else shown.replaceChildren(...Array.from({ length: count }, () => document.createElement("i")));
    this.say("count", this.open ? this.words.say("pad_count", { count }) : "");
  }

  say(name, text) {
    const node = this.part(name);
    if (node.textContent !== text) node.textContent = text;
  }
}
