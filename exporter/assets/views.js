// Keeps a page of the present up to date. Without this it is a page like any other.
"use strict";
const seconds = Number(document.body.dataset.live);
const refresh = async () => {
  const asked = document.activeElement;
  // Nobody's typing, selection or scrolling place is taken away.
  const typed = [...document.querySelectorAll("input")].some((it) => it.value !== it.defaultValue);
  if (document.hidden || typed || (asked && asked.tagName === "INPUT")) return;
  if (!document.getSelection().isCollapsed) return;
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.querySelector("main"), old = document.querySelector("main");
    const places = [...old.querySelectorAll(".wrap")].map((wrap) => wrap.scrollLeft);
    const href = asked && asked.getAttribute && asked.getAttribute("href");
    old.replaceWith(fresh);
    fresh.querySelectorAll(".wrap").forEach((wrap, at) => { wrap.scrollLeft = places[at] || 0; });
    if (href) {
      const again = [...fresh.querySelectorAll("a")].find((a) => a.getAttribute("href") === href);
      if (again) again.focus({ preventScroll: true });
    }
  } catch {
    // The exporter may be restarting: the next try is soon.
  }
};
if (seconds > 0) setInterval(refresh, seconds * 1000);
