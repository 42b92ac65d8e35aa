"use strict";
// Reconstructions as a grid of images by cuts; every sprite is decoded when its column is first seen. A tile that is chosen grows.

const sheets = new Map(); // anchor of a run -> promise of its decoded sprite
function sheet(anchor) {
  if (!sheets.has(anchor)) {
    const node = document.getElementById(`sprite-${anchor}`);
    const image = new Image();
    image.src = `data:image/webp;base64,${node.textContent.trim()}`;
    sheets.set(
      anchor,
      image.decode().then(() => image),
    );
  }
  return sheets.get(anchor);
}

const spriteOf = (group) => {
  const run = group.members.find((r) => data.sprites[r.anchor]);
  return run ? {run, ...data.sprites[run.anchor]} : null;
};

async function paint(canvas, sprite, row, column) {
  const [width, height] = sprite.size;
  canvas.width = width;
  canvas.height = height;
  try {
    const image = await sheet(sprite.run.anchor);
    canvas.getContext("2d").drawImage(image, column * width, row * height, width, height, 0, 0, width, height);
  } catch {
    canvas.replaceWith(h("span", {class: "missing"}, "damaged"));
  }
}

const tiles = new IntersectionObserver(
  (entries) => {
    for (const e of entries)
      if (e.isIntersecting) {
        tiles.unobserve(e.target);
        e.target.paint();
      }
  },
  {rootMargin: "300px"},
);

function tile(sprite, row, column, text) {
  const canvas = h("canvas", {role: "img", "aria-label": text, class: "tile"});
  canvas.paint = () => paint(canvas, sprite, row, column);
  tiles.observe(canvas);
  return canvas;
}

// What of a sprite belongs to one attack: its row, and that of its originals.
function rowsIn(sprite, label) {
  const row = sprite.rows.indexOf(label),
    own = sprite.rows.indexOf(`original of ${label}`);
  return row < 0 ? null : {row, original: own < 0 ? 0 : own};
}

function enlarge(groups, label, at, column) {
  const dialog = document.getElementById("large");
  const show = () => {
    const group = groups[at],
      sprite = spriteOf(group);
    const rows = sprite.rows.map((name, i) => ({name, i})).filter(({name}) => !name.startsWith("original of "));
    const big = ({name, i}) => {
      const canvas = h("canvas", {class: "big", role: "img", "aria-label": `${name}, image ${column + 1}`});
      paint(canvas, sprite, i, column);
      return h("figure", {class: name === label ? "chosen" : null}, canvas, h("figcaption", {}, name));
    };
    const own = rowsIn(sprite, label);
    const list =
      own && own.original
        ? [
            {name: `original of ${label}`, i: own.original},
            {name: label, i: own.row},
          ]
        : rows;
    dialog.replaceChildren(
      h(
        "header",
        {},
        h("b", {}, `${group.title}, image ${column + 1} of ${sprite.images}`),
        " ",
        linked("#" + sprite.run.anchor, `run of seed ${sprite.run.seed}`),
        h(
          "span",
          {class: "buttons"},
          [
            ["‹ image", 0, -1],
            ["image ›", 0, 1],
            ["‹ column", -1, 0],
            ["column ›", 1, 0],
          ].map(([text, cut, image]) => h("button", {type: "button", onclick: () => move(cut, image)}, text)),
          h("button", {type: "button", class: "close", onclick: () => dialog.close()}, "Close"),
        ),
      ),
      h("div", {class: "bigs"}, list.map(big)),
      h("p", {class: "muted"}, "Arrow keys: next image, next column. Escape closes."),
    );
    if (dialog.open) dialog.focus();
  };
  const move = (cut, image) => {
    at = (at + cut + groups.length) % groups.length;
    column = (column + image + spriteOf(groups[at]).images) % spriteOf(groups[at]).images;
    show();
  };
  dialog.onkeydown = (e) => {
    const way = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[e.key];
    if (way) {
      e.preventDefault();
      move(...way);
    }
  };
  dialog.onclick = (e) => {
    if (e.target === dialog || (e.target.tagName === "A" && e.target.getAttribute("href"))) dialog.close();
  };
  show();
  dialog.showModal();
  dialog.focus();
}

