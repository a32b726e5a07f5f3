"""What must hold of every page, in whatever state it is."""

from collections import Counter
from typing import Any

from playwright.sync_api import Page

from tests.axe import violations
from tests.hands import FOCUS

WIDTHS = (1280, 390, 320)
# In px: a window of 1280 px with everything at 200 %, and a sheet of A4 between its margins.
ENLARGED, SHEET = 640, 720

# The elements that stand out to the right of the window.
_OVERFLOW = """() => {
  const root = document.scrollingElement;
  if (root.scrollWidth <= root.clientWidth) return [];
  const far = [...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    return !e.closest('.scroll, svg, .sr') && (box.right > root.clientWidth + 1 || box.left < -1);
  });
  const shown = far.slice(-3).map(e => e.outerHTML.slice(0, 120));
  return [`${root.scrollWidth} in ${root.clientWidth} px`, ...shown];
}"""

# What can be reached with the keyboard, in the order of reading.
_CONTROLS = """() => {
  const all = [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, summary, [tabindex="0"]')]
    .filter(e => e.checkVisibility({visibilityProperty: true}));
  all.forEach((e, n) => { e.dataset.place = n; });
  return all.map(e => e.outerHTML.slice(0, 120));
}"""

_PRINTED = """() => [...document.querySelectorAll('nav, button, .btn, .skip, .tabs, footer')]
  .filter(e => e.checkVisibility()).map(e => e.outerHTML.slice(0, 120))"""

# The table that a reader of the screen opens.
_HIDDEN = """() => [...document.querySelectorAll('details table')]
  .filter(e => !e.checkVisibility()).map(e => e.outerHTML.slice(0, 120))"""

_CUT = """() => [...document.querySelectorAll('.scroll')]
  .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.scrollWidth} in ${e.clientWidth} px: ${e.outerHTML.slice(0, 120)}`)"""

_MOVING = """() => [...document.querySelectorAll('body *')].filter(e => {
  const style = getComputedStyle(e);
  return style.transitionDuration.split(',').some(d => parseFloat(d) > 0)
    || style.animationName !== 'none';
}).map(e => e.outerHTML.slice(0, 120))"""


class Reader:
    """Reads pages closely. `defects` has what is wrong, by the name of the state."""

    def __init__(self) -> None:
        self.defects: dict[str, list[str]] = {}
        self.done: Counter[str] = Counter()

    def read(self, page: Page, state: str) -> None:
        """Reads the page at each width, in light and dark, enlarged, mirrored and printed."""
        assert state not in self.defects, f"{state} was read before"
        self.defects[state] = found = []
        self.done["states"] += 1
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                for rule, where in violations(page).items():
                    found.append(f"{rule} at {width} px, {scheme}: {where}")
                self.done["axe"] += 1
            self._overflow(page, f"{width} px", found)
        page.emulate_media(color_scheme="light")
        self._enlarged(page, found)
        self._mirrored(page, found)
        self._printed(page, found)
        found += [f"moves: {each}" for each in page.evaluate(_MOVING)]
        page.set_viewport_size({"width": 1280, "height": 900})
        found += keyboard(page)

    def _overflow(self, page: Page, where: str, found: list[str]) -> None:
        if wide := overflow(page):
            found.append(f"overflow, {where}: {wide}")
        self.done["widths"] += 1

    def _enlarged(self, page: Page, found: list[str]) -> None:
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate("document.documentElement.style.fontSize = '200%'")
        self._overflow(page, "text of 200 %", found)
        page.evaluate("document.documentElement.style.fontSize = ''")
        page.set_viewport_size({"width": ENLARGED, "height": 450})
        self._overflow(page, "everything at 200 %", found)

    def _mirrored(self, page: Page, found: list[str]) -> None:
        page.evaluate("document.documentElement.dir = 'rtl'")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            self._overflow(page, f"{width} px from right to left", found)
        page.evaluate("document.documentElement.dir = 'ltr'")

    def _printed(self, page: Page, found: list[str]) -> None:
        page.set_viewport_size({"width": SHEET, "height": 1000})
        page.emulate_media(media="print")
        found += [f"is printed: {each}" for each in page.evaluate(_PRINTED)]
        found += [f"is not printed: {each}" for each in page.evaluate(_HIDDEN)]
        # Paper does not scroll: what is to the right of a region's edge is lost.
        found += [f"is cut on paper: {each}" for each in page.evaluate(_CUT)]
        self._overflow(page, "on paper", found)
        page.emulate_media(media="screen")


def overflow(page: Page) -> list[str]:
    """What stands out of the window to a side, if a person had to scroll sideways to read it."""
    found: list[str] = page.evaluate(_OVERFLOW)
    return found


def keyboard(page: Page) -> list[str]:
    """What is wrong for somebody with nothing but a keyboard."""
    wanted: list[str] = page.evaluate(_CONTROLS)
    if not wanted:
        return ["nothing can be reached"]
    page.evaluate("document.body.tabIndex = -1; document.body.focus()")
    page.evaluate("document.body.removeAttribute('tabindex')")
    found: list[str] = []
    places: list[int] = []
    for _ in range(len(wanted) + 8):  # a date has several stops
        page.keyboard.press("Tab")
        focus: dict[str, Any] | None = page.evaluate(FOCUS)
        if focus is None:
            break
        if focus["place"] is None:
            found.append(f"has the focus, but is no control: {focus['html']}")
            continue
        if places and focus["place"] == places[-1]:
            continue
        if focus["place"] in places:
            break
        places.append(focus["place"])
        if not focus["outlined"]:
            found.append(f"no ring: {focus['html']}")
        if not focus["shown"]:
            found.append(f"has the focus, but is not seen: {focus['html']}")
    if places != sorted(places):
        found.append(f"not in the order of reading: {places}")
    found += [f"not reached: {wanted[n]}" for n in range(len(wanted)) if n not in places]
    return found
