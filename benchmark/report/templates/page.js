"use strict";

/** Scores and names open their details; other cells are text. */
function cell(column) {
  return (given) => {
    const row = given.getData(), value = given.getValue();
    const text = column.kind === "interval" ? (missing(row[column.low]) ? NONE : `${shown(row[column.low], 1)} to ${shown(row[column.high], 1)}`)
      : column.signed && !missing(value) ? signed(value) : shown(value, column.digits) + (column.kind === "method" && row.remark ? " †" : "");
    // The table takes a string for HTML, and a node as it is.
    if (column.kind !== "method" && (!column.link || text === NONE)) return document.createTextNode(text);
    const button = make("button", { type: "button", title: column.kind === "method" ? `${value}: ${row.remark ? `${row.remark}; ` : ""}scores by task, records, how to repeat it` : "what was run, when, on what, how to repeat it" }, text);
    if (column.kind !== "method") button.setAttribute("aria-label", `${row.method}, ${column.title} ${text}`);
    button.addEventListener("click", () => details(row, button));
    return button;
  };
}

/** Tells that columns lie beyond the right edge, while they do. */
function sideways() {
  const holder = document.querySelector("#table .tabulator-tableholder");
  if (!holder) return;
  const more = () => {
    const beyond = holder.scrollWidth - holder.clientWidth;
    $("sideways").hidden = beyond <= 1;
    $("table").classList.toggle("beyond", holder.scrollLeft < beyond - 1);
  };
  holder.addEventListener("scroll", more, { passive: true });
  new ResizeObserver(more).observe(holder);
  new ResizeObserver(more).observe(holder.firstElementChild);
  more();
}

/** Numbers by size with the empty ones last, whichever way they are sorted. */
function sorter(column) {
  const field = column.kind === "interval" ? column.low : column.sort || column.field;
  return (a, b, rowA, rowB, of, direction) => {
    const left = rowA.getData()[field], right = rowB.getData()[field];
    if (missing(left) || missing(right)) return (missing(left) - missing(right)) * (direction === "asc" ? 1 : -1);
    return typeof left === "number" ? left - right : String(left).localeCompare(String(right));
  };
}

/** What the address holds after the name of the board: filters, sorting, and what is open. */
const FIELDS = { q: "search", track: "track", access: "access", storage: "storage", cost: "cost" };
function remember() {
  if (quiet || !board) return;
  const kept = new URLSearchParams();
  for (const [key, id] of Object.entries(FIELDS)) if ($(id).value && !(id === "cost" && $(id).selectedIndex === 0)) kept.set(key, $(id).value);
  for (const field of board.filters) if ($(`filter-${field}`).value) kept.set(field, $(`filter-${field}`).value);
  const sorted = table.getSorters()[0];
  if (sorted) kept.set("sort", `${sorted.field}-${sorted.dir}`);
  if (board.versus && $("first").value !== $("first").dataset.usual) kept.set("first", board.rows[$("first").value].method);
  if (board.versus && $("second").value !== $("second").dataset.usual) kept.set("second", board.rows[$("second").value].method);
  if (opened) kept.set("row", opened);
  const text = kept.toString();
  history.replaceState(null, "", `#${encodeURIComponent(board.name)}${text ? `&${text}` : ""}`);
}

function address() {
  const [name, ...rest] = location.hash.slice(1).split("&");
  return { name: decodeURIComponent(name), kept: new URLSearchParams(rest.join("&")) };
}

