"use strict";

/** Score against cost, at the width that there is: a point opens its details by click, tap or key. */
function plot(rows) {
  $("figure").replaceChildren();
  if (!board.ranked) return;
  const cost = data.costs.find((each) => each.field === $("cost").value) || data.costs[0], score = board.score;
  const kept = rows.filter((row) => !missing(row[cost.field]) && !missing(row[score.field]) && row.row !== "reference");
  const lines = rows.filter((row) => row.row === "reference" && !missing(row[score.field]));
  if (!kept.length) { $("figure").append(make("p", { className: "soft" }, "no row has this cost")); return; }
  const wide = Math.max(280, Math.min(928, $("figure").clientWidth || 928)), narrow = wide < 600;
  const high = narrow ? 340 : 440, left = narrow ? 40 : 60, right = narrow ? 12 : 90, top = 20, bottom = 50;
  const costs = kept.map((row) => row[cost.field]), floor = Math.min(...costs.filter((value) => value > 0), 1) / (cost.log ? 2 : 1);
  const place = (value) => cost.log ? Math.log10(Math.max(value, floor)) : value;
  const range = (values, margin) => { const a = Math.min(...values), b = Math.max(...values), m = (b - a || 1) * margin; return [a - m, b + m]; };
  const [x0, x1] = range(costs.map(place), .05), [y0, y1] = range([...kept, ...lines].map((row) => row[score.field]), .06);
  const x = (value) => left + (place(value) - x0) / (x1 - x0) * (wide - left - right), y = (value) => high - bottom - (value - y0) / (y1 - y0) * (high - top - bottom);
  const figure = svg("svg", { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: "group", "aria-label": `${score.title} against ${cost.title}; every point is also a row of the table` });
  const step = (a, b, parts) => { const raw = (b - a) / parts, unit = 10 ** Math.floor(Math.log10(raw)); return [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= raw); };
  const ticksOf = (a, b, parts) => { const each = step(a, b, parts), all = []; for (let tick = Math.ceil(a / each) * each; tick <= b; tick += each) all.push(tick); return all; };
  for (const tick of ticksOf(y0, y1, 6)) {
    figure.append(svg("line", { class: "axis", x1: left, x2: wide - right, y1: y(tick), y2: y(tick) }), svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, shown(tick, 0)));
  }
  const ticks = cost.log ? [] : ticksOf(x0, x1, narrow ? 4 : 6);
  if (cost.log) for (let power = Math.ceil(x0); power <= x1; power++) ticks.push(10 ** power);
  for (const tick of ticks) figure.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: top, y2: high - bottom }), svg("text", { x: x(tick), y: high - bottom + 18, "text-anchor": "middle" }, Number(tick.toPrecision(6)).toLocaleString("en-US")));
  figure.append(svg("text", { x: (left + wide - right) / 2, y: high - 12, "text-anchor": "middle" }, cost.title + (cost.log ? " (log)" : "")));
  figure.append(svg("text", { x: 12, y: (top + high - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(top + high - bottom) / 2})` }, score.title));
  for (const row of lines) figure.append(svg("line", { x1: left, x2: wide - right, y1: y(row[score.field]), y2: y(row[score.field]), stroke: "var(--reference)", "stroke-dasharray": "5 4" }),
    svg("text", { x: narrow ? wide - right - 4 : wide - right + 6, y: y(row[score.field]) + (narrow ? -5 : 4), class: "soft", "text-anchor": narrow ? "end" : "start" }, row.method));
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
    const point = svg("g", { role: "button", tabindex: 0, "aria-label": text }), colour = `var(--${row.track})`;
    if (!missing(row[score.low])) point.append(svg("line", { x1: at[0], x2: at[0], y1: y(Math.max(y0, row[score.low])), y2: y(Math.min(y1, row[score.high])), stroke: colour, "stroke-width": 2 }));
    // A finger needs more room than a dot has.
    point.append(svg("circle", { cx: at[0], cy: at[1], r: 11, fill: "transparent" }), svg("circle", { cx: at[0], cy: at[1], r: 5, fill: colour, "fill-opacity": .85 }), svg("title", {}, text));
    if (best.includes(row)) name(row.method, ...at);
    point.addEventListener("click", () => details(row, point));
    point.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); details(row, point); } });
    figure.append(point);
  }
  const legend = make("ul", { className: "legend", "aria-label": "colours" }, ...board.tracks.filter((track) => kept.some((row) => row.track === track.name)).map((track) => {
    const dot = make("span", { className: "dot", "aria-hidden": "true" });
    dot.style.background = `var(--${track.name})`;
    return make("li", {}, dot, track.title);
  }));
  const unknown = rows.length - kept.length - lines.length;
  $("figure").append(figure, legend, make("p", { className: "soft" }, `Named, where there is room: no cheaper method scores higher. Bars: 95 % intervals. A point opens its details by click or tap.${unknown ? ` Without this cost: ${unknown} rows.` : ""}`));
}

/** Where a pair of rows stands in the half of the matrix that the page holds. */
function pair(i, j) {
  const n = board.rows.length, [a, b] = i < j ? [i, j] : [j, i], at = a * (n - 1) - a * (a - 1) / 2 + (b - a - 1), sign = i < j ? 1 : -1;
  const value = board.versus.value[at], half = board.versus.half[at];
  return missing(half) ? null : { value: sign * value, half, verdict: Math.abs(value) <= half ? "=" : sign * value > 0 ? "+" : "−", won: board.versus.won[i][j], lost: board.versus.won[j][i] };
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`;
const asWords = { "+": "surely better than", "−": "surely worse than", "=": "tied with" };

/** One sentence on two rows: difference, interval, how sure. */
function sentence(i, j) {
  const [a, b] = [board.rows[i], board.rows[j]], found = pair(i, j);
  if (!found) return `${a.method} and ${b.method} cannot be paired: their records hold no results per sample.`;
  const { value, half, verdict, won, lost } = found;
  return `${a.method} is ${asWords[verdict]} ${b.method} at 95 %: ${signed(value)} points (${signed(value - half)} to ${signed(value + half)}) of the ${board.score.title}, paired on the same test samples (seeds: ${a.n} and ${b.n}). It scores higher on ${won} of ${board.tasks.length} tasks, lower on ${lost}.`;
}

function compare() {
  $("versus").hidden = !board.versus || board.rows.length < 2;
  if ($("versus").hidden) return;
  const [i, j] = [Number($("first").value), Number($("second").value)];
  if (i === j) { $("verdict").textContent = "Choose two different methods."; $("bytask").replaceChildren(); return; }
  $("verdict").textContent = sentence(i, j);
  const [a, b] = [board.rows[i], board.rows[j]];
  $("bytask").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...["task", a.method, b.method, "difference"].map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...board.tasks.map((task) => make("tr", {}, make("th", { scope: "row" }, `${task.name} ${task.label}`), make("td", {}, shown(a[task.name], task.digits)), make("td", {}, shown(b[task.name], task.digits)),
      make("td", {}, missing(a[task.name]) || missing(b[task.name]) ? NONE : signed(a[task.name] - b[task.name])))))));
}

