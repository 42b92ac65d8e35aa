"use strict";
// The recommendation. decide.py says the same in Python; a test holds the two together.

const GOALS = {accurate: "accuracy", private: "r2", cheap: "mib_per_client"};
const LIMITS = [
  ["leakage", "r2"],
  ["mib", "mib_per_client"],
  ["macs", "client_macs_per_image"],
];

const placed = (groups) => groups.filter((g) => g.values.accuracy && g.values.r2);

function affordable(groups, budget) {
  return placed(groups).filter(
    (g) =>
      mean(g, "accuracy") >= (budget.accuracy ?? -Infinity) &&
      LIMITS.every(([name, key]) => (budget[name] ?? Infinity) === Infinity || (known(mean(g, key)) && mean(g, key) <= budget[name])),
  );
}

function recommend(groups, budget, goal = "accurate") {
  const rank = (g) => {
    const own = mean(g, GOALS[goal]);
    return [!known(own) ? -Infinity : goal === "accurate" ? own : -own, mean(g, "accuracy"), -mean(g, "r2")];
  };
  const better = (a, b) => {
    const [x, y] = [rank(a), rank(b)];
    const i = x.findIndex((v, j) => v !== y[j]);
    return i >= 0 && x[i] > y[i];
  };
  return affordable(groups, budget).reduce((best, g) => (best === null || better(g, best) ? g : best), null);
}

function rivals(groups, budget, chosen) {
  const low = ends(chosen.values.accuracy)[0];
  return affordable(groups, budget).filter((g) => g !== chosen && ends(g.values.accuracy)[1] >= low);
}

function front(groups) {
  const objectives = (g) => [-mean(g, "accuracy"), mean(g, "r2"), mean(g, "mib_per_client")];
  const dominates = (one, other) => {
    const pairs = objectives(one)
      .map((v, i) => [v, objectives(other)[i]])
      .filter(([a, b]) => known(a) && known(b));
    return pairs.every(([a, b]) => a <= b) && pairs.some(([a, b]) => a < b);
  };
  const all = placed(groups);
  return all.filter((g) => !all.some((other) => dominates(other, g))).sort((a, b) => mean(b, "accuracy") - mean(a, "accuracy"));
}

const budget = {leakage: Infinity, mib: Infinity, macs: Infinity, accuracy: -Infinity};
let goal = "accurate";
let redecide = () => {};

// The value at a place of a logarithmic slider from 0 to `steps`; where there is a 0, it is the first place.
function logPlace(values, steps) {
  const positive = values.filter((v) => v > 0),
    zero = positive.length < values.length ? 1 : 0;
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  const between = (i) => Number((low * (high / low) ** ((i - zero) / (steps - zero)) * 1.0005).toPrecision(4));
  return (i) => (i < zero ? 0 : i === steps ? high : between(i));
}

// A slider whose last place (or first, of a floor) is "no limit". Below an R2 of 0 there is nothing to limit.
function slider({name, key, title, style, log, floor}) {
  const values = placed(data.groups)
    .map((g) => (key === "r2" ? Math.max(mean(g, key), 0) : mean(g, key)))
    .filter(known);
  if (!values.length || Math.min(...values) === Math.max(...values)) return null;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const STEPS = 100;
  const from = log ? 0 : Math.floor(low * 100) / 100,
    step = log ? 0 : 0.01,
    count = log ? STEPS : Math.round((Math.ceil(high * 100) / 100 - from) / step);
  const at = log ? logPlace(values, STEPS) : (i) => Number((from + i * step).toFixed(4));
  const none = floor ? -1 : count + 1;
  const start = !floor && Number.isFinite(budget[name]) ? Math.min(Math.max(Math.round((budget[name] - from) / step), 0), count) : none;
  const said = h("output", {});
  const input = h("input", {
    type: "range",
    id: `budget-${name}`,
    min: floor ? -1 : 0,
    max: floor ? count : count + 1,
    step: 1,
    value: start,
    oninput: () => set(),
  });
  function set(quiet) {
    const i = Number(input.value);
    budget[name] = i === none ? (floor ? -Infinity : Infinity) : at(i);
    const text = i === none ? "no limit" : `${floor ? "at least" : "at most"} ${write[style](budget[name])}`;
    said.textContent = text;
    input.setAttribute("aria-valuetext", text);
    if (!quiet) redecide();
  }
  set(true);
  return h("div", {class: "slider"}, h("label", {for: input.id}, title), input, said);
}

function facts(group) {
  const parts = [
    ["accuracy", "accuracy", "percent"],
    ["R2", "r2", "ratio"],
    ["MiB per client", "mib_per_client", "mib"],
    ["client parameters", "client_parameters", "count"],
    ["client MACs per image", "client_macs_per_image", "count"],
  ];
  return h(
    "dl",
    {class: "facts"},
    parts
      .filter(([, key]) => group.values[key])
      .map(([name, key, style]) => [
        h("dt", {}, name),
        h("dd", {}, linked(place(group), write[style](mean(group, key))), h("small", {}, spread(group.values[key], style))),
      ]),
  );
}

