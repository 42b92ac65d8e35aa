"use strict";
// The matrix of attacks, every probe and attack, and each run with all that is known of it.

const rowsOf = (groups, kind, test) =>
  groups.flatMap((g) =>
    g.members.flatMap((run) => (run.outcomes || []).filter((o) => o.kind === kind && (!test || test(o))).map((o) => ({g, run, o}))),
  );

// A number whose background tells by lightness how much is seen, from 0 to 1: for print and colour-blind readers too.
function shaded(link, share) {
  link.classList.add("heat");
  link.style.background = `color-mix(in oklab, var(--heat) ${Math.round(80 * Math.min(Math.max(share, 0), 1))}%, transparent)`;
  return link;
}

function matrix() {
  const root = document.getElementById("matrix-body");
  if (!root) return;
  const made = (g, label) => g.members.some((run) => (run.outcomes || []).some((o) => o.kind === "attack" && o.label === label));
  const cell = (attack) => (g) => {
    const found = attack.cells[g.place];
    if (found) {
      const [value, share, seeds] = found;
      const title = `${attack.label}, ${attack.measure}, ${seeds} of ${g.seeds} seeds`;
      return shaded(h("a", {href: place(g), title}, value.toFixed(2)), share);
    }
    const lost = g.members.some((run) => run.state !== "finished" || run.jobs);
    return made(g, attack.label) ? "no number" : lost ? h("a", {class: "missing", href: "#missing"}, "missing") : DASH;
  };
  const columns = [
    {head: "Cut", cell: (g) => g.cut},
    {head: "Algorithm", cell: (g) => linked("#" + g.anchor, g.series)},
    ...data.matrix.map((attack) => ({
      head: attack.measure ? `${attack.label}: ${attack.measure}` : attack.label,
      num: true,
      cell: cell(attack),
    })),
  ];
  follow(() => root.replaceChildren(table(columns, shown(), "Matrix of attacks")));
}

const setting = () => (data.settings.length > 1 ? [{head: "Setting", cell: (r) => r.g.setting}] : []);
const common = () => [
  {head: "Cut", cell: (r) => r.g.cut},
  {head: "Algorithm", cell: (r) => r.g.algorithm},
  ...setting(),
  {head: "Seed", num: true, cell: (r) => linked("#" + r.run.anchor, String(r.run.seed))},
];
const score = (head, key, style, ruler) => ({
  head,
  num: true,
  ruler,
  cell: (r) => (known(r.o.scores[key]) ? linked("#" + r.run.anchor, write[style](r.o.scores[key])) : DASH),
});
const interval = (r) =>
  known(r.o.scores.low)
    ? h("small", {}, ` [${write.percent(r.o.scores.low)}, ${write.percent(r.o.scores.high)}]`.replaceAll(" %", ""))
    : null;

