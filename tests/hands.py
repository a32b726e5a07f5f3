"""How a person acts on a page in a browser: with a mouse, or with a keyboard alone."""

from itertools import cycle
from typing import Any, Protocol

from playwright.sync_api import Locator

# The element that has the focus, and whether a person sees that; null if no element has it. `place`
# is the number that a test has given to the element.
FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  const shown = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
  return {place: e.dataset.place === undefined ? null : Number(e.dataset.place), outlined, shown,
          html: e.outerHTML.slice(0, 120)};
}"""

# Whether the element is the one with the focus (0), or comes before (-1) or after it (1).
_WHERE = """e => {
  const focused = document.activeElement;
  if (focused === e) return 0;
  if (!focused || focused === document.body) return 1;
  return focused.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_PRECEDING ? -1 : 1;
}"""

_LEAVES = "e => e.matches('a[href], button')"
_MOST_STOPS = 150


class Hands(Protocol):
    """What a person can do to an element of a page."""

    def click(self, target: Locator) -> None:
        """Follows a link, presses a button, opens details."""

    def fill(self, target: Locator, text: str) -> None:
        """Types into a field, in place of what it has."""

    def pick(self, target: Locator, option: str) -> None:
        """Picks an option of a list by its text."""

    def check(self, target: Locator) -> None:
        """Picks one of several round buttons."""


class Mouse:
    """Acts as Playwright does by itself."""

    def click(self, target: Locator) -> None:
        target.click()

    def fill(self, target: Locator, text: str) -> None:
        target.fill(text)

    def pick(self, target: Locator, option: str) -> None:
        target.select_option(label=option)

    def check(self, target: Locator) -> None:
        target.check()


class Keyboard:
    """Goes to everything with Tab and Shift+Tab, and acts with Enter, Space, arrows and letters.

    `unseen` has the elements that had the focus without a ring around them, or out of sight.
    """

    def __init__(self) -> None:
        self.unseen: list[str] = []
        self.stops = 0
        # Both keys press a button; a link takes Enter alone.
        self._keys = cycle(["Enter", "Space"])

    def click(self, target: Locator) -> None:
        self._reach(target)
        key = next(self._keys) if target.evaluate("e => !e.matches('a')") else "Enter"
        if target.evaluate(_LEAVES):
            with target.page.expect_navigation():
                target.page.keyboard.press(key)
        else:
            target.page.keyboard.press(key)

    def fill(self, target: Locator, text: str) -> None:
        self._reach(target)
        target.page.keyboard.press("Control+A")
        target.page.keyboard.type(text)

    def pick(self, target: Locator, option: str) -> None:
        self._reach(target)
        target.page.keyboard.type(option)

    def check(self, target: Locator) -> None:
        """The focus is on the round button that is picked; arrows go on to the others."""
        group = target.locator("xpath=ancestor::fieldset").locator("input[type=radio]")
        self._reach(target.locator("xpath=ancestor::fieldset").locator("input:checked"))
        for _ in range(group.count()):
            target.page.keyboard.press("ArrowDown")
            self._look(target)
            if target.is_checked():
                return
        raise AssertionError("The arrows do not reach it.")

    def _reach(self, target: Locator) -> None:
        target.wait_for()
        for _ in range(_MOST_STOPS):
            where = target.evaluate(_WHERE)
            if where == 0:
                return
            target.page.keyboard.press("Tab" if where > 0 else "Shift+Tab")
            self._look(target)
        raise AssertionError(f"Tab does not reach {target}.")

    def _look(self, target: Locator) -> None:
        focus: dict[str, Any] | None = target.page.evaluate(FOCUS)
        if focus is None:  # past the end of the page
            return
        self.stops += 1
        if not (focus["outlined"] and focus["shown"]):
            self.unseen.append(focus["html"])
