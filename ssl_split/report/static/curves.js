"use strict";
// Learning and divergence curves: one panel per algorithm with a line per cut, or the other way round.

const VIRIDIS = ["#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#a5d92f"];
// From the lowest to the highest; a single value gets room to both sides.
function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low < high ? [low, high] : [low - 0.5 * Math.abs(low || 1), high + 0.5 * Math.abs(high || 1)];
}

const shade = (i, count) => VIRIDIS[Math.round((i / Math.max(count - 1, 1)) * (VIRIDIS.length - 1))];

function panels(node, curve, across, groups) {
  const rows = groups.filter((g) => curve.lines[g.place]);
  const key = (g) => (across ? `cut ${g.cut}` : g.series),
    line = (g) => (across ? g.series : String(g.cut));
  const names = [...new Set(rows.map(key))],
    lines = across ? data.series : data.cuts.map(String);
  const color = across ? data.series.map(colorOf) : lines.map((_, i) => shade(i, lines.length));
  const every = rows.flatMap((g) => curve.lines[g.place]);
  const ys = every.flatMap((p) => p.slice(1)).filter((v) => known(v) && (!curve.log || v > 0)),
    xs = every.map((p) => p[0]).filter(known);
  if (!ys.length) {
    node.replaceChildren(h("p", {class: "muted"}, "There is nothing to draw for these settings."));
    return;
  }
  const far = curve.x !== "round" && Math.max(...xs) > 100 * Math.max(Math.min(...xs), 1e-9) && Math.min(...xs) > 0;
  node.replaceChildren(
    ...names.map((name, i) => {
      const part = h("div", {class: "chart panel"});
      chart(part, (width) => ({
        width,
        height: 250,
        title: across ? name : brief(name),
        x: {label: curve.x, type: far ? "log" : "linear", domain: range(xs)},
        y: {
          label: i ? null : curve.label,
          grid: true,
          type: curve.log ? "log" : "linear",
          domain: range(ys),
          nice: !curve.log,
          ticks: 5,
        },
        color: {
          domain: lines,
          range: color,
          tickFormat: across ? brief : undefined,
          legend: i === 0 && lines.length > 1 && (!across || lines.length <= FEW),
          ...(across ? {} : {label: "cut"}),
        },
        marks: rows
          .filter((g) => key(g) === name)
          .flatMap((g) => {
            const points = curve.lines[g.place].filter((p) => known(p[0]) && known(p[1]) && (!curve.log || p[1] > 0));
            return [
              points.length && points[0].length > 2
                ? Plot.areaY(points, {x: "0", y1: "2", y2: "3", fill: color[lines.indexOf(line(g))], fillOpacity: 0.18})
                : null,
              Plot.line(points, {
                x: "0",
                y: "1",
                stroke: color[lines.indexOf(line(g))],
                strokeWidth: 1.5,
                strokeDasharray: across ? dashOf(g.series) : DASHES[lines.indexOf(line(g)) % DASHES.length],
              }),
              points.length < 3 ? Plot.dot(points, {x: "0", y: "1", fill: color[lines.indexOf(line(g))], r: 3}) : null,
              Plot.tip(
                points,
                Plot.pointer({
                  x: "0",
                  y: "1",
                  maxRadius: 12,
                  title: (p) => `${g.title}\n${curve.x} ${write.plain(p[0])}: ${write.plain(p[1])}`,
                  ...tipLook,
                }),
              ),
            ];
          }),
      }))();
      return part;
    }),
  );
}

function curves() {
  const root = document.getElementById("curves");
  if (!data.curves.length) {
    root.remove();
    return;
  }
  let across = data.cuts.length < data.series.length;
  const select = h(
    "select",
    {
      id: "panels",
      onchange: () => {
        across = select.value === "cut";
        for (const draw of drawn) draw();
      },
    },
    h("option", {value: "series", selected: !across}, "algorithm"),
    h("option", {value: "cut", selected: across}, "cut"),
  );
  root.append(h("div", {class: "slider"}, h("label", {for: "panels"}, "One panel for each"), select));
  const drawn = data.curves.map((curve, i) => {
    const node = h("div", {class: "panels"});
    const draw = () =>
      later(node, () => {
        pending.delete(node);
        panels(node, curve, across, shown());
      });
    const made = h(
      "details",
      {id: `figure-${curve.name}`, open: i < 2},
      h("summary", {}, h("b", {}, curve.title), " ", h("small", {}, curve.caption)),
      node,
    );
    root.append(made);
    follow(draw);
    return draw;
  });
}