// The budgets in words: they stand on paper, too.
function within() {
  const said = [
    ["leakage", "R2 at most", "ratio"],
    ["mib", "MiB per client at most", "mib"],
    ["macs", "client MACs at most", "count"],
    ["accuracy", "accuracy at least", "percent"],
  ]
    .filter(([name]) => Number.isFinite(budget[name]))
    .map(([name, text, style]) => `${text} ${write[style](budget[name])}`);
  return said.length ? `with ${said.join(", ")}` : "of all, without a budget";
}

function advise(groups) {
  const chosen = recommend(groups, budget, goal);
  const without = groups.length - placed(groups).length;
  const left = without
    ? ` ${without} ${without === 1 ? "setting has" : "settings have"} no accuracy or no attack and cannot be chosen.`
    : "";
  if (!chosen) return [h("p", {class: "verdict"}, "No setting stays within these budgets." + left)];
  const goals = {accurate: "Most accurate", private: "Leaks least", cheap: "Least traffic"};
  const close = rivals(groups, budget, chosen);
  const ruled = ["raw_pixels", "untrained"].filter((r) => chosen.values[r] && ends(chosen.values.accuracy)[0] <= ends(chosen.values[r])[1]);
  const notes = [];
  const warning = ruled.length
    ? h(
        "p",
        {class: "missing"},
        `Its accuracy is not clearly above ${ruled.map((r) => (r === "untrained" ? "an untrained network" : "raw pixels")).join(" and ")}: within these budgets nothing was learned that they do not give.`,
      )
    : null;
  if (goal === "accurate" && close.length)
    notes.push(
      `Not clearly less accurate, within the budgets: ${close
        .slice(0, 6)
        .map((g) => g.title)
        .join("; ")}${close.length > 6 ? ` and ${close.length - 6} more` : ""}.`,
    );
  return [
    h("p", {class: "verdict"}, `${goals[goal]} ${within()}: `, h("a", {href: "#" + chosen.anchor, id: "chosen"}, chosen.title), "."),
    warning,
    facts(chosen),
    h(
      "p",
      {class: "muted"},
      notes.join(" ") +
        ` Leakage is R2 of the strongest attack that was run (${chosen.attack || "none"}); a stronger one may see more.` +
        left,
    ),
  ];
}

const AXES = {
  r2: "leakage: R2 of the strongest attack",
  mib_per_client: "MiB per client",
  client_parameters: "client parameters",
  client_macs_per_image: "client MACs per image",
};

// Where a logarithmic axis draws 0: at its edge, a little below the least positive value.
function zeroEdge(values) {
  const positive = values.filter((v) => v > 0);
  if (!positive.length || positive.length === values.length) return null;
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  return low / Math.max(2, (high / low) ** 0.12);
}

function tradeoff(width, groups, key) {
  const points = groups.filter((g) => g.values.accuracy && g.values[key]);
  if (!points.length) return null;
  const values = points.map((g) => mean(g, key)),
    log = key !== "r2" && values.some((v) => v > 0),
    edge = log ? zeroEdge(values) : null,
    at = (v) => (edge !== null && v <= 0 ? edge : v),
    label = AXES[key] + (!log ? "" : edge === null ? " (log)" : " (log; 0 at the left edge)");
  const best = front(groups),
    chosen = recommend(groups, budget, goal);
  const x = (g) => at(mean(g, key)),
    y = (g) => 100 * mean(g, "accuracy");
  const ofFront = points.filter((g) => best.includes(g));
  const limit = budget[{r2: "leakage", mib_per_client: "mib", client_macs_per_image: "macs"}[key]];
  const ruler = (name, dash) => {
    const all = groups.map((g) => mean(g, name)).filter(known);
    return all.length
      ? [Plot.ruleY([(100 * all.reduce((a, b) => a + b)) / all.length], {stroke: "var(--muted)", strokeDasharray: dash})]
      : [];
  };
  return {
    width,
    height: Math.min(420, 220 + width / 4),
    x: {label, type: log ? "log" : "linear", nice: !log, grid: !log},
    y: {label: `accuracy (%), ${data.accuracy || ""}`, grid: true, nice: true},
    ...looks(),
    marks: [
      ...ruler("raw_pixels", "2,3"),
      ...ruler("untrained", "7,4"),
      key === "r2" ? Plot.ruleX([0], {stroke: "var(--muted)", strokeDasharray: "2,3"}) : null,
      edge !== null ? Plot.ruleX([edge], {stroke: "var(--muted)", strokeDasharray: "1,3"}) : null,
      Number.isFinite(limit) ? Plot.ruleX([at(limit)], {stroke: "var(--link)", strokeWidth: 2, strokeOpacity: 0.7}) : null,
      Number.isFinite(budget.accuracy)
        ? Plot.ruleY([100 * budget.accuracy], {stroke: "var(--link)", strokeWidth: 2, strokeOpacity: 0.7})
        : null,
      Plot.ruleX(points, {
        x,
        y1: (g) => 100 * ends(g.values.accuracy)[0],
        y2: (g) => 100 * ends(g.values.accuracy)[1],
        stroke: "series",
        strokeOpacity: 0.5,
      }),
      Plot.ruleY(points, {
        y,
        x1: (g) => clip(ends(g.values[key])[0], log, x(g)),
        x2: (g) => at(ends(g.values[key])[1]),
        stroke: "series",
        strokeOpacity: 0.5,
      }),
      Plot.dot(ofFront, {x, y, r: 9, stroke: "var(--ink)", strokeWidth: 1.2, strokeDasharray: "2,2"}),
      chosen && points.includes(chosen) ? Plot.dot([chosen], {x, y, r: 12, stroke: "var(--link)", strokeWidth: 2.5}) : null,
      Plot.dot(points, {x, y, fill: "series", symbol: "series", r: 4.5, href: place, ariaLabel: describe}),
      Plot.text(points.length > 24 ? ofFront : points, {x, y, text: (g) => String(g.cut), dx: 9, dy: -8, fill: "var(--ink)", fontSize: 11}),
      Plot.tip(points, Plot.pointer({x, y, title: describe, ...tipLook})),
    ],
  };
}

