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
  let isStale = false, isLoading = false, isOpen = false;

  // A person who selects text, fills in a form or has opened details should not lose it.
  const isBusy = () =>
    document.hidden || String(getSelection()) !== "" ||
    (main.contains(document.activeElement) && document.activeElement.matches("input, select, textarea"));

  const refresh = async () => {
    if (!isStale || isLoading || isBusy()) return;
    isLoading = true;
    isStale = false;
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      if (!response.ok || response.redirected) return;
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const next = page.getElementById("main");
      if (!next || isBusy()) { isStale = !!next; return; }
      const open = new Map([...main.querySelectorAll("details")].map((d, i) => [i, d.open]));
      const focused = [...main.querySelectorAll("a, button, summary, [tabindex]")].indexOf(document.activeElement);
      main.replaceChildren(...next.childNodes);
      main.querySelectorAll("details").forEach((d, i) => { if (open.has(i)) d.open = open.get(i); });
      if (focused >= 0) main.querySelectorAll("a, button, summary, [tabindex]")[focused]?.focus();
      shown().hidden = !isOpen;
      prepare();
      if (!next.dataset.live) stream.close();
    } finally {
      isLoading = false;
    }
  };

  // The output of running jobs.
  const showOutputs = async () => {
    if (document.hidden || String(getSelection()) !== "") return;
    for (const output of document.querySelectorAll("[data-output]")) {
      const response = await fetch(`/api/v1/jobs/${output.dataset.output}/output`);
      if (!response.ok) continue;
      const job = await response.json();
      const text = job.stdout + job.stderr;
      if (job.running && text && output.textContent !== text) {
        output.textContent = text;
        output.scrollTop = output.scrollHeight;
      }
    }
  };
  setInterval(showOutputs, 1000);

  const stream = new EventSource("/live");
  stream.onopen = () => { isOpen = true; shown().hidden = false; };
  stream.onerror = () => { isOpen = false; shown().hidden = true; };
  stream.onmessage = () => { isStale = true; refresh(); };
  setInterval(refresh, 1000);
  // Ages and rates change without a new outcome.
  setInterval(() => { isStale = true; }, 10000);
})();
