"use strict";
// Elements, numbers as text, and the parts of the page that follow the filters. Texts only ever become text nodes.

const DASH = "–";

function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(
    ...children
      .flat(9)
      .filter((c) => c !== null && c !== undefined && c !== false)
      .map((c) => (c instanceof Node ? c : String(c))),
  );
  return made;
}

const known = (value) => typeof value === "number" && Number.isFinite(value);
const few = (value) => String(Number(value.toPrecision(4)));
const grouped = [0, 1].map((digits) => new Intl.NumberFormat("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits}));
const thousands = (value, digits = 0) => grouped[digits].format(value);

const write = {
  percent: (v) => (known(v) ? `${(100 * v).toFixed(1)} %` : DASH),
  score: (v) => (known(v) ? v.toFixed(4) : DASH),
  ratio: (v) => (known(v) ? v.toFixed(3) : DASH),
  mib: (v) => (!known(v) ? DASH : v >= 100 ? thousands(v, 1) : v >= 0.1 || v === 0 ? v.toFixed(2) : few(v)),
  count: (v) => {
    if (!known(v)) return DASH;
    for (const [size, unit] of [
      [1e9, "G"],
      [1e6, "M"],
    ])
      if (Math.abs(v) >= size) return `${(v / size).toFixed(2)} ${unit}`;
    return thousands(v);
  },
  plain: (v) => (known(v) ? few(v) : DASH),
  large: (v) => (!known(v) ? DASH : Math.abs(v) >= 1000 ? thousands(v) : few(v)),
  giga: (v) => (known(v) ? write.large(v / 1e9) : DASH),
  seconds: (v) =>
    !known(v) ? DASH : v < 90 ? `${v.toFixed(0)} s` : v < 5400 ? `${(v / 60).toFixed(0)} min` : `${(v / 3600).toFixed(1)} h`,
};

const [MEAN, LOW, HIGH, SD, SEEDS] = [0, 1, 2, 3, 4];

const mean = (group, key) => (group.values[key] ? group.values[key][MEAN] : undefined);

// Interval, else one standard deviation to either side.
function ends(value) {
  if (known(value[LOW]) && known(value[HIGH])) return [value[LOW], value[HIGH]];
  return [value[MEAN] - (value[SD] || 0), value[MEAN] + (value[SD] || 0)];
}

function spread(value, style) {
  const [low, high] = [value[LOW], value[HIGH]];
  if (known(low) && known(high) && low < high) return ` [${write[style](low)}, ${write[style](high)}]`.replaceAll(" %", "");
  return value[SD] ? ` ± ${write[style](value[SD])}`.replaceAll(" %", "") : "";
}

// Where a number of a setting leads: to its run, or to the list of its seeds.
const place = (group) => "#" + (group.members.length === 1 ? group.members[0].anchor : group.anchor);
const linked = (href, text) => h("a", {href}, text);

let data = null; // what payload.py made

// A setting's name where all have one algorithm needs no more than what differs.
const brief = (series) =>
  data.settings.length > 1 &&
  series.startsWith(data.groups[0].algorithm + ", ") &&
  data.groups.every((g) => g.algorithm === data.groups[0].algorithm)
    ? series.slice(data.groups[0].algorithm.length + 2)
    : series;
const followers = []; // called when the filters have changed
const follow = (draw) => {
  followers.push(draw);
  draw();
};

const wanted = {algorithm: new Set(), cut: new Set(), setting: new Set(), text: ""};
function visible(group) {
  return (
    wanted.algorithm.has(group.algorithm) &&
    wanted.cut.has(String(group.cut)) &&
    wanted.setting.has(group.setting) &&
    group.title.toLowerCase().includes(wanted.text)
  );
}
const shown = () => data.groups.filter(visible);

async function unpack(id) {
  const text = atob(document.getElementById(id).textContent.trim()),
    bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

// A table of columns [{head, num, cell(row), title}] that shows many rows only when asked.
const MANY = 200;
function table(columns, rows, label) {
  const body = h("tbody");
  const line = (row) =>
    h(
      "tr",
      {},
      columns.map((c, i) =>
        h(
          i ? "td" : "th",
          {class: [c.num && "num", c.ruler && "ruler", !i && "stick"].filter(Boolean).join(" ") || null, scope: i ? null : "row"},
          c.cell(row),
        ),
      ),
    );
  body.append(...rows.slice(0, MANY).map(line));
  const head = h(
    "thead",
    {},
    h(
      "tr",
      {},
      columns.map((c, i) => h("th", {class: [c.num && "num", !i && "stick"].filter(Boolean).join(" ") || null, title: c.title}, c.head)),
    ),
  );
  const made = h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": label}, h("table", {}, head, body));
  if (rows.length <= MANY) return made;
  const more = h(
    "button",
    {
      type: "button",
      onclick: () => {
        body.append(...rows.slice(MANY).map(line));
        more.remove();
      },
    },
    `Show all ${rows.length} rows`,
  );
  return h("div", {}, made, more);
}
