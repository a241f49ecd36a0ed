"use strict";

const titled = (text) => make("h3", {}, text);
const grid = (heads, lines) => make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)))),
  make("tbody", {}, ...lines.map(([first, ...cells]) => make("tr", {}, make("th", { scope: "row" }, first), ...cells.map((cell) => make("td", {}, cell))))));
/** A commit as boards print it, with what follows it. */
const short = (commit) => commit.replace(/^([0-9a-f]{12})[0-9a-f]*/, "$1") || NONE;
const facts = (pairs) => make("dl", {}, ...pairs.filter(([, text]) => !missing(text)).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));

/** What can be copied: the text and a button beside it. */
function copied(text) {
  const button = make("button", { type: "button" }, "Copy"), code = make("code", {}, text);
  button.addEventListener("click", () => {
    const done = () => { button.textContent = "Copied"; };
    // A file without a server may be refused the clipboard: then the text is selected.
    const select = () => { getSelection().selectAllChildren(code); button.textContent = "Selected"; };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, select); else select();
  });
  return make("div", { className: "copy" }, code, button);
}

/** A row's scores, settings, and records as a reader reads them: what, when, on what, how to repeat it. */
function details(row, from) {
  opener = from || document.activeElement;
  const expert = board.rows.find((each) => each.method === "individual");
  const button = make("button", { type: "button", className: "close" }, "Close");
  button.addEventListener("click", close);
  const lines = board.tasks.map((task) => {
    const value = row[task.name], own = expert ? expert[task.name] : null;
    const share = missing(own) || missing(value) ? null : 100 * (task.higher ? value / own : own / value);
    const printed = (row.printed || {})[task.name];
    return [`${task.name} ${task.label}`, shown(value, task.digits), shown(own, task.digits), shown(share, 1),
      missing(printed) ? NONE : `${shown(printed, task.digits)} (${value >= printed ? "+" : "−"}${shown(Math.abs(value - printed), task.digits)})${(row.outside || []).includes(task.name) ? "*" : ""}`];
  });
  const paper = String(row.paper || "").match(/^arXiv:(\d+\.\d+)(v\d+)?$/), track = board.tracks.find((each) => each.name === row.track);
  const parts = [button, make("h2", { id: "details-title" }, row.method)];
  parts.push(facts([
    ["Title", row.title], ["Paper", paper ? make("a", { href: `https://arxiv.org/abs/${paper[1]}` }, row.paper) : row.paper],
    ["Remark", row.remark], ["Track", track ? `${track.title}: ${track.about}` : ""], ["Access", row.access], ["Needs the task's id", row.task_id],
    ["Keywords changed", row.changed], ["All keywords", row.parameters], ["Chosen on validation", row.chosen ? `${row.chosen}, of ${row.grid}${row.at_edge ? `: the ${row.at_edge} value that was tried` : ""}` : ""],
    ["Precision", [row.dtype, row.autocast].filter(Boolean).join(", ")], ["Published elsewhere", row.published_others],
  ]));
  if (row.repeat) parts.push(titled("How to repeat it"), copied(row.repeat), make("p", { className: "soft" }, `At commit ${row.commit || "unknown"}; scores agree up to rounding on another machine, seconds do not.`));
  if (board.ranked) parts.push(titled("Each task"), grid(["task", "measured", "its expert", "% of expert", "published (gap, * outside of the interval)"], lines));
  if (row.links.length) {
    parts.push(titled(row.links.length > 1 ? `Records of its ${row.links.length} runs` : "Record of its run"));
    parts.push(grid(["run", "seed", board.score.title, "finished (UTC)", "merge, adapt, evaluate s", "commit"], row.links.map((run) => [
      run.href ? make("a", { href: run.href, title: "the whole record, as JSON" }, run.run) : run.run, run.seed === "" ? "none" : run.seed, shown(run.score, 1), run.finished, run.seconds.map((each) => shown(each, 1)).join(", "), short(run.commit)])));
    for (const place of new Set(row.links.map((run) => run.environment))) {
      const [where, versions] = board.environments[place].split("\n"), runs = row.links.filter((run) => run.environment === place);
      parts.push(facts([["Source", [...new Set(runs.map((run) => run.source))].join(", ")], ["Commit", [...new Set(runs.map((run) => run.commit))].join(", ")], ["Machine", where], ["Versions", versions]]));
    }
  }
  $("details").replaceChildren(...parts);
  if (!$("details").open) $("details").showModal();
  $("details").scrollTop = 0;
  opened = row.method;
  remember();
}

function close() {
  if ($("details").open) $("details").close();
}

$("details").addEventListener("close", () => {
  opened = "";
  remember();
  if (opener && document.contains(opener)) opener.focus();
  opener = null;
});
$("details").addEventListener("click", (event) => { if (event.target === $("details")) close(); });
