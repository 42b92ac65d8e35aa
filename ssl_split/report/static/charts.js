"use strict";
// Charts, drawn with Observable Plot when they come near the window, and again when its width or the filters change.

const SYMBOLS = ["circle", "square", "triangle", "diamond", "star", "cross", "wye"];
const COLORS = ["var(--c0)", "var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)"];
const DASHES = ["none", "6,2", "2,2", "7,2,2,2"];
const LETTERS = {background: "transparent", color: "var(--ink)", fontSize: "12px", overflow: "visible"};
const tipLook = {fill: "var(--paper)", stroke: "var(--muted)", textPadding: 8, lineWidth: 32, fontSize: 12};

const place_of = (series) => data.series.indexOf(series);
const colorOf = (series) => COLORS[place_of(series) % COLORS.length];
const dashOf = (series) => DASHES[Math.floor(place_of(series) / COLORS.length) % DASHES.length];
const FEW = 6; // lines whose names each figure repeats; of more they stand once above all
const clip = (low, log, value) => (log && low <= 0 ? value : low);

// Colour and marker of every line; both differ, so that colour is never alone.
const looks = (legend = data.series.length <= FEW) => ({
  color: {domain: data.series, range: data.series.map(colorOf)},
  symbol: {
    domain: data.series,
    range: data.series.map((_, i) => SYMBOLS[i % SYMBOLS.length]),
    tickFormat: brief,
    legend: legend && data.series.length > 1,
  },
});

function legend() {
  const node = document.getElementById("legend");
  if (data.series.length <= FEW) {
    node.remove();
    return;
  }
  const rows = data.series.map((series) => ({series}));
  node.append(
    Plot.plot({...looks(false), style: LETTERS, marks: [Plot.dot(rows, {x: 0, y: 0, fill: "series", symbol: "series"})]}).legend("symbol", {
      style: LETTERS,
    }),
  );
}

function describe(group) {
  const lines = [group.title];
  for (const [key, name, style] of [
    ["accuracy", "accuracy", "percent"],
    ["r2", "leakage R2", "ratio"],
    ["mse", "MSE", "score"],
    ["ssim", "SSIM", "ratio"],
    ["identified", "identified", "percent"],
    ["mib_per_client", "MiB per client", "mib"],
    ["client_parameters", "client parameters", "count"],
    ["client_macs_per_image", "client MACs", "count"],
  ]) {
    if (group.values[key]) lines.push(`${name} ${write[style](mean(group, key))}${spread(group.values[key], style)}`);
  }
  if (group.attack) lines.push(`strongest attack: ${group.attack}`);
  return lines.join("\n");
}

// Draws make(width) into a node; returns what draws it again.
const pending = new Map();
const near = new IntersectionObserver(
  (entries) => {
    for (const e of entries) if (e.isIntersecting && pending.has(e.target)) pending.get(e.target)();
  },
  {rootMargin: "600px"},
);
const later = (node, paint) => {
  pending.set(node, paint);
  near.unobserve(node);
  near.observe(node);
};
const sizes = new ResizeObserver((entries) => {
  for (const e of entries) if (e.target.redraw && Math.abs(e.target.clientWidth - e.target.drawnAt) > 8) e.target.redraw();
});

function chart(node, make) {
  const paint = () => {
    pending.delete(node);
    node.drawnAt = node.clientWidth;
    const options = make(Math.max(280, node.clientWidth || 640));
    node.replaceChildren(
      ...(options
        ? [options instanceof Node ? options : drawing(options)]
        : [h("p", {class: "muted"}, "There is nothing to draw for these settings.")]),
    );
  };
  const draw = () => later(node, paint);
  node.redraw = draw;
  sizes.observe(node);
  return draw;
}
window.addEventListener("beforeprint", () => {
  for (const paint of [...pending.values()]) paint();
});

