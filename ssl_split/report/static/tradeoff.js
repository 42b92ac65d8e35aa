"use strict";
// Accuracy against what it costs: the chart beside the recommendation.

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

function tradeoff(width, {groups, best, chosen}, key) {
  const points = groups.filter((g) => g.values.accuracy && g.values[key]);
  if (!points.length) return null;
  const values = points.map((g) => mean(g, key)),
    log = key !== "r2" && values.some((v) => v > 0),
    edge = log ? zeroEdge(values) : null,
    at = (v) => (edge !== null && v <= 0 ? edge : v),
    label = AXES[key] + (!log ? "" : edge === null ? " (log)" : " (log; 0 at the left edge)");
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
