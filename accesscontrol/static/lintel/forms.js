// Forms: move to what went wrong, keep a second click from sending twice, copy what is shown once.

document.querySelector("[data-focus]")?.focus();

for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button[type=submit]")) {
      setTimeout(() => (button.disabled = true)); // after the browser has taken the button's value along
    }
  });
}
window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const button of document.querySelectorAll("button[type=submit][disabled]")) button.disabled = false;
});

for (const shown of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break; // an insecure origin has none: the text can still be selected
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(shown.textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  shown.after(button);
}

// The hours of Monday on the four days after it; a person who wants others writes them afterwards.
for (const button of document.querySelectorAll("[data-week] [data-same]")) {
  const days = [...button.closest("[data-week]").querySelectorAll("[data-day]")].slice(0, 5);
  const hours = days.map((day) => [...day.querySelectorAll("input")]);
  button.hidden = false;
  button.addEventListener("click", () => {
    for (const day of hours.slice(1)) day.forEach((input, place) => (input.value = hours[0][place].value));
    document.querySelector("[data-same-said]").textContent = "Tuesday to Friday have the hours of Monday.";
  });
}

// Filters that nobody uses are folded away on a narrow screen, so that the list comes first. A wide one has no fold.
const narrow = window.matchMedia("(max-width: 44rem)");
for (const fold of document.querySelectorAll("details.fold")) {
  const asked = [...fold.querySelectorAll("input, select")].some((field) => field.value);
  fold.open = asked || !narrow.matches;
  narrow.addEventListener("change", () => (fold.open = fold.open || !narrow.matches));
}

// A menu closes with Escape and when focus leaves it.
for (const menu of document.querySelectorAll("details.menu")) {
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  menu.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !menu.contains(event.relatedTarget)) menu.open = false;
  });
}
