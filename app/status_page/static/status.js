// Refreshes the status page. Without it the page is complete, and reloads itself.
"use strict";

(() => {
  const live = document.getElementById("live");
  const headline = document.getElementById("headline");
  const connection = document.getElementById("connection");
  const LOOK_S = 15; // for what has no event: attempts, sweeps, workers
  const PAUSE_MS = 300; // a burst of events leads to few look-ups
  const UNSETTLED_MS = 1000; // until the page is asked again for what it did not know yet
  let source = null, fetching = false, wanted = false, pressed = false, ahead = 0, takenAt = 0;

  function say(text) {
    if (connection.textContent !== text) connection.textContent = text;
  }

  // As app/status_page/words.py writes it.
  function duration(seconds) {
    if (seconds < 10) return Math.max(0, seconds).toFixed(1) + " s";
    let whole = Math.floor(seconds);
    const said = [];
    for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
      if (whole >= size || said.length) {
        said.push([Math.floor(whole / size), unit]);
        whole %= size;
      }
    }
    return said.slice(0, 2).filter(([count]) => count).map((part) => part.join(" ")).join(" ");
  }

  function tick() {
    const now = Date.now() / 1000 + ahead;
    for (const each of live.querySelectorAll("[data-until]")) {
      each.textContent = duration(Number(each.dataset.until) - now);
    }
    for (const each of live.querySelectorAll("[data-since]")) {
      each.textContent = duration(now - Number(each.dataset.since));
    }
  }

  function readClock() {
    const taken = document.getElementById("taken");
    ahead = Number(taken.dataset.now) - Date.now() / 1000; // the server's clock decides
    takenAt = Date.now();
    if (live.querySelector("[data-unsettled]")) setTimeout(refresh, UNSETTLED_MS);
    if (headline.textContent !== taken.dataset.headline) {
      headline.textContent = taken.dataset.headline;
      document.title = taken.dataset.headline + " – Ferry";
    }
  }

  // What is at the top of the window, so that it stays there though things above it grow.
  function atTop() {
    const isSeen = ({ height, top }) => height && top >= 0;
    return scrollY && [...live.querySelectorAll("[id]")].find((each) => isSeen(each.getBoundingClientRect()));
  }

  function swap(text) {
    const held = atTop(), top = held && held.getBoundingClientRect().top;
    const focused = document.activeElement ? document.activeElement.id : "";
    const scrolled = [...live.querySelectorAll("pre[id]")].map((each) => [each.id, each.scrollTop]);
    const given = [...live.querySelectorAll("input[type=text][id], select[id]")].map((each) => [each.id, each.value]);
    live.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
    for (const [id, top] of scrolled) {
      const again = document.getElementById(id);
      if (again) again.scrollTop = top;
    }
    for (const [id, value] of given) {
      const again = document.getElementById(id);
      if (again) again.value = value;
    }
    const again = focused && document.getElementById(focused);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
    const there = held && document.getElementById(held.id);
    if (there) scrollBy(0, there.getBoundingClientRect().top - top);
    readClock();
    tick();
  }

  function isTyping() {
    const active = document.activeElement;
    return active && live.contains(active) && active.matches("input[type=text]");
  }

  // Do not replace text that is selected or typed, or a button that is pressed.
  function isInUse() {
    const selection = getSelection();
    return pressed || isTyping() || (selection && !selection.isCollapsed && live.contains(selection.anchorNode));
  }

  async function refresh() {
    wanted = true;
    if (isTyping()) say("Not refreshed while you type.");
    if (fetching || isInUse()) return;
    fetching = true;
    wanted = false;
    try {
      const answer = await fetch(live.dataset.live, { cache: "no-store" });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      if (isInUse()) return void (wanted = true);
      swap(text);
      say(source && source.readyState === EventSource.OPEN ? "Live." : "Refreshed every " + LOOK_S + " s.");
    } catch {
      say("The server does not answer; this is the state of " + duration((Date.now() - takenAt) / 1000) + " ago.");
    } finally {
      setTimeout(() => {
        fetching = false;
        if (wanted) refresh();
      }, PAUSE_MS);
    }
  }

  function listen() {
    if (source && source.readyState !== EventSource.CLOSED) return;
    source = new EventSource(live.dataset.events);
    for (const kind of ["commit", "push", "state", "reset"]) source.addEventListener(kind, refresh);
    source.addEventListener("open", refresh);
  }

  // A hidden page needs no stream.
  function follow() {
    if (document.hidden) {
      if (source) source.close();
      source = null;
    } else {
      listen();
      refresh();
    }
  }

  readClock();
  listen();
  addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => source && source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  setInterval(tick, 1000);
  addEventListener("focusout", () => setTimeout(() => wanted && refresh()));
  addEventListener("pointerdown", () => { pressed = true; });
  for (const kind of ["pointerup", "pointercancel"]) {
    addEventListener(kind, () => setTimeout(() => { pressed = false; })); // the click comes after it
  }
  setInterval(() => {
    if (document.hidden) return;
    listen(); // a server that refused the stream may accept it now
    refresh();
  }, LOOK_S * 1000);
})();
