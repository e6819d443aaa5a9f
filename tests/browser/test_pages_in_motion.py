"""Motion stops for whoever asked for that, and the keyboard's focus is seen wherever it goes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from django.urls import reverse
from playwright.sync_api import Page, expect

from tests.browser.pages_fixtures import building, complaints, fresh_counts, signed_in_page  # noqa: F401

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("fresh_counts")]

MOVING = "document.getAnimations().filter((one) => one.playState === 'running').length"
#: Of the focused element: a name to report, whether its focus is drawn, and whether any of it lies open to the eye.
FOCUSED = """() => {
  const node = document.activeElement;
  if (node === document.body) return null;
  const style = getComputedStyle(node);
  const drawn = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const box = node.getBoundingClientRect();
  const inside = (x, y) => {
    const top = document.elementFromPoint(x, y);
    return top !== null && (node.contains(top) || top.contains(node));
  };
  const open = [0.1, 0.5, 0.9].some((down) => [0.1, 0.5, 0.9].some((across) =>
    inside(box.left + across * box.width, box.top + down * box.height)));
  const beam = document.querySelector(".beam").getBoundingClientRect();
  const under = !document.querySelector(".beam").contains(node) && node.className !== "skip-link"
    && getComputedStyle(node).position !== "fixed" && !document.querySelector(".post").contains(node)
    && box.bottom <= beam.bottom;
  const label = `${node.tagName} ${(node.innerText ?? "").trim().slice(0, 30) || node.name || node.id}`;
  const parts = ["time", "date", "datetime-local"].includes(node.type); // its button draws a ring of the browser's own
  return { label, drawn, parts, seen: open && !under };
}"""
LONGEST = 400  # steps with the tab key


def test_nothing_moves_for_whoever_asked_for_less_motion(
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: Callable[..., Page],  # noqa: F811
) -> None:
    page = signed_in_page("guard")
    page.goto("/")
    expect(page.locator("[data-live-state]")).to_have_text("Live")
    assert page.evaluate(MOVING) == 0
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(MOVING) > 0  # there is something that could move
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(MOVING) == 0


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", ["dashboard", "person", "door", "audit:entries", "schedule_create"])
def test_the_focus_is_drawn_and_hidden_behind_nothing_forwards_and_backwards(
    name: str,
    width: int,
    building: SimpleNamespace,  # noqa: F811
    signed_in_page: Callable[..., Page],  # noqa: F811
) -> None:
    ids = {"person": [building.alice.pk], "door": [building.door.pk]}.get(name, [])
    page = signed_in_page(width=width)
    page.goto(reverse(name, args=ids))
    page.evaluate("document.activeElement.blur()")
    for key in ("Tab", "Shift+Tab"):
        stops = []
        for _ in range(LONGEST):
            page.keyboard.press(key)
            stop = page.evaluate(FOCUSED)
            if stop is None:
                break
            stops.append(stop)
        assert len(stops) > 5
        drawn = {stop["label"] for stop in stops if stop["parts"] and stop["drawn"]}
        assert [stop["label"] for stop in stops if not stop["drawn"] and stop["label"] not in drawn] == [], (
            key
        )
        assert [stop["label"] for stop in stops if not stop["seen"]] == [], key
