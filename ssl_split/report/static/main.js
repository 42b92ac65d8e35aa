"use strict";

// Texts to be pasted into a paper, each behind its title.
function paper() {
  const root = document.getElementById("paper-body");
  data.paper.forEach((one, i) =>
    root.append(
      h(
        "details",
        {
          ontoggle: (e) => {
            if (e.target.open && e.target.childElementCount === 1) {
              e.target.append(
                ...h(
                  "div",
                  {},
                  h("p", {}, h("button", {type: "button", "data-copy": `paper-${i}`}, "Copy"), ` also in paper/${one.file}`),
                  h("textarea", {id: `paper-${i}`, readonly: true, "aria-label": one.title, spellcheck: "false"}, one.text),
                ).childNodes,
              );
              copies(e.target);
            }
          },
        },
        h("summary", {}, one.title),
      ),
    ),
  );
}

function copies(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const area = document.getElementById(button.dataset.copy);
      area.select();
      try {
        await navigator.clipboard.writeText(area.value);
      } catch {
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => {
        button.textContent = "Copy";
      }, 1500);
    });
  }
}

async function start() {
  const library = document.createElement("script");
  library.textContent = await unpack("library");
  document.head.append(library);
  data = JSON.parse(await unpack("data"));
  data.byAnchor = new Map(data.runs.map((r) => [r.anchor, r]));
  data.groups.forEach((g, i) => {
    g.place = i;
    g.members = data.runs.filter((r) => r.group === i);
  });
  for (const make of [filters, legend, decide, cutCharts, timeToAccuracy, defences, curves, matrix, pictures, outcomes, paper, runs])
    make();
  count();
  document.documentElement.classList.add("ready");
}

start().catch((error) => {
  const note = document.getElementById("broken");
  note.hidden = false;
  note.textContent = `The interactive part of this page could not start (${error.message}); report.md and figures/ hold the same numbers. Browsers from 2023 on can show it.`;
  throw error;
});