function outcomes() {
  const root = document.getElementById("outcomes-body");
  if (!root) return;
  const paint = () => {
    pending.delete(root);
    const groups = shown(),
      parts = [];
    const probes = rowsOf(groups, "probe"),
      rebuilt = rowsOf(groups, "attack", (o) => known(o.scores.mse));
    if (probes.length)
      parts.push(
        h("h3", {}, "Probes"),
        table(
          [
            ...common(),
            {head: "Probe", cell: (r) => r.o.label},
            {head: "Features", cell: (r) => r.o.features || DASH},
            {head: "Accuracy", num: true, cell: (r) => [linked("#" + r.run.anchor, write.percent(r.o.scores.accuracy)), interval(r)]},
            score("Raw pixels", "raw_pixels", "percent", true),
            score("Untrained", "untrained", "percent", true),
            {head: "Test images", num: true, cell: (r) => r.o.test_images ?? DASH},
          ],
          probes,
          "All probes",
        ),
      );
    if (rebuilt.length)
      parts.push(
        h("h3", {}, "Attacks that rebuild images"),
        table(
          [
            ...common(),
            {head: "Attack", cell: (r) => [r.o.label, r.o.strongest ? " (strongest)" : null]},
            score("R2", "r2", "ratio"),
            score("untrained", "untrained_r2", "ratio", true),
            score("MSE", "mse", "score"),
            score("blind", "blind_mse", "score", true),
            score("untrained", "untrained_mse", "score", true),
            score("PSNR", "psnr", "plain"),
            score("SSIM", "ssim", "ratio"),
            score("blind", "blind_ssim", "ratio", true),
            score("Validation MSE", "validation_mse", "score"),
            score("Identified", "identified_top1", "percent"),
            score("by chance", "identified_chance", "percent", true),
            score("Class told", "class_told", "percent"),
            score("of the truth", "class_told_of_truth", "percent", true),
            {head: "Targets", num: true, cell: (r) => r.o.targets ?? DASH},
            {head: "Attacker's images", num: true, cell: (r) => r.o.aux ?? DASH},
            {head: "Attacker's seeds", num: true, cell: (r) => r.o.seeds ?? DASH},
            {head: "Needs", cell: (r) => (r.o.needs || []).join(", ")},
          ],
          rebuilt,
          "All attacks that rebuild images",
        ),
      );
    for (const [title, list] of [
      ["Attacks that tell who was among the training images", data.memberships],
      ["Attacks that tell an image's class", data.labels],
    ]) {
      const seen = new Map(groups.map((g) => [g.anchor, g])),
        rows = list.filter((f) => seen.has(f.group)).map((f) => ({f, g: seen.get(f.group), run: data.byAnchor.get(f.run)}));
      if (!rows.length) continue;
      const at = (r, v) => (known(v) ? linked("#" + r.run.anchor, write.ratio(v)) : DASH);
      parts.push(
        h("h3", {}, title),
        table(
          [
            ...common(),
            {head: "Attack", cell: (r) => r.f.label},
            {head: "Measure", cell: (r) => r.f.measure},
            {
              head: "Value",
              num: true,
              cell: (r) => [
                at(r, r.f.value),
                known(r.f.low) ? h("small", {}, ` [${write.ratio(r.f.low)}, ${write.ratio(r.f.high)}]`) : null,
              ],
            },
            {head: "Guessing", num: true, ruler: true, cell: (r) => at(r, r.f.chance)},
            {head: "Untrained", num: true, ruler: true, cell: (r) => at(r, r.f.rulers.untrained)},
            ...(rows.some((r) => known(r.f.rulers.pixels))
              ? [{head: "Raw pixels", num: true, ruler: true, cell: (r) => at(r, r.f.rulers.pixels)}]
              : []),
            {head: "How", cell: (r) => r.f.way},
            {head: "Needs", cell: (r) => r.f.needs},
          ],
          rows,
          title,
        ),
      );
    }
    root.replaceChildren(...parts);
  };
  follow(() => later(root, paint)); // thousands of cells, far below
}

const yaml = (values) =>
  Object.entries(values)
    .map(([k, v]) => `${k}: ${v !== null && typeof v === "object" ? JSON.stringify(v) : v}`)
    .join("\n");
const said = (term, ...text) => (text.every((t) => t === null || t === undefined) ? [] : [h("dt", {}, term), h("dd", {}, text)]);

function scores(o) {
  const s = o.scores;
  if (o.kind === "probe")
    return `${write.percent(s.accuracy)} (raw pixels ${write.percent(s.raw_pixels)}, untrained ${write.percent(s.untrained)})`;
  if (!known(s.mse)) return o.verdict || "no number";
  return `MSE ${write.score(s.mse)} (blind ${write.score(s.blind_mse)}, untrained ${write.score(s.untrained_mse)}), SSIM ${write.ratio(s.ssim)}, R2 ${write.ratio(s.r2)}.${o.verdict ? " " + o.verdict : ""}`;
}

// How a probe or attack was told to work, and what computed it.
function provenance(run, o) {
  const options = data.options[o.options],
    env = data.environments[o.environment];
  return h(
    "details",
    {},
    h("summary", {}, h("small", {}, env && env.commit ? `Options, environment (commit ${env.commit})` : "Options, environment")),
    h("pre", {}, options ? yaml(options) : "options not recorded"),
    env && o.environment === run.environment
      ? h("small", {}, "Environment: that of the training.")
      : h("pre", {}, env ? yaml(env) : "environment not recorded"),
  );
}

