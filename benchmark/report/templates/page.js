"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const NONE = "–";
let board = null, table = null, opener = null;

/** A new element with properties and children; text is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "list") element[key] = value; else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
const svg = (tag, attributes = {}, text = "") => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};
const missing = (value) => value === null || value === undefined || value === "";
const shown = (value, digits) => missing(value) ? NONE
  : typeof value === "number" ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : String(value);
const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const record = (row) => row.links.length ? row.links[0].href : "";
const linked = (row, text) => record(row) && text !== NONE
  ? make("a", { href: record(row), title: row.links.length > 1 ? `first of ${row.links.length} records; all are in the details` : "its record" }, text)
  : document.createTextNode(text);

function cell(column) {
  return (given) => {
    const row = given.getData(), value = given.getValue();
    if (column.kind === "method") {
      const button = make("button", { type: "button", title: "scores by task, records, cost" }, value);
      button.addEventListener("click", () => details(row, button));
      return button;
    }
    const text = column.kind !== "interval" ? shown(value, column.digits)
      : missing(row[column.low]) ? NONE : `${shown(row[column.low], 1)} to ${shown(row[column.high], 1)}`;
    // The table takes a string for HTML, and a node as it is.
    return column.link ? linked(row, text) : document.createTextNode(text);
  };
}

/** Numbers by size with the empty ones last, whichever way they are sorted. */
function sorter(column) {
  return (a, b, rowA, rowB, of, direction) => {
    const left = column.kind === "interval" ? rowA.getData()[column.low] : a;
    const right = column.kind === "interval" ? rowB.getData()[column.low] : b;
    if (missing(left) || missing(right)) return (missing(left) - missing(right)) * (direction === "asc" ? 1 : -1);
    return typeof left === "number" ? left - right : String(left).localeCompare(String(right));
  };
}

function draw(name) {
  board = data.boards.find((each) => each.name === name);
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.name === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${name}`);
  $("title").textContent = board.title;
  $("note").textContent = board.note;
  for (const id of ["search", "access", "storage"]) $(id).value = "";
  $("access").parentElement.hidden = $("storage").parentElement.hidden = $("plot").hidden = !board.ranked;
  close();
  if (table) table.destroy();
  $("count").textContent = "";
  table = new Tabulator("#table", {
    data: board.rows, layout: "fitDataStretch", renderVertical: board.rows.length > 100 ? "virtual" : "basic",
    maxHeight: board.rows.length > 100 ? "40rem" : false,
    placeholder: "no row fits these filters", columnDefaults: { resizable: false },
    columns: board.columns.map((column, place) => ({
      title: escaped(column.title), field: column.field, visible: column.visible, frozen: column.kind === "method",
      hozAlign: column.align, headerHozAlign: column.align, formatter: cell(column), sorter: sorter(column),
      headerSortStartingDir: column.descending ? "desc" : "asc", headerSortTristate: false,
      minWidth: column.field === "published_source" ? 260 : 40,
    })),
    rowFormatter: (row) => { if (row.getData().row !== "method") row.getElement().classList.add("unranked"); },
  });
  table.on("tableBuilt", () => { keyboard(); filter(); });
  table.on("dataFiltered", (filters, rows) => {
    $("count").textContent = `${rows.length} of ${board.rows.length} rows`;
    plot(rows.map((row) => row.getData()));
  });
  $("choices").replaceChildren(...board.columns.filter((column) => column.kind !== "method").map((column) => {
    const box = make("input", { type: "checkbox", checked: column.visible });
    box.addEventListener("change", () => { box.checked ? table.showColumn(column.field) : table.hideColumn(column.field); keyboard(); });
    return make("label", { title: column.meaning }, box, ` ${column.title}`);
  }));
  below();
}

/** Headers say what they mean, and can be reached and pressed by keyboard. */
function keyboard() {
  for (const column of table.getColumns()) {
    const element = column.getElement();
    if (element.dataset.keyboard) continue;
    element.dataset.keyboard = "yes";
    element.tabIndex = 0;
    element.title = board.columns.find((each) => each.field === column.getField()).meaning;
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopImmediatePropagation();
      const sorted = table.getSorters()[0], about = board.columns.find((each) => each.field === column.getField());
      const first = about.descending ? "desc" : "asc";
      const next = sorted && sorted.field === about.field && sorted.dir === first ? (first === "asc" ? "desc" : "asc") : first;
      table.setSort(about.field, next);
    }, true);
  }
}

function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), access = $("access").value, storage = $("storage").value;
  table.setFilter((row) => words.every((word) => row.text.includes(word)) && (!access || row.level === access)
    && (!storage || missing(row.storage_models) || (row.storage_models > 1.0005) === (storage === "more")));
}

function details(row, from) {
  opener = from || document.activeElement;
  const expert = board.rows.find((each) => each.method === "individual");
  const button = make("button", { type: "button", className: "close" }, "Close");
  button.addEventListener("click", close);
  const rows = board.tasks.map((task) => {
    const value = row[task.name], own = expert ? expert[task.name] : null;
    const share = missing(own) || missing(value) ? null : 100 * (task.higher ? value / own : own / value);
    const printed = (row.printed || {})[task.name];
    return make("tr", {}, make("td", {}, `${task.name} ${task.label}`), make("td", {}, linked(row, shown(value, task.digits))),
      make("td", {}, shown(own, task.digits)), make("td", {}, shown(share, 1)),
      make("td", {}, missing(printed) ? NONE : `${shown(printed, task.digits)} (${value >= printed ? "+" : "−"}${shown(Math.abs(value - printed), task.digits)})${(row.outside || []).includes(task.name) ? "*" : ""}`));
  });
  const heads = ["task", "measured", "its expert", "% of expert", "published (gap, * outside of the interval)"].map((text) => make("th", {}, text));
  const facts = Object.entries({
    Title: row.title, Paper: row.paper, "Parameters changed": row.changed, Access: row.access, "Needs the task's id": row.task_id,
    "Published elsewhere": row.published_others, Commit: row.commit, Precision: [row.dtype, row.autocast].filter(Boolean).join(", "),
  }).filter(([, text]) => !missing(text)).flatMap(([name, text]) => {
    const url = String(text).match(/^arXiv:(\d+\.\d+)$/);
    return [make("dt", {}, name), make("dd", {}, url ? make("a", { href: `https://arxiv.org/abs/${url[1]}` }, text) : text)];
  });
  const runs = row.links.map((link) => make("li", {}, link.href ? make("a", { href: link.href }, link.run) : link.run, link.seed === "" ? "" : ` seed ${link.seed}`));
  $("details").replaceChildren(button, make("h3", {}, row.method), board.ranked ? make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)) : "",
    make("dl", {}, ...facts), ...(runs.length ? [make("h3", {}, "Records"), make("ul", {}, ...runs)] : []));
  $("details").hidden = false;
  $("details").focus();
  $("details").scrollIntoView({ block: "nearest" });
}