function pictures() {
  const root = document.getElementById("pictures-body");
  if (!root) return;
  const STRONGEST = "strongest attack";
  const labels = [STRONGEST, ...data.attacks.filter((label) => Object.values(data.sprites).some((s) => s.rows.includes(label)))];
  const having = data.groups.filter(spriteOf),
    series = [...new Set(having.map((g) => g.series))],
    cuts = data.cuts.filter((c) => having.some((g) => g.cut === c));
  const views = [
    ...series.map((s) => ({text: `cuts of ${brief(s)}`, has: (g) => g.series === s, head: (g) => `cut ${g.cut}`})),
    ...(series.length > 1
      ? cuts.map((c) => ({text: `all settings at cut ${c}`, has: (g) => g.cut === c, head: (g) => brief(g.series)}))
      : []),
  ];
  const attack = h(
    "select",
    {id: "picture-attack", onchange: () => draw()},
    labels.map((l) => h("option", {value: l}, l)),
  );
  const which = h(
    "select",
    {id: "picture-series", onchange: () => draw()},
    views.map((v, i) => h("option", {value: i}, v.text)),
  );
  const lost = h("p", {class: "missing", role: "status"});
  const grid = h("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "Reconstructions"});
  root.append(
    h(
      "div",
      {class: "controls"},
      h("div", {class: "slider"}, h("label", {for: "picture-series"}, "Columns"), which),
      h("div", {class: "slider"}, h("label", {for: "picture-attack"}, "Attack"), attack),
    ),
    grid,
    lost,
  );
  function draw() {
    const view = views[Number(which.value)],
      groups = shown().filter(view.has);
    const asked = groups.map((group) => {
      const sprite = spriteOf(group),
        outcomes = (sprite ? sprite.run : group.members[0]).outcomes || [];
      const chosen = outcomes.find((o) => o.kind === "attack" && (attack.value === STRONGEST ? o.strongest : o.label === attack.value));
      return {group, sprite, outcome: chosen, label: chosen?.label, own: chosen && sprite ? rowsIn(sprite, chosen.label) : null};
    });
    const columns = asked.filter((c) => c.own);
    const without = asked.filter((c) => c.outcome && !c.own).map((c) => c.group.title);
    lost.textContent = without.length ? `Missing or damaged pictures: ${without.join("; ")}.` : "";
    if (!columns.length) {
      grid.replaceChildren(h("p", {class: "muted"}, "No pictures for this choice."));
      return;
    }
    const same = columns.every((c) => c.sprite.originals === columns[0].sprite.originals && c.own.original === 0);
    const images = Math.max(...columns.map((c) => c.sprite.images));
    const button = (c, row, column, what) =>
      h(
        "button",
        {
          type: "button",
          class: "tile",
          "aria-label": `Enlarge ${what}, image ${column + 1}, ${c.group.title}`,
          onclick: () =>
            enlarge(
              columns.map((x) => x.group),
              c.label,
              columns.indexOf(c),
              column,
            ),
        },
        tile(c.sprite, row, column, what),
      );
    const blind = columns[0].sprite.rows.indexOf("blind guess");
    const head = h(
      "tr",
      {},
      same ? h("th", {}, "original") : null,
      columns.map((c) =>
        h(
          "th",
          {colspan: same ? null : 2},
          linked("#" + c.sprite.run.anchor, view.head(c.group)),
          h("small", {}, ` ${attack.value === STRONGEST ? c.label + ", " : ""}R2 ${write.ratio(c.outcome.scores.r2)}`),
        ),
      ),
      same && blind > 0 ? h("th", {}, "blind guess") : null,
    );
    const rows = Array.from({length: images}, (_, i) =>
      h(
        "tr",
        {},
        same ? h("td", {}, button(columns[0], 0, i, "original")) : null,
        columns.map((c) =>
          i >= c.sprite.images
            ? h("td", {colspan: same ? null : 2})
            : [same ? null : h("td", {}, button(c, c.own.original, i, "original")), h("td", {}, button(c, c.own.row, i, c.label))],
        ),
        same && blind > 0 ? h("td", {}, button(columns[0], blind, i, "blind guess")) : null,
      ),
    );
    grid.replaceChildren(h("table", {class: "tiles"}, h("thead", {}, head), h("tbody", {}, rows)));
  }
  follow(draw);
}