function drawing(options) {
  const made = Plot.plot({
    marginLeft: 52,
    marginRight: 16,
    marginBottom: 40,
    className: "plot",
    style: LETTERS,
    ...options,
    marks: options.marks.filter(Boolean),
  });
  for (const link of made.querySelectorAll("a"))
    link.setAttribute("href", link.getAttribute("href") || link.getAttributeNS("http://www.w3.org/1999/xlink", "href"));
  return made;
}

const AGAINST_CUT = [
  {
    key: "accuracy",
    title: "Accuracy",
    label: () => `accuracy (%), ${data.accuracy || ""}`,
    scale: 100,
    rulers: [
      ["raw_pixels", "raw pixels", "2,3"],
      ["untrained", "untrained network", "7,4"],
    ],
  },
  {
    key: "r2",
    title: "Leakage: R2 of the strongest attack",
    label: () => "R2 (lower: less is seen)",
    rulers: [["untrained_r2", "untrained client", "7,4"]],
    zero: "blind guess",
  },
  {key: "mib_per_client", title: "Traffic per client", label: () => "MiB per client, up and down", floor: true, exact: true},
  {key: "client_parameters", title: "Parameters on the client", label: () => "parameters", floor: true, exact: true},
  {key: "client_macs_per_image", title: "Work of the client", label: () => "MACs per image, forward", floor: true, exact: true},
  {
    key: "mse",
    title: "Reconstruction error of the strongest attack",
    label: () => "MSE (higher: less is seen)",
    rulers: [
      ["blind_mse", "blind guess", "2,3"],
      ["untrained_mse", "untrained client", "7,4"],
    ],
    floor: true,
  },
  {
    key: "ssim",
    title: "Similarity of the strongest attack's pictures",
    label: () => "SSIM (lower: less is seen)",
    rulers: [
      ["blind_ssim", "blind guess", "2,3"],
      ["untrained_ssim", "untrained client", "7,4"],
    ],
  },
  {key: "identified", title: "Images identified from their reconstruction", label: () => "identified (%)", scale: 100, floor: true},
  {key: "virtual_seconds", title: "Virtual time of the training", label: () => "seconds", floor: true},
  {
    key: "online_to_momentum",
    title: "Distance of online to momentum client, last sync",
    label: () => "mean squared difference (log)",
    log: true,
  },
];

