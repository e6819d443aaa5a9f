// Leads from an error to its line in the rows below, and marks it there.

const rows = document.querySelector("#text");

function mark(number) {
  const lines = rows.value.split("\n");
  const from = lines.slice(0, number - 1).reduce((sum, line) => sum + line.length + 1, 0);
  document.querySelector("#mend").open = true;
  rows.focus();
  rows.setSelectionRange(from, from + (lines[number - 1] ?? "").length);
  rows.scrollTop = (rows.scrollHeight / lines.length) * Math.max(0, number - 4); // near its upper edge
}

for (const link of document.querySelectorAll("[data-line]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    mark(Number(link.dataset.line));
  });
}
