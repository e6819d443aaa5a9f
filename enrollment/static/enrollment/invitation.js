// Opens an invitation. The token stands behind the address's #, which browsers send to nobody; it leaves this page once,
// in the body of a request of our own, and is taken out of the address and the history before that.

const TOKEN = /^#([A-Za-z0-9_-]{20,100})$/;

function openLink() {
  const found = TOKEN.exec(location.hash);
  if (!found) return;
  history.replaceState(null, "", location.pathname);
  const opening = document.querySelector("#opening");
  if (opening) {
    opening.hidden = false;
    document.querySelector("#no-link").hidden = true;
  }
  const form = document.querySelector("#open-form");
  form.elements.token.value = found[1];
  form.requestSubmit();
}

openLink();
window.addEventListener("hashchange", openLink); // another link pasted into the same tab
document.querySelector("[data-focus]")?.focus();