function againstCut(width, spec, groups) {
  const scale = spec.scale || 1,
    has = groups.filter((g) => g.values[spec.key] && (!spec.log || mean(g, spec.key) > 0));
  if (!has.length) return null;
  const cuts = data.cuts.filter((c) => has.some((g) => g.cut === c)).map(String),
    series = data.series.filter((s) => has.some((g) => g.series === s));
  const step = spec.exact ? 0 : Math.min(5, (0.5 * width) / Math.max(cuts.length, 1) / Math.max(series.length, 1));
  const x = (g) => String(g.cut),
    y = (g) => scale * mean(g, spec.key);
  const marks = [];
  for (const [name, title, dash] of spec.rulers || []) {
    const points = cuts.flatMap((cut) => {
      const all = has
        .filter((g) => String(g.cut) === cut)
        .map((g) => mean(g, name))
        .filter(known);
      return all.length ? [{cut, y: (scale * all.reduce((a, b) => a + b)) / all.length}] : [];
    });
    if (!points.length) continue;
    marks.push(
      Plot.line(points, {x: "cut", y: "y", stroke: "var(--muted)", strokeWidth: 1.4, strokeDasharray: dash}),
      points.length === 1 ? Plot.dot(points, {x: "cut", y: "y", stroke: "var(--muted)", symbol: "times"}) : null,
      Plot.text([points[0]], {x: "cut", y: "y", text: () => title, dy: -7, fill: "var(--muted)", textAnchor: "middle", fontSize: 11}),
    );
  }
  if (spec.zero)
    marks.push(
      Plot.ruleY([0], {stroke: "var(--muted)", strokeDasharray: "2,3"}),
      Plot.text([cuts[0]], {x: (c) => c, y: () => 0, text: () => spec.zero, dy: -7, fill: "var(--muted)", fontSize: 11}),
    );
  series.forEach((name, i) => {
    const rows = has.filter((g) => g.series === name).sort((a, b) => cuts.indexOf(String(a.cut)) - cuts.indexOf(String(b.cut)));
    const dx = (i - (series.length - 1) / 2) * step;
    marks.push(
      Plot.line(rows, {x, y, stroke: colorOf(name), strokeDasharray: dashOf(name), dx, strokeWidth: 1.6}),
      Plot.ruleX(rows, {
        x,
        y1: (g) => clip(scale * ends(g.values[spec.key])[0], spec.log, y(g)),
        y2: (g) => scale * ends(g.values[spec.key])[1],
        stroke: colorOf(name),
        dx,
      }),
      Plot.dot(rows, {x, y, fill: "series", symbol: "series", r: 4.5, dx, href: place, ariaLabel: describe}),
    );
  });
  if (spec.key === "mib_per_client")
    marks.push(
      ...series.map((name) =>
        Plot.line(
          has.filter((g) => g.series === name && g.values.mib_per_client_published_formula),
          {
            x,
            y: (g) => mean(g, "mib_per_client_published_formula"),
            stroke: colorOf(name),
            strokeDasharray: "1,3",
            sort: (g) => cuts.indexOf(String(g.cut)),
          },
        ),
      ),
    );
  return {
    width,
    height: 300,
    x: {type: "point", domain: cuts, label: "cut (deeper: more layers on the client)", padding: 0.5},
    y: {
      label: spec.label(),
      grid: true,
      nice: true,
      type: spec.log ? "log" : "linear",
      zero: spec.floor,
      tickFormat: spec.log ? ".0e" : spec.exact ? "~s" : undefined,
    },
    ...looks(),
    marks: [...marks, Plot.tip(has, Plot.pointer({x, y, title: describe, ...tipLook}))],
  };
}

const CAPTIONS = {
  accuracy: "A network that does not beat both grey rulers has learned nothing of use.",
  mib_per_client: "Every encoded byte that crossed the wire. Fine dots: the formula published with MocoSFL, which leaves much out.",
  r2: "The attack with the lowest error on the attacker's own validation images. 0: no better than the mean image; 1: perfect.",
};

function figure(id, title, caption, ...inner) {
  return h("figure", {id}, h("figcaption", {}, h("b", {}, title + ". "), caption), inner);
}

function cutCharts() {
  const root = document.getElementById("charts");
  const bars = "Bars: 95 % interval over images for one seed, standard deviation for two, t-interval from three seeds on.";
  for (const spec of AGAINST_CUT) {
    if (!data.groups.some((g) => g.values[spec.key])) continue;
    const node = h("div", {class: "chart"});
    root.append(
      figure(
        `figure-${spec.key}`,
        `${spec.title} against the cut`,
        [CAPTIONS[spec.key], spec.key === "accuracy" ? bars : null].filter(Boolean).join(" "),
        node,
      ),
    );
    follow(chart(node, (width) => againstCut(width, spec, shown())));
  }
}

const FAR = -0.3; // R2 from which on points are drawn at the edge