function close() {
  $("details").hidden = true;
  if (opener && document.contains(opener)) opener.focus();
  opener = null;
}

function plot(rows) {
  $("figure").replaceChildren();
  if (!board.ranked) return;
  const cost = data.costs.find((each) => each.field === $("cost").value) || data.costs[0], score = board.score;
  const kept = rows.filter((row) => !missing(row[cost.field]) && !missing(row[score.field]) && row.row !== "reference");
  const lines = rows.filter((row) => row.row === "reference" && !missing(row[score.field]));
  if (!kept.length) { $("figure").append(make("p", { className: "soft" }, "no row has this cost")); return; }
  const wide = 860, high = 420, left = 60, right = 150, top = 20, bottom = 50;
  const costs = kept.map((row) => row[cost.field]), floor = Math.min(...costs.filter((value) => value > 0), 1) / (cost.log ? 2 : 1);
  const place = (value) => cost.log ? Math.log10(Math.max(value, floor)) : value;
  const range = (values, margin) => { const a = Math.min(...values), b = Math.max(...values), m = (b - a || 1) * margin; return [a - m, b + m]; };
  const [x0, x1] = range(costs.map(place), .05), [y0, y1] = range([...kept, ...lines].map((row) => row[score.field]), .06);
  const x = (value) => left + (place(value) - x0) / (x1 - x0) * (wide - left - right), y = (value) => high - bottom - (value - y0) / (y1 - y0) * (high - top - bottom);
  const figure = svg("svg", { viewBox: `0 0 ${wide} ${high}`, role: "group", "aria-label": `${score.title} against ${cost.title}` });
  const step = (a, b) => { const raw = (b - a) / 6, unit = 10 ** Math.floor(Math.log10(raw)); return [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= raw); };
  for (let tick = Math.ceil(y0 / step(y0, y1)) * step(y0, y1); tick <= y1; tick += step(y0, y1)) {
    figure.append(svg("line", { class: "axis", x1: left, x2: wide - right, y1: y(tick), y2: y(tick) }), svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, shown(tick, 0)));
  }
  const ticks = [];
  if (cost.log) for (let power = Math.ceil(x0); power <= x1; power++) ticks.push(10 ** power);
  else for (let tick = Math.ceil(x0 / step(x0, x1)) * step(x0, x1); tick <= x1; tick += step(x0, x1)) ticks.push(tick);
  for (const tick of ticks) figure.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: top, y2: high - bottom }), svg("text", { x: x(tick), y: high - bottom + 18, "text-anchor": "middle" }, tick.toLocaleString("en-US")));
  figure.append(svg("text", { x: (left + wide - right) / 2, y: high - 12, "text-anchor": "middle" }, cost.title + (cost.log ? " (log)" : "")));
  figure.append(svg("text", { x: 14, y: (top + high - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(top + high - bottom) / 2})` }, score.title));
  for (const row of lines) figure.append(svg("line", { x1: left, x2: wide - right, y1: y(row[score.field]), y2: y(row[score.field]), stroke: "var(--reference)", "stroke-dasharray": "5 4" }),
    svg("text", { x: wide - right + 6, y: y(row[score.field]) + 4, class: "soft" }, row.method));
  const best = kept.filter((row) => !kept.some((other) => other !== row && other[cost.field] <= row[cost.field] && other[score.field] > row[score.field]));
  const taken = kept.map((row) => { const [a, b] = [x(row[cost.field]), y(row[score.field])]; return [a - 5, b - 5, a + 5, b + 5]; });
  const name = (text, a, b) => {
    const size = 7 * text.length;
    for (const [dx, dy] of [[8, -6], [8, 16], [-8 - size, -6], [-8 - size, 16]]) {
      const box = [a + dx, b + dy - 11, a + dx + size, b + dy + 2];
      if (box[0] < left || box[2] > wide || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      figure.append(svg("text", { x: box[0], y: b + dy }, text));
      return;
    }
  };
  for (const row of kept) {
    const at = [x(row[cost.field]), y(row[score.field])], text = `${row.method}: ${shown(row[score.field], 1)} at ${shown(row[cost.field], cost.digits)} ${cost.title}`;
    const point = svg("g", { role: "button", tabindex: 0, "aria-label": text });
    if (!missing(row[score.low])) point.append(svg("line", { x1: at[0], x2: at[0], y1: y(Math.max(y0, row[score.low])), y2: y(Math.min(y1, row[score.high])), stroke: `var(--${row.level})`, "stroke-width": 2 }));
    point.append(svg("circle", { cx: at[0], cy: at[1], r: 5, fill: `var(--${row.level})`, "fill-opacity": .85 }), svg("title", {}, text));
    if (best.includes(row)) name(row.method, ...at);
    point.addEventListener("click", () => details(row, point));
    point.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); details(row, point); } });
    figure.append(point);
  }
  ["none", "unlabelled", "labelled"].filter((level) => kept.some((row) => row.level === level)).forEach((level, number) => figure.append(
    svg("circle", { cx: wide - right + 12, cy: high - bottom - 50 + 18 * number, r: 5, fill: `var(--${level})` }),
    svg("text", { x: wide - right + 22, y: high - bottom - 46 + 18 * number, class: "soft" }, level === "none" ? "no data" : `${level} data`)));
  $("figure").append(figure, make("p", { className: "soft" }, "Named, where there is room: no cheaper method scores higher. Bars: 95 % intervals. A point opens its details."));
}

function below() {
  const parts = [];
  if (board.incomplete.length) parts.push(make("h3", {}, "Incomplete runs, in no mean above"), make("ul", {}, ...board.incomplete.map((text) => make("li", {}, text))));
  if (board.facts.length) parts.push(make("h3", {}, "Where the numbers come from"), make("ul", {}, ...board.facts.map((text) => make("li", {}, text))));
  $("below").replaceChildren(...parts);
}

function tabs() {
  const domain = $("domain").value, listed = data.boards.filter((each) => !domain || each.domain === domain);
  $("tabs").replaceChildren(...listed.map((each) => {
    const tab = make("button", { type: "button", id: `tab-${each.name}`, role: "tab", "aria-controls": "panel", title: each.title }, each.tab);
    tab.dataset.name = each.name;
    tab.addEventListener("click", () => { draw(each.name); history.replaceState(null, "", `#${each.name}`); });
    return tab;
  }));
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (listed.length) draw((listed.find((each) => each.name === (board ? board.name : wanted)) || listed[0]).name);
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", dark);
  $("theme").textContent = dark ? "Light" : "Dark";
}

$("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
theme(matchMedia("(prefers-color-scheme: dark)").matches);
$("search").addEventListener("input", filter);
for (const id of ["access", "storage"]) $(id).addEventListener("change", filter);
$("domain").append(make("option", { value: "" }, "all"), ...[...new Set(data.boards.map((each) => each.domain))].map((name) => make("option", { value: name }, name)));
$("domain").addEventListener("change", tabs);
$("cost").append(...data.costs.map((each) => make("option", { value: each.field }, each.title)));
$("cost").addEventListener("change", () => plot(table.getRows("active").map((row) => row.getData())));
$("tabs").addEventListener("keydown", (event) => {
  const all = [...$("tabs").children], at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const tab = all[(to + all.length) % all.length];
  tab.click();
  tab.focus();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("details").hidden) close(); });
if (data.boards.length) tabs(); else $("note").textContent = "No finished runs yet.";
