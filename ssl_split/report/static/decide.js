"use strict";
// The recommendation. decide.py says the same in Python; a test holds the two together.

const LIMITS = [
  ["leakage", "r2"],
  ["mib", "mib_per_client"],
  ["macs", "client_macs_per_image"],
];

// An attack that fails worse than a guess is as blind as one that only guesses.
const leakage = (g) => Math.max(mean(g, "r2"), 0);

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
    const all = {accurate: mean(g, "accuracy"), private: -leakage(g), cheap: -(mean(g, "mib_per_client") ?? Infinity)};
    return [all[goal], all.accurate, all.private, all.cheap];
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
  const all = placed(groups),
    objectives = all.map((g) => [-mean(g, "accuracy"), leakage(g), mean(g, "mib_per_client")]);
  const dominates = (one, other) => {
    let better = false;
    for (let i = 0; i < one.length; i++) {
      if (!known(one[i]) || !known(other[i])) continue;
      if (one[i] > other[i]) return false;
      better ||= one[i] < other[i];
    }
    return better;
  };
  return all
    .filter((_, i) => !objectives.some((other) => dominates(other, objectives[i])))
    .sort((a, b) => mean(b, "accuracy") - mean(a, "accuracy"));
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
    .map((g) => (key === "r2" ? leakage(g) : mean(g, key)))
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

function advise(groups, chosen) {
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
        `Its accuracy is not clearly above ${ruled.map((r) => (r === "untrained" ? "an untrained network" : "raw pixels")).join(" and ")}: within these budgets nothing shows that more was learned than they give.`,
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
  const now = {groups: [], best: [], chosen: null};
  const draw = chart(drawing, (width) => tradeoff(width, now, axis.value));
  redecide = () => {
    now.chosen = recommend(now.groups, budget, goal);
    answer.replaceChildren(...advise(now.groups, now.chosen).filter(Boolean));
    draw();
  };
  follow(() => {
    now.groups = shown();
    now.best = front(now.groups);
    listed.replaceChildren(frontTable(now.best));
    redecide();
  });
}

function frontTable(groups) {
  const column = (head, key, style) => ({
    head,
    num: true,
    cell: (g) => (g.values[key] ? [linked(place(g), write[style](mean(g, key))), h("small", {}, spread(g.values[key], style))] : DASH),
  });
  const columns = [
    {head: "Setting", cell: (g) => linked("#" + g.anchor, g.title)},
    column("Accuracy", "accuracy", "percent"),
    column("R2", "r2", "ratio"),
    column("MiB per client", "mib_per_client", "mib"),
    column("Client parameters", "client_parameters", "count"),
    {head: "Strongest attack", cell: (g) => g.attack || DASH},
  ];
  const made = h("details", {}, h("summary", {}, `Pareto front: ${groups.length} ${groups.length === 1 ? "setting" : "settings"}`));
  const fill = () => {
    if (made.open && made.childElementCount === 1) made.append(table(columns, groups, "Pareto front"));
  };
  made.addEventListener("toggle", fill);
  made.open = groups.length <= 8;
  fill();
  return made;
}
