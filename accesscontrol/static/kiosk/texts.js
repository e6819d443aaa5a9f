// What the kiosk says, in every language there is a file of (enrollment/languages). The page carries them all, so that a
// tablet without a network still changes its language. Refusals are spoken to the person at the door.

/** Language tag -> { tag, name, direction, sentences }. The first is what the page itself is written in. */
export const LANGUAGES = new Map(
  JSON.parse(document.getElementById("sentences").textContent).map((language) => [language.tag, language]),
);

const REMEMBERED = "lintel-kiosk-language";

export class Words {
  constructor() {
    const remembered = LANGUAGES.get(localStorage.getItem(REMEMBERED));
    const preferred = navigator.languages.map(nearest).find(Boolean);
    this.spoken = remembered ?? preferred ?? LANGUAGES.values().next().value;
  }

  get language() {
    return this.spoken.tag;
  }

  get name() {
    return this.spoken.name;
  }

  /** For the page's `dir`: ltr or rtl. */
  get direction() {
    return this.spoken.direction;
  }

  speak(tag) {
    this.spoken = LANGUAGES.get(tag);
    localStorage.setItem(REMEMBERED, tag);
  }

  has(name) {
    return name in this.spoken.sentences;
  }

  say(name, facts = {}) {
    const text = this.spoken.sentences[name] ?? name;
    return text.replace(/\{(\w+)\}/g, (_, fact) => this.isolated(String(facts[fact] ?? "…")));
  }

  /** A name or a number keeps its own direction inside a sentence that runs from right to left. */
  isolated(fact) {
    return this.direction === "rtl" ? `\u2068${fact}\u2069` : fact;
  }
}

/** This language, or the one it is a kind of: de for de-AT, pt-BR for pt where there is no other Portuguese. */
function nearest(tag) {
  const primary = (one) => one.toLowerCase().split("-")[0];
  const all = [...LANGUAGES.values()];
  return (
    all.find((one) => one.tag.toLowerCase() === tag.toLowerCase()) ??
    all.find((one) => one.tag === primary(tag)) ??
    all.find((one) => primary(one.tag) === primary(tag))
  );
}
