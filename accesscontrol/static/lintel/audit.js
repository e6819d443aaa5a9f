// Verifies the audit log without leaving the page, and says how far it is. Without script the form posts as usual.
//
//   <form data-verify>...</form>
//   <section data-verifying hidden><div data-progress>...<progress>...<p data-said></p></div><div data-report></div></section>

const SAY_AFTER_MS = 2000; // whoever waits longer is told, and told again now and then
const SAY_EVERY_MS = 4000;

const form = document.querySelector("[data-verify]");
const section = document.querySelector("[data-verifying]");

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines.filter(Boolean).map((line) => JSON.parse(line));
  }
}

async function verify() {
  const stopping = new AbortController();
  const part = (name) => section.querySelector(`[data-${name}]`);
  const bar = section.querySelector("progress");
  const button = form.querySelector("button");
  section.hidden = false;
  part("progress").hidden = false;
  part("report").replaceChildren();
  part("said").textContent = "";
  part("stop").onclick = () => stopping.abort();
  section.focus();
  let say = performance.now() + SAY_AFTER_MS;
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: new FormData(form),
      headers: { Accept: "application/x-ndjson" },
      signal: stopping.signal,
    });
    if (answer.redirected) return window.location.reload(); // signed out meanwhile
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    let report = null;
    for await (const line of linesOf(answer.body)) {
      if (line.html) report = line.html;
      else {
        bar.max = line.of;
        bar.value = line.checked;
        if (performance.now() >= say) {
          say = performance.now() + SAY_EVERY_MS;
          part("said").textContent = `${line.checked.toLocaleString("en")} of ${line.of.toLocaleString("en")} entries fit so far`;
        }
      }
    }
    if (report === null) throw new Error("the answer broke off");
    const parsed = new DOMParser().parseFromString(report, "text/html");
    part("progress").hidden = true;
    part("report").replaceChildren(...parsed.body.childNodes);
  } catch (problem) {
    const words = document.createElement("p");
    words.textContent = stopping.signal.aborted
      ? "Stopped. Nothing was found so far; the log was not checked to its end."
      : "The verification broke off before its end. Check the connection and try again, or run manage.py verify_audit.";
    part("progress").hidden = true;
    part("report").replaceChildren(words);
  } finally {
    button.disabled = false;
    section.focus();
  }
}

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  verify();
});

// A search of the log reads some thousand entries for each page. It goes on by itself until the page is full or the
// log ends; without script there is a link.
//
//   <p role="status" data-searched></p>
//   <div id="entries" data-full="50">a table or a word about it <div data-after>... <a data-further>...</a></div></div>

const list = document.querySelector("#entries[data-full]");
const rowsOf = (part) => part.querySelectorAll("tbody tr");

function stopButton(stopping) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  button.textContent = "Stop searching";
  button.addEventListener("click", () => stopping.abort());
  return button;
}

async function searchOn() {
  const stopping = new AbortController();
  const full = Number(list.dataset.full);
  let keep = false;
  for (;;) {
    const further = list.querySelector("[data-further]");
    if (!further || rowsOf(list).length >= full) break;
    const stop = stopButton(stopping);
    further.hidden = true;
    further.after(stop);
    if (keep) stop.focus({ preventScroll: true });
    try {
      const answer = await fetch(further.href, { signal: stopping.signal });
      if (answer.redirected || !answer.ok) throw new Error(`status ${answer.status}`);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#entries");
      keep = document.activeElement === stop; // the next one takes the focus over
      if (rowsOf(list).length) {
        list.querySelector("tbody").append(...rowsOf(fresh));
        list.querySelector("[data-after]").replaceWith(fresh.querySelector("[data-after]"));
      } else {
        list.replaceChildren(...fresh.childNodes);
      }
    } catch {
      stop.remove(); // stopped, or the server is away: the link is still there
      further.hidden = false;
      further.focus({ preventScroll: true });
      return;
    }
  }
  if (keep) {
    list.tabIndex = -1;
    list.focus({ preventScroll: true });
  }
  const found = rowsOf(list).length;
  document.querySelector("[data-searched]").textContent = found ? `${found} entries on this page` : "Nothing fits";
}

if (list?.querySelector("[data-further]")) searchOn();