function details(run) {
  const t = run.training || {},
    group = data.groups[run.group],
    env = run.environment === undefined ? null : data.environments[run.environment],
    config = {...data.shared, ...(run.config || {})};
  const parts = [
    h(
      "dl",
      {},
      said("State", run.state + (run.reason ? `: ${run.reason}` : "")),
      said("Setting", `${group.title}, seed ${run.seed}, ${config.dataset ?? "?"}`),
      said("Command", h("code", {}, run.command || "not recorded")),
      said("Directory", h("code", {}, run.directory)),
      known(t.seconds)
        ? said(
            "Training",
            `${write.seconds(t.seconds)}, ${t.steps ?? "?"} steps, ${t.rounds ?? "?"} rounds, ${write.plain(t.images_per_second)} images/s, last loss ${write.plain(t.loss)}` +
              (known(t.collapse_std) ? `, std of normalised projections ${write.plain(t.collapse_std)}` : ""),
          )
        : [],
      known(t.mib_per_client)
        ? said(
            "Wire",
            `smashed data ${(run.smashed || ["?"]).join("×")}; per client ${write.mib(t.mib_per_client)} MiB counted, ${write.mib(t.mib_per_client_closed_form)} by the closed form, ${write.mib(t.mib_per_client_published_formula)} by the published formula; client ${write.count(t.client_parameters)} parameters and ${write.count(t.client_macs_per_image)} MACs per image, server ${write.count(t.server_parameters)} and ${write.count(t.server_macs_per_image)}`,
          )
        : [],
      known(t.virtual_seconds)
        ? said(
            "Virtual time",
            `${write.large(t.virtual_seconds)} s` +
              (known(t.waiting_share_fastest)
                ? `, of which the fastest client waits ${write.percent(t.waiting_share_fastest)}, clients on average ${write.percent(t.waiting_share_mean)}`
                : "") +
              `; ${write.giga(t.client_flops_mean)} GFLOPs by the mean client, ${write.giga(t.server_flops)} by the server`,
          )
        : [],
      run.reached
        ? said(
            "Target",
            known(run.reached.rounds)
              ? `${write.percent(run.reached.target)} reached after ${write.large(run.reached.rounds)} rounds, ${write.mib(run.reached.mib)} MiB of all clients, ${write.large(run.reached.virtual_seconds)} virtual seconds`
              : `${write.percent(run.reached.target)} never reached`,
          )
        : [],
      env ? said("Environment", run.machine || "not recorded") : [],
      (run.problems || []).map((p) => said("Problem", p)),
      (run.jobs || []).map((j) =>
        said(j.state, `${j.label}${j.reason ? `: ${j.reason}` : ""} `, h("small", {}, "(", h("code", {}, j.command), `, log ${j.log})`)),
      ),
      (run.outcomes || []).map((o) =>
        said(
          `${o.kind === "probe" ? "Probe" : "Attack"} ${o.label}`,
          scores(o) + " ",
          h("small", {}, `${write.seconds(o.seconds)}, `, h("code", {}, o.command || "command not recorded"), `, ${o.directory}`),
          provenance(run, o),
        ),
      ),
    ),
  ];
  if (run.bytes)
    parts.push(
      h(
        "details",
        {},
        h("summary", {}, "Bytes by kind"),
        table(
          [
            {head: "Kind", cell: (b) => b[1]},
            {head: "Direction", cell: (b) => b[0]},
            {head: "MiB, all clients", num: true, cell: (b) => linked("#" + run.anchor, write.mib(b[2] / 1048576))},
          ],
          run.bytes,
          "Bytes by kind",
        ),
      ),
    );
  parts.push(h("details", {}, h("summary", {}, "Configuration"), h("pre", {}, yaml(config))));
  if (env) parts.push(h("details", {}, h("summary", {}, "Environment"), h("pre", {}, yaml(env))));
  return parts;
}

function seedTable(group) {
  const shownColumns = data.columns.filter((c) => !c.ruler && group.values[c.key]);
  const part = (run, key) => (group.values[key][5] || {})[run.anchor];
  return table(
    [
      {head: "Seed", cell: (run) => linked("#" + run.anchor, String(run.seed))},
      {head: "State", cell: (run) => run.state},
      ...shownColumns.map((c) => ({
        head: `${c.part}: ${c.head}`,
        num: true,
        cell: (run) => (known(part(run, c.key)) ? linked("#" + run.anchor, write[c.style](part(run, c.key))) : DASH),
      })),
    ],
    group.members,
    `Seeds of ${group.title}`,
  );
}

const counted = (group) =>
  group.seeds === group.members.length
    ? `${group.seeds} seeds`
    : `${group.members.length} runs of ${group.seeds} ${group.seeds === 1 ? "seed" : "seeds"}`;

function runs() {
  for (const node of document.querySelectorAll("details[data-run]")) {
    const fill = () => {
      if (node.open && !node.dataset.filled) {
        node.dataset.filled = "yes";
        node.append(...details(data.byAnchor.get(node.id)));
      }
    };
    node.addEventListener("toggle", fill);
    node.fill = fill;
  }
  for (const group of data.groups) {
    const node = document.getElementById(group.anchor);
    if (node && group.members.length > 1)
      node.querySelector("h3").after(
        h(
          "details",
          {
            class: "seeds",
            ontoggle: (e) => {
              const d = e.target;
              if (d.open && d.childElementCount === 1) d.append(seedTable(group));
            },
          },
          h("summary", {}, `${counted(group)} side by side`),
        ),
      );
  }
  const go = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const inside = target.matches("details") ? target : target.querySelector(":scope > details.seeds, :scope > details[data-run]");
    if (inside) {
      inside.open = true;
      if (inside.fill) inside.fill();
    }
    const hidden = target.closest("[hidden]");
    if (hidden) hidden.hidden = false;
    target.scrollIntoView();
  };
  window.addEventListener("hashchange", go);
  go();
}
