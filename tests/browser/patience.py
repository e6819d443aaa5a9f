"""Time in a page, in the hands of its test: what would pass by itself stays until the test says otherwise."""

from __future__ import annotations

from playwright.sync_api import Page

#: Timers of this length or longer are kept back. They run when the test lets time pass, once each.
_HOLD = """(atLeast) => {
  const [start, cancel, held] = [window.setTimeout, window.clearTimeout, new Map()];
  let count = 0;
  window.setTimeout = (then, after, ...more) => {
    if (!(after >= atLeast)) return start(then, after, ...more);
    count += 1;
    held.set(-count, () => then(...more)); // the browser's own numbers are positive
    return -count;
  };
  window.clearTimeout = (number) => {
    if (!held.delete(number)) cancel(number);
  };
  window.letTimePass = () => {
    const due = [...held.values()];
    held.clear();
    for (const then of due) then();
  };
}"""


def hold_time(page: Page, *, at_least_ms: int = 5000) -> None:
    """Call before the page is opened. Answers, pads and menus stay as long as a busy machine needs to look at them."""
    page.add_init_script(f"({_HOLD})({at_least_ms})")


def let_time_pass(page: Page) -> None:
    """Everything that waits for its time to be over is over now. What begins to wait afterwards is held again."""
    page.evaluate("window.letTimePass()")