function draw(name, kept = new URLSearchParams()) {
  quiet = true;
  close();
  opened = "";
  board = data.boards.find((each) => each.name === name);
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.name === name;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  $("panel").setAttribute("aria-labelledby", `tab-${name}`);
  $("title").textContent = board.title;
  $("note").textContent = board.note;
  $("warning").textContent = board.warning;
  $("warning").hidden = !board.warning;
  $("predicts").hidden = !board.predicts;
  $("predicts-text").textContent = board.predicts;
  $("leaders").hidden = !board.leaders.length;
  $("leaders-list").replaceChildren(...board.leaders.flatMap((each) => {
    const button = make("button", { type: "button" }, each.method);
    button.addEventListener("click", () => details(board.rows.find((row) => row.method === each.method && row.track === each.track), button));
    return [make("dt", {}, each.title), make("dd", {}, button, ` ${each.text}`)];
  }));
  const choices = [["", "all, each ranked by itself"], ...board.tracks.map((track) => [track.name, track.title]), ["list", "all in one list"]];
  $("track").replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  for (const [key, id] of Object.entries(FIELDS)) {
    $(id).value = kept.get(key) || (id === "cost" ? data.costs[0].field : "");
    if ($(id).value !== (kept.get(key) || "") && id !== "cost") $(id).value = "";
  }
  for (const id of ["access", "storage", "track"]) $(id).parentElement.hidden = !board.ranked;
  $("plot").hidden = !board.ranked;
  $("latex").hidden = !board.latex;
  $("more-filters").replaceChildren(...board.filters.map((field) => {
    const column = board.columns.find((each) => each.field === field), values = [...new Set(board.rows.map((row) => row[field]).filter(Boolean))].sort();
    const select = make("select", { id: `filter-${field}` }, make("option", { value: "" }, "any"), ...values.map((value) => make("option", { value }, value)));
    select.value = kept.get(field) || "";
    select.addEventListener("change", filter);
    return make("label", {}, `${column.title} `, select);
  }));
  if (table) table.destroy();
  $("count").textContent = "";
  const [sortField, sortDirection] = (kept.get("sort") || "").split(/-(?=asc$|desc$)/), narrow = innerWidth < 640;
  const sortable = board.columns.some((column) => column.field === sortField) && sortDirection;
  table = new Tabulator("#table", {
    data: board.rows, layout: "fitDataStretch", renderVertical: board.rows.length > 100 ? "virtual" : "basic",
    maxHeight: board.rows.length > 100 ? "40rem" : false,
    placeholder: "no row fits these filters", columnDefaults: { resizable: false },
    initialSort: sortable ? [{ column: sortField, dir: sortDirection }] : [],
    groupBy: board.tracks.length && $("track").value !== "list" ? "track" : false, groupToggleElement: false,
    groupValues: board.tracks.length ? [board.tracks.map((track) => track.name)] : undefined,
    groupHeader: (value, count) => {
      const track = board.tracks.find((each) => each.name === value);
      return track ? make("span", { className: count ? "group" : "group empty" }, make("strong", {}, track.title), ` ${track.about} (${count})`) : document.createTextNode(value);
    },
    columns: board.columns.map((column) => ({
      title: escaped(column.title), field: column.field, visible: column.visible || (column.field === "overall" && $("track").value === "list"), frozen: column.kind === "method",
      hozAlign: column.align, headerHozAlign: column.align, formatter: cell(column), sorter: sorter(column),
      headerSortStartingDir: column.descending ? "desc" : "asc", headerSortTristate: false,
      maxWidth: column.kind === "method" ? (narrow ? 140 : 260) : false,
      minWidth: column.field === "published_source" ? 260 : 8 * Math.min(column.title.length, 12) + 28,
    })),
    rowFormatter: (row) => { if (row.getData().row !== "method") row.getElement().classList.add("unranked"); },
  });
  table.on("tableBuilt", () => {
    $("table").setAttribute("aria-label", `${board.title}: rows are methods`);
    keyboard();
    filter();
    sideways();
    $("panel").classList.add("ready");
    quiet = false;
    if (location.hash || drawn) remember();
    drawn = true;
    const row = kept.get("row") && board.rows.find((each) => each.method === kept.get("row"));
    if (row) details(row, $("search"));
  });
  table.on("dataSorted", () => remember());
  table.on("dataFiltered", (filters, rows) => {
    $("count").textContent = `${rows.length} of ${board.rows.length} rows`;
    plot(rows.map((row) => row.getData()));
  });
  $("choices").replaceChildren(...board.columns.filter((column) => column.kind !== "method").map((column) => {
    const box = make("input", { type: "checkbox", checked: column.visible, value: column.field });
    box.addEventListener("change", () => { box.checked ? table.showColumn(column.field) : table.hideColumn(column.field); keyboard(); });
    return make("label", { title: column.meaning }, box, ` ${column.title}`);
  }));
  $("meanings").replaceChildren(...board.columns.flatMap((column) => [make("dt", {}, column.title), make("dd", {}, column.meaning)]));
  if (board.versus) {
    // At first the best row of the first track that has two, and the next one.
    const pairs = board.tracks.map((track) => board.rows.map((row, place) => place).filter((place) => board.rows[place].track === track.name)).find((places) => places.length > 1) || [0, 1];
    for (const [id, place] of [["first", pairs[0]], ["second", pairs[1]]]) {
      $(id).replaceChildren(...board.rows.map((row, number) => make("option", { value: number }, row.method)));
      const wanted = board.rows.findIndex((row) => row.method === kept.get(id));
      $(id).dataset.usual = String(place);
      $(id).value = String(wanted < 0 ? place : wanted);
    }
  }
  compare();
  wins();
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
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), access = $("access").value, storage = $("storage").value, track = $("track").value;
  const more = board.filters.map((field) => [field, $(`filter-${field}`).value]).filter(([, value]) => value);
  table.setFilter((row) => words.every((word) => row.text.includes(word)) && (!access || row.level === access)
    && (!track || track === "list" || row.track === track) && more.every(([field, value]) => row[field] === value)
    && (!storage || missing(row.storage_models) || (row.storage_models > 1.0005) === (storage === "more")));
  remember();
}

