"use strict";

function copies() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const area = document.getElementById(button.dataset.copy);
      area.select();
      try { await navigator.clipboard.writeText(area.value); } catch { document.execCommand("copy"); }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

async function start() {
  const library = document.createElement("script");
  library.textContent = await unpack("library");
  document.head.append(library);
  data = JSON.parse(await unpack("data"));
  data.byAnchor = new Map(data.runs.map((r) => [r.anchor, r]));
  data.groups.forEach((g, i) => { g.place = i; g.members = data.runs.filter((r) => r.group === i); });
  for (const make of [filters, legend, decide, cutCharts, timeToAccuracy, defences, curves, matrix, pictures, outcomes, runs, copies]) make();
  changed();
  document.documentElement.classList.add("ready");
}

start().catch((error) => {
  const note = document.getElementById("broken");
  note.hidden = false;
  note.textContent = `The interactive part of this page could not start (${error.message}); report.md and figures/ hold the same numbers. Browsers from 2023 on can show it.`;
  throw error;
});