function decide() {
  const root = document.getElementById("decide-app");
  if (!placed(data.groups).length) {
    root.replaceChildren(h("p", {}, "There is nothing to choose from yet: no setting has both an accuracy and an attack."));
    return;
  }
  if (known(data.budget)) budget.leakage = data.budget;
  const select = h(
    "select",
    {
      id: "goal",
      onchange: () => {
        goal = select.value;
        redecide();
      },
    },
    [
      ["accurate", "most accurate"],
      ["private", "leaks least"],
      ["cheap", "least traffic"],
    ].map(([value, text]) => h("option", {value}, text)),
  );
  const axis = h(
    "select",
    {id: "tradeoff-axis", onchange: () => redecide()},
    Object.entries(AXES)
      .filter(([key]) => data.groups.some((g) => g.values[key]))
      .map(([key, text]) => h("option", {value: key}, text)),
  );
  const answer = h("div", {id: "recommendation", "aria-live": "polite"}),
    drawing = h("div", {class: "chart", id: "tradeoff"}),
    listed = h("div", {id: "front"});
  const controls = h(
    "form",
    {class: "controls", onsubmit: (e) => e.preventDefault()},
    h("div", {class: "slider"}, h("label", {for: "goal"}, "I want"), select),
    slider({name: "leakage", key: "r2", title: "Leakage (R2)", style: "ratio"}),
    slider({name: "mib", key: "mib_per_client", title: "MiB per client", style: "mib", log: true}),
    slider({name: "macs", key: "client_macs_per_image", title: "Client MACs per image", style: "count", log: true}),
    slider({name: "accuracy", key: "accuracy", title: "Accuracy", style: "percent", floor: true}),
  );
  root.replaceChildren(
    h(
      "div",
      {class: "decide"},
      h("div", {}, controls, answer),
      h(
        "figure",
        {},
        h("div", {class: "slider"}, h("label", {for: "tradeoff-axis"}, "Accuracy against"), axis),
        drawing,
        h(
          "figcaption",
          {},
          "Each point is a setting, its number the cut. Dashed rings: the Pareto front over accuracy, leakage and MiB per client (no other setting is at least as good in all three and better in one). Blue: the budget, and the recommended setting. Grey: raw pixels (dotted), an untrained network (dashed).",
        ),
      ),
    ),
    listed,
  );
  const draw = chart(drawing, (width) => tradeoff(width, shown(), axis.value));
  redecide = () => {
    const groups = shown();
    answer.replaceChildren(...advise(groups).filter(Boolean));
    listed.replaceChildren(frontTable(front(groups)));
    draw();
  };
  follow(redecide);
}

function frontTable(groups) {
  const column = (head, key, style) => ({
    head,
    num: true,
    cell: (g) => (g.values[key] ? [linked(place(g), write[style](mean(g, key))), h("small", {}, spread(g.values[key], style))] : DASH),
  });
  return h(
    "details",
    {open: groups.length <= 8},
    h("summary", {}, `Pareto front: ${groups.length} ${groups.length === 1 ? "setting" : "settings"}`),
    table(
      [
        {head: "Setting", cell: (g) => linked("#" + g.anchor, g.title)},
        column("Accuracy", "accuracy", "percent"),
        column("R2", "r2", "ratio"),
        column("MiB per client", "mib_per_client", "mib"),
        column("Client parameters", "client_parameters", "count"),
        {head: "Strongest attack", cell: (g) => g.attack || DASH},
      ],
      groups,
      "Pareto front",
    ),
  );
}
