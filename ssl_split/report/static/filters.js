"use strict";
// Which settings are shown, everywhere on the page.

function boxes(field, title, values) {
  const inputs = values.map((value) => {
    const input = h("input", {
      type: "checkbox",
      checked: true,
      name: field,
      value,
      onchange: () => {
        if (input.checked) wanted[field].add(value);
        else wanted[field].delete(value);
        changed();
      },
    });
    wanted[field].add(value);
    return h("label", {}, input, " ", value === "" ? "(none)" : value);
  });
  if (values.length < 2) return null;
  const all = (on) => () => {
    for (const input of set.querySelectorAll("input")) {
      input.checked = on;
      if (on) wanted[field].add(input.value);
      else wanted[field].delete(input.value);
    }
    changed();
  };
  const set = h(
    "fieldset",
    {},
    h("legend", {}, title),
    inputs,
    values.length > 3
      ? [h("button", {type: "button", onclick: all(true)}, "all"), h("button", {type: "button", onclick: all(false)}, "none")]
      : null,
  );
  return set;
}

function count() {
  const now = shown().length,
    all = data.groups.length;
  document.getElementById("shown").textContent = now === all ? `All ${all} settings are shown.` : `${now} of ${all} settings are shown.`;
}

function changed() {
  const now = shown();
  count();
  const seen = new Set(now.map((g) => g.anchor));
  for (const row of document.querySelectorAll("[data-group]")) row.hidden = !seen.has(row.dataset.group);
  for (const draw of followers) draw();
}

function filters() {
  const unique = (field) => [...new Set(data.groups.map((g) => String(g[field])))];
  const search = h("input", {
    type: "search",
    placeholder: "part of a name",
    "aria-label": "Name contains",
    oninput: () => {
      wanted.text = search.value.trim().toLowerCase();
      changed();
    },
  });
  document
    .getElementById("filters-body")
    .append(
      ...[
        boxes("algorithm", "Algorithm", unique("algorithm")),
        boxes("cut", "Cut", data.cuts.map(String)),
        boxes("setting", "Setting", unique("setting")),
        data.groups.length > 1 ? h("fieldset", {}, h("legend", {}, "Name"), search) : null,
      ].filter(Boolean),
    );
}