function defencePlane(width, groups) {
  const cuts = data.cuts.filter((c) => groups.some((g) => g.cut === c));
  const rows = groups.map((g) => ({
    g,
    cut: String(g.cut),
    series: g.series,
    y: 100 * mean(g, "accuracy"),
    known: Math.max(mean(g, "r2"), FAR),
    unaware: g.values.unaware_r2 ? Math.max(mean(g, "unaware_r2"), FAR) : null,
  }));
  const both = rows.filter((r) => r.unaware !== null);
  const narrow = width < 560,
    facet = narrow ? {fy: "cut"} : {fx: "cut"};
  return {
    width,
    height: narrow ? 260 * cuts.length : 340,
    x: {label: "leakage: R2 of the strongest attack", domain: [FAR, 1], grid: false, ticks: 5},
    y: {label: `accuracy (%), ${data.accuracy || ""}`, grid: true, nice: true},
    fx: {domain: cuts.map(String), label: "cut"},
    fy: {domain: cuts.map(String), label: "cut"},
    ...looks(),
    marks: [
      Plot.ruleX([0], {stroke: "var(--muted)", strokeDasharray: "2,3"}),
      Plot.link(both, {x1: "unaware", x2: "known", y1: "y", y2: "y", stroke: "series", strokeOpacity: 0.6, ...facet}),
      Plot.dot(both, {x: "unaware", y: "y", stroke: "series", symbol: "series", r: 4.5, fill: "var(--paper)", ...facet}),
      Plot.dot(rows, {
        x: "known",
        y: "y",
        fill: "series",
        symbol: "series",
        r: 4.5,
        href: (r) => place(r.g),
        ariaLabel: (r) => describe(r.g),
        ...facet,
      }),
      Plot.tip(
        rows,
        Plot.pointer({
          x: "known",
          y: "y",
          title: (r) =>
            describe(r.g) +
            (r.g.values.unaware_r2 ? `\nR2 if the attacker does not know the defence: ${write.ratio(mean(r.g, "unaware_r2"))}` : ""),
          ...facet,
          ...tipLook,
        }),
      ),
    ],
  };
}

function defences() {
  const root = document.getElementById("charts");
  if (!data.groups.some((g) => g.defended && g.values.accuracy && g.values.r2)) return;
  const node = h("div", {class: "chart"});
  const made = figure(
    "figure-defences",
    "Defences in the privacy-utility plane",
    "Full markers: the attacker knows the defence and learns through it. Hollow: the same attack by one who does not, which is no measure of privacy. Better is up and to the left. Points at the left edge lie at R2 = -0.3 or below.",
    node,
  );
  made.classList.add("wide");
  root.append(made);
  follow(
    chart(node, (width) => {
      const groups = shown().filter((g) => g.values.accuracy && g.values.r2);
      return groups.length ? defencePlane(width, groups) : null;
    }),
  );
}

const REACHED = [
  ["reached_mib", "MiB, all clients"],
  ["reached_virtual_seconds", "virtual seconds"],
  ["reached_rounds", "rounds"],
];

function timeToAccuracy() {
  const kinds = REACHED.filter(([key]) => data.groups.some((g) => g.values[key]));
  if (!kinds.length) return;
  const node = h("div", {class: "chart"}),
    select = h(
      "select",
      {id: "reached-axis", onchange: () => draw()},
      kinds.map(([key, text]) => h("option", {value: key}, text)),
    );
  document
    .getElementById("charts")
    .append(
      figure(
        "figure-reached",
        "To the target accuracy",
        "What it took until validation first came to the target accuracy that was set; settings that never did are not drawn.",
        h("div", {class: "slider"}, h("label", {for: "reached-axis"}, "Counted in"), select),
        node,
      ),
    );
  const draw = chart(node, (width) => {
    const key = select.value,
      groups = shown().filter((g) => g.values[key]);
    if (!groups.length) return null;
    const named = (g) => `${brief(g.series)} at cut ${g.cut}`,
      names = groups.map(named);
    return {
      width,
      height: 60 + 22 * groups.length,
      marginLeft: Math.min(width / 2, 8 + 6.4 * Math.max(...names.map((n) => n.length))),
      x: {label: kinds.find(([k]) => k === key)[1], grid: true, zero: true},
      y: {domain: names, label: null},
      ...looks(false),
      marks: [
        Plot.ruleY(groups, {y: named, x1: 0, x2: (g) => mean(g, key), stroke: "series", strokeOpacity: 0.5}),
        Plot.dot(groups, {y: named, x: (g) => mean(g, key), fill: "series", symbol: "series", r: 4.5, href: place, ariaLabel: describe}),
        Plot.tip(groups, Plot.pointer({y: named, x: (g) => mean(g, key), title: describe, ...tipLook})),
      ],
    };
  });
  follow(draw);
}
