// What pages do better with a script. Every page works without it.
"use strict";

// A form that was sent is not sent again by a second click. Going back makes the button work again.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  const button = event.submitter;
  if (button) {
    button.setAttribute("aria-disabled", "true");
    button.classList.add("busy");
  }
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  for (const button of document.querySelectorAll("button.busy")) {
    button.classList.remove("busy");
    button.removeAttribute("aria-disabled");
  }
});

// "Thank you" looks a few times whether access is there, and then leaves it to the button.
const waiting = document.querySelector("[data-wait]");
if (waiting) {
  const pauses = [1, 2, 4, 8, 15];
  const look = async () => {
    try {
      const answer = await fetch(waiting.dataset.wait, { headers: { Accept: "application/json" } });
      const found = await answer.json();
      if (found.access) return location.replace(waiting.dataset.then);
    } catch {
      // The next look may succeed; the button stays.
    }
    next();
  };
  const next = () => {
    const pause = pauses.shift();
    if (pause) setTimeout(look, pause * 1000);
    else waiting.textContent = waiting.dataset.later;
  };
  next();
}
