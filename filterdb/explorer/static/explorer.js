// The pages work without this file; with it they follow a chosen theme, parts that take longer come by themselves, the spectrum
// answers the mouse, and Ctrl + Enter runs SQL.
"use strict";

const root = document.documentElement;
const THEMES = ["auto", "light", "dark"];

function stored() {
  try { return localStorage.getItem("theme") || "auto"; } catch { return "auto"; }
}

function paint(theme) {
  if (theme === "auto") root.removeAttribute("data-theme");
  else root.dataset.theme = theme;
}

paint(stored());

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const say = (theme) => {
    const word = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
    button.querySelector("span").textContent = word;
    button.setAttribute("aria-label", theme === "auto" ? "Colours: system setting" : `Colours: ${theme}`);
  };
  button.hidden = false;
  say(stored());
  button.addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(stored()) + 1) % THEMES.length];
    try { localStorage.setItem("theme", next); } catch { /* a browser that keeps nothing */ }
    paint(next);
    say(next);
  });

  const facets = document.getElementById("facets");
  if (facets && matchMedia("(max-width: 860px)").matches) facets.open = false;

  const query = document.getElementById("q");
  if (query) query.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) query.form.requestSubmit();
  });

  spectrum();
  wait(1);
});

// What is pending is asked for again, and each part that has changed takes the place of its old self.
function wait(turn) {
  if (!document.querySelector("[data-pending]")) return;
  setTimeout(async () => {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (document.querySelector("#status [data-pending]") && !page.querySelector("#status [data-pending]")) return location.reload();
      const told = document.getElementById("told");
      const parts = [...document.querySelectorAll("[data-pending]")].map((one) => one.closest("section[aria-labelledby], aside, #status") || document.getElementById("main"));
      for (const old of new Set(told ? [told, ...parts] : parts)) {
        const fresh = page.querySelector(old.id ? `#${CSS.escape(old.id)}` : old.tagName === "ASIDE" ? "aside" : `[aria-labelledby="${CSS.escape(old.getAttribute("aria-labelledby"))}"]`);
        if (fresh) old.replaceWith(fresh);
      }
    } catch { /* the server may be starting anew */ }
    wait(turn + 1);
  }, Math.min(1000 * turn, 5000));
}

function spectrum() {
  const box = document.getElementById("spectrum");
  if (!box) return;
  const steps = [...box.querySelectorAll(".steps span")];
  const last = Number(box.dataset.last);
  const bar = document.getElementById("stretches");
  const slider = document.getElementById("code");
  const show = (code) => {
    const step = steps.reduce((a, b) => (Math.abs(b.dataset.code - code) < Math.abs(a.dataset.code - code) ? b : a));
    const picture = document.getElementById("decoded");
    picture.src = step.dataset.src;
    picture.alt = `The kernel decoded from code ${step.dataset.code}`;
    document.getElementById("codeword").textContent = step.dataset.class;
    document.getElementById("codenumber").textContent = step.dataset.code;
    document.getElementById("confidence").textContent = step.dataset.confidence;
    return step.dataset.code;
  };
  const at = (event) => {
    const place = bar.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - place.left) / place.width)) * last;
  };
  bar.addEventListener("pointermove", (event) => { slider.value = show(at(event)); });
  bar.addEventListener("click", (event) => { location.assign(`${box.dataset.base}?code=${show(at(event))}#real`); });
  slider.addEventListener("input", () => show(slider.value));
}