/** A file that the reader's browser saves: no server is asked. */
function save(name, text, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** The rows that are shown, in their order, with all columns at full precision; text is kept from being a formula. */
function csv() {
  const plain = (value) => {
    if (missing(value)) return "";
    if (typeof value === "number") return String(value);
    const text = /^\s*[=+\-@]/.test(value) && !/^\s*[-+]?\d*\.?\d+(e[-+]?\d+)?\s*$/i.test(value) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const rows = table.getRows("active").map((row) => row.getData());
  return [board.csv, ...rows.map((row) => board.csv.map((field) => row[field]))].map((line) => line.map(plain).join(",")).join("\n") + "\n";
}

function below() {
  const parts = [];
  if (board.incomplete.length) parts.push(make("h3", {}, "Incomplete runs, in no mean above"), make("ul", {}, ...board.incomplete.map((text) => make("li", {}, text))));
  if (board.facts.length) parts.push(make("h3", {}, "Where the numbers come from"), make("ul", {}, ...board.facts.map((text) => make("li", {}, text))));
  if (board.commands.length) parts.push(make("details", {}, make("summary", {}, `Commands that made the records (${board.commands.length})`), make("ul", {}, ...board.commands.map((text) => make("li", {}, make("code", {}, text))))));
  $("below").replaceChildren(...parts);
}

function tabs() {
  const domain = $("domain").value, listed = data.boards.filter((each) => !domain || each.domain === domain);
  $("tabs").replaceChildren(...listed.map((each) => {
    const tab = make("button", { type: "button", id: `tab-${each.name}`, role: "tab", "aria-controls": "panel", title: each.title }, each.tab);
    tab.dataset.name = each.name;
    tab.addEventListener("click", () => draw(each.name));
    return tab;
  }));
  const { name, kept } = address(), again = !board;
  if (listed.length) draw((listed.find((each) => each.name === (board ? board.name : name)) || listed[0]).name, again ? kept : undefined);
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
$("track").addEventListener("change", () => {
  const one = $("track").value === "list";
  table.setGroupBy(board.tracks.length && !one ? "track" : false);
  if (one) { table.showColumn("overall"); table.setSort("overall", "asc"); keyboard(); } else if (table.getSorters()[0]?.field === "overall") table.clearSort();
  filter();
});
for (const id of ["first", "second"]) $(id).addEventListener("change", () => { compare(); remember(); });
$("wins").addEventListener("toggle", wins);
$("csv").addEventListener("click", () => save(`${board.name}.csv`, csv(), "text/csv"));
$("latex").addEventListener("click", () => save(`${board.name}.tex`, board.latex, "text/x-tex"));
$("domain").append(make("option", { value: "" }, "all"), ...[...new Set(data.boards.map((each) => each.domain))].map((name) => make("option", { value: name }, name)));
$("domain").addEventListener("change", tabs);
$("cost").append(...data.costs.map((each) => make("option", { value: each.field }, each.title)));
const replot = () => { if (board && board.ranked) plot(table.getRows("active").map((row) => row.getData())); };
$("cost").addEventListener("change", () => { replot(); remember(); });
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; replot(); } });
addEventListener("hashchange", () => {
  const { name, kept } = address();
  if (data.boards.some((each) => each.name === name)) draw(name, kept);
});
$("tabs").addEventListener("keydown", (event) => {
  const all = [...$("tabs").children], at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const tab = all[(to + all.length) % all.length];
  tab.click();
  tab.focus();
});
if (data.boards.length) tabs(); else $("note").textContent = "No finished runs yet.";