/** The square of wins of each track, made when it is opened. */
function wins() {
  $("matrix").replaceChildren();
  if (!$("wins").open || !board.versus) return;
  for (const track of board.tracks) {
    const places = board.rows.map((row, place) => place).filter((place) => board.rows[place].track === track.name && !missing(board.rows[place].rank));
    if (places.length < 2) continue;
    const head = make("tr", {}, make("th", { scope: "col" }, track.title), ...places.map((j, number) => make("th", { scope: "col", title: board.rows[j].method }, String(number + 1))));
    const lines = places.map((i, number) => make("tr", {}, make("th", { scope: "row" }, `${number + 1} ${board.rows[i].method}`), ...places.map((j) => {
      const found = i === j ? null : pair(i, j);
      if (!found) return make("td", {}, i === j ? "·" : NONE);
      const button = make("button", { type: "button", className: { "+": "better", "−": "worse", "=": "tie" }[found.verdict], title: `${signed(found.value)} (±${found.half.toFixed(1)})`, "aria-label": `${board.rows[i].method} ${asWords[found.verdict]} ${board.rows[j].method}` }, found.verdict);
      button.addEventListener("click", () => { $("first").value = i; $("second").value = j; compare(); remember(); $("versus").scrollIntoView({ block: "start" }); });
      return make("td", {}, button);
    })));
    $("matrix").append(make("table", { className: "wins" }, make("thead", {}, head), make("tbody", {}, ...lines)));
  }
}
