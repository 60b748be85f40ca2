// Keeps open pages up to date. Everything else works without it.
"use strict";
(() => {
  const main = document.getElementById("main");

  // Buttons that copy a text.
  const prepare = () => {
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.hidden = !navigator.clipboard;
      button.onclick = async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
      };
    }
  };
  prepare();

  // `/` goes to the search, `j` and `k` to the next and the previous page of events.
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(input|select|textarea)$/i.test(event.target.tagName)) return;
    const target = { "/": "#text", j: "a[rel=next]", k: "a[rel=prev]" }[event.key];
    const element = target && document.querySelector(target);
    if (!element) return;
    event.preventDefault();
    if (element.tagName === "A") element.click();
    else element.focus();
  });

  if (!main || !main.dataset.live || !window.EventSource) return;
  const shown = () => document.getElementById("live");
  let isStale = false, isLoading = false, isOpen = false, change = "0";

  // A person who selects text should not lose it.
  const isBusy = () => document.hidden || String(getSelection()) !== "";

  // Attributes that a person or this script changes.
  const OWN_ATTRIBUTES = { DETAILS: ["open"], BUTTON: ["hidden"], SPAN: ["hidden"] };

  // Makes the children of an element those of another, and keeps the nodes that stay: with their focus, their place, and
  // what a person has opened or typed. Elements with an id are found by it, others by their kind and place.
  const update = (element, next) => {
    if (element.isEqualNode(next)) return;
    const own = OWN_ATTRIBUTES[element.tagName] ?? [];
    for (const { name } of [...element.attributes]) {
      if (!next.hasAttribute(name) && !own.includes(name)) element.removeAttribute(name);
    }
    for (const { name, value } of next.attributes) {
      if (element.getAttribute(name) !== value && !own.includes(name)) element.setAttribute(name, value);
    }
    // The output of a running attempt comes from elsewhere.
    if (element.dataset?.output) return;
    const byId = new Map([...element.children].filter((child) => child.id).map((child) => [child.id, child]));
    const kept = new Set([...next.children].filter((child) => byId.has(child.id)).map((child) => child.id));
    let place = element.firstChild;
    for (const child of [...next.childNodes]) {
      while (place?.id && !kept.has(place.id)) place = remove(place);
      let same = child.id ? byId.get(child.id) : place;
      if (!child.id) while (same && !isSameKind(same, child)) same = same.nextSibling;
      if (same && same.nodeName !== child.nodeName) same = null;
      if (!same) {
        element.insertBefore(child, place);
        continue;
      }
      // Only the nodes between are moved or removed: a node that is moved loses its focus.
      while (place && place !== same) {
        const before = place;
        place = place.nextSibling;
        if (before.id && kept.has(before.id)) element.append(before);
        else before.remove();
      }
      if (same.nodeType === Node.ELEMENT_NODE) update(same, child);
      else if (same.data !== child.data) same.data = child.data;
      kept.delete(child.id);
      place = same.nextSibling;
    }
    while (place) place = remove(place);
  };
  const isSameKind = (node, next) =>
    node.nodeName === next.nodeName && node.className === next.className && !node.id;
  const remove = (node) => {
    const next = node.nextSibling;
    node.remove();
    return next;
  };

  const refresh = async () => {
    if (!isStale || isLoading || isBusy()) return;
    isLoading = true;
    isStale = false;
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html", "x-change": change } });
      if (!response.ok || response.redirected) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = page.getElementById("main");
      if (!next || isBusy()) { isStale = !!next; return; }
      update(main, next);
      prepare();
      if (!next.dataset.live) {
        stream.close();
        isOpen = false;
      }
      if (shown()) shown().hidden = !isOpen;
    } catch {
      // The server does not respond. The stream tells when it does.
    } finally {
      isLoading = false;
    }
  };

  // Makes control characters and invisible characters visible, as the server does in `outside_text`.
  const HIDDEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;
  const visible = (text) => text.replace(HIDDEN, (c) => {
    const code = c.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "\u2421" : `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
  });

  // The output of running jobs.
  const showOutputs = async () => {
    if (document.hidden || String(getSelection()) !== "") return;
    for (const output of document.querySelectorAll("[data-output]")) {
      const response = await fetch(`/api/v1/jobs/${output.dataset.output}/output`).catch(() => null);
      if (!response?.ok) continue;
      const job = await response.json();
      const text = visible(job.stdout + job.stderr);
      if (job.running && text && output.textContent !== text) {
        output.textContent = text;
        output.scrollTop = output.scrollHeight;
      }
    }
  };
  setInterval(showOutputs, 1000);

  const stream = new EventSource("/live");
  const show = (open) => {
    isOpen = open;
    if (shown()) shown().hidden = !open;
  };
  stream.onopen = () => show(true);
  stream.onerror = () => show(false);
  // The first message is the last change before the stream: the page may be older.
  stream.onmessage = (message) => {
    change = message.data;
    if (change === main.dataset.change) return;
    isStale = true;
    refresh();
  };
  setInterval(refresh, 1000);
  // Ages and rates change without a new outcome.
  setInterval(() => { isStale = true; }, 10000);
})();
