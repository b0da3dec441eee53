"use strict";
// Each message has totals since the start. What is shown is the difference between two messages:
// numbers over STEADY seconds, lines over one second, routes over ROUTES seconds.
const STEADY = 5, ROUTES = 30, KEPT = 120, PATIENCE = 4, RETRY = 3, SLOWEST = 8;
const byId = (id) => document.getElementById(id);
const write = (id, text) => { if (byId(id).textContent !== text) byId(id).textContent = text; };

let messages = [];
let samples = []; // what happened between two messages, at `from` and `at`
let heardAt = 0, why = "";

// Returns the differences between two messages.
function between(older, newer) {
  const seconds = newer.at - older.at, routes = [], all = newer.bounds.map(() => 0);
  let failed = 0;
  for (const [name, now] of Object.entries(newer.routes)) {
    const then = older.routes[name];
    const buckets = now.buckets.map((count, i) => count - (then ? then.buckets[i] : 0));
    const count = buckets[buckets.length - 1];
    if (!count) continue;
    buckets.forEach((more, i) => { all[i] += more; });
    failed += now.failed - (then ? then.failed : 0);
    routes.push({ name, count, buckets });
  }
  const more = (name) => newer[name] - older[name];
  const cache = {};
  for (const name in newer.cache) cache[name] = newer.cache[name] - (older.cache[name] || 0);
  return { seconds, routes, buckets: all, count: all[all.length - 1] || 0, failed, cache, more };
}

// A quantile of the durations in seconds, estimated in the same way as Prometheus does it.
function quantile(part, buckets, bounds) {
  const count = buckets[buckets.length - 1];
  if (!count) return null;
  const rank = part * count, i = buckets.findIndex((below) => below >= rank);
  if (bounds[i] === null) return { seconds: bounds[i - 1], beyond: ">" };
  if (i === 0) return { seconds: bounds[0], beyond: "<" };
  const low = bounds[i - 1], within = (rank - buckets[i - 1]) / (buckets[i] - buckets[i - 1]);
  return { seconds: low + (bounds[i] - low) * within, beyond: "" };
}

const grouped = (number, digits) => number.toLocaleString("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits });
const short = (number, digits) => number < 1e6 ? grouped(number, digits)
  : number.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 });
const count = (number) => short(number, number && number < 99.95 ? 1 : 0);
const part = (number, whole) => whole ? `${grouped(100 * number / whole, 1)} %` : "–";
function time(seconds) {
  if (seconds >= 1) return `${grouped(seconds, seconds < 10 ? 2 : 1)} s`;
  const milliseconds = seconds * 1000;
  return `${grouped(milliseconds, milliseconds < 10 ? 1 : 0)} ms`;
}
function duration(found) {
  if (!found) return "–";
  return found.beyond ? `${found.beyond} ${time(found.seconds).replace(".0", "")}` : time(found.seconds);
}

// Draws a line of the last KEPT seconds, the newest at the right. It has gaps where nothing was received.
function draw(name, least) {
  const most = Math.max(0, ...samples.map((sample) => sample[name] ?? 0));
  const top = 1.05 * Math.max(least, most), end = samples.at(-1).at;
  const place = (at) => Math.max(0, KEPT - end + at).toFixed(2);
  let line = "", area = "", stop = null;
  const close = () => { if (stop !== null) area += `L${place(stop)} 32Z`; stop = null; };
  for (const { from, at, [name]: value } of samples) {
    if (value === null || from !== stop) close();
    if (value === null) continue;
    const height = (32 - 31 * value / top).toFixed(2);
    if (stop === null) {
      line += `M${place(from)} ${height}`;
      area += `M${place(from)} 32V${height}`;
    }
    line += `L${place(at)} ${height}`;
    area += `L${place(at)} ${height}`;
    stop = at;
  }
  close();
  const [areaPath, linePath] = document.querySelectorAll(`[data-line="${name}"] path`);
  areaPath.setAttribute("d", area);
  linePath.setAttribute("d", line);
  return most;
}

// Names the time that the lines show. It is shorter after the start, and after a lost connection.
function period() {
  const seen = Math.round(samples.reduce((sum, { from, at }) => sum + at - from, 0));
  if (seen >= KEPT - 1) return `in ${KEPT / 60} min`;
  const hasGap = samples.some(({ from }, i) => i && from !== samples[i - 1].at);
  return hasGap ? `in the ${seen} s seen` : `in the last ${seen} s`;
}

function bar(row, share, text) {
  row.querySelector("i").style.width = `${Math.min(100, 100 * share)}%`;
  row.querySelector(".value").textContent = text;
}

function fact(id, text, alarm) {
  byId(id).querySelector("dd").textContent = text;
  byId(id).classList.toggle("alarm", Boolean(alarm));
}

function showNumbers(newest, steady) {
  write("rate", count(steady.count / steady.seconds));
  write("p50", duration(quantile(0.5, steady.buckets, newest.bounds)));
  write("p99", duration(quantile(0.99, steady.buckets, newest.bounds)));
  write("failed", count(steady.failed / steady.seconds));
  byId("errors").classList.toggle("alarm", steady.failed > 0);
  write("lag", time(newest.loop_lag));
  write("diagnostics", short(newest.diagnostics, 0));
  byId("mistakes").classList.toggle("alarm", newest.diagnostics > 0);
  const blocked = newest.loop_blocked;
  write("lag-note", blocked ? `blocked ${short(blocked, 0)} × since the start` : "never blocked");
}

function showLines(bounds) {
  const most = (value, text) => value ? `most ${period()}: ${text(value)}` : "";
  const longest = (seconds) => duration({ seconds, beyond: seconds <= bounds[0] ? "<" : "" });
  write("rate-note", most(draw("rate", 1), count));
  write("p50-note", most(draw("p50", 0.005), longest));
  write("p99-note", most(draw("p99", 0.005), longest));
  const worst = draw("failed", 1);
  write("failed-note", most(worst, count) || `none ${period()}`);
  byId("errors").classList.toggle("quiet", !worst);
  draw("lag", 0.01);
}

function showCache(steady) {
  const reads = Object.values(steady.cache).reduce((sum, value) => sum + value, 0);
  for (const row of document.querySelectorAll("[data-tier]")) {
    const value = steady.cache[row.dataset.tier] || 0;
    const shown = `${count(value / steady.seconds)}/s · ${part(value, reads)}`;
    bar(row, reads ? value / reads : 0, reads ? shown : "–");
  }
  const hits = (steady.cache.hit_l1 || 0) + (steady.cache.hit || 0);
  write("cache-note", reads ? `${part(hits, reads)} from the cache` : "nothing read");
}

function showDatabase(newest, steady) {
  const { pool_in_use: used, pool_max: most, pool_waiting: waiting } = newest;
  bar(byId("pool"), most ? used / most : 0, `${short(used, 0)} of ${short(most, 0)}`);
  fact("waiting", short(waiting, 0), waiting);
  const refused = steady.more("pool_refused") / steady.seconds;
  fact("refused", count(refused), refused);
  const requests = steady.count;
  const each = steady.more("statements") / requests;
  fact("statements", requests ? grouped(each, each && each < 0.1 ? 3 : 2) : "–");
  fact("asked", part(steady.more("requests_with_statements"), requests));
}

function showRoutes(newest, recent) {
  const rows = recent.routes.map((route) => ({
    ...route,
    p50: quantile(0.5, route.buckets, newest.bounds),
    p99: quantile(0.99, route.buckets, newest.bounds),
  }));
  rows.sort((a, b) => b.p99.seconds - a.p99.seconds || b.count - a.count);
  const cells = rows.slice(0, SLOWEST).map(({ name, count: n, p50, p99 }) => [
    name.replace(" unmatched", " (no such route)"), count(n / recent.seconds),
    duration(p50), duration(p99)]);
  write("routes-note", `of the last ${Math.max(1, Math.round(recent.seconds))} s, by p99`);
  if (!cells.length) cells.push(["No requests in this time."]);
  document.querySelector("tbody").replaceChildren(...cells.map((texts) => {
    const row = document.createElement("tr");
    for (const text of texts) row.insertCell().append(...breakable(text));
    if (texts.length === 1) Object.assign(row.cells[0], { colSpan: 4, className: "none" });
    return row;
  }));
}

// Lets a narrow screen break a path before its slashes.
function breakable(text) {
  return text.split(/(?=\/)/).flatMap((piece) => [document.createElement("wbr"), piece]);
}

function since(seconds) {
  const newest = messages[messages.length - 1];
  const found = messages.findIndex((message) => newest.at - message.at <= seconds + 0.5);
  return messages[Math.min(found, messages.length - 2)];
}

function hear(newest) {
  heardAt = performance.now();
  why = "";
  const before = messages[messages.length - 1];
  const moved = before && newest.instance !== before.instance; // to another one behind a balancer
  if (moved) samples = [];
  else if (before && newest.at <= before.at) return;
  const restarted = before && Object.entries(before.routes).some(([name, then]) =>
    !newest.routes[name] || newest.routes[name].buckets.at(-1) < then.buckets.at(-1));
  if (moved || restarted || before && newest.at - before.at > 2 * STEADY) messages = [];
  messages.push(newest);
  messages = messages.filter((message) => newest.at - message.at <= ROUTES + STEADY);
  if (messages.length > 1) note(newest, messages.at(-2));
  show(newest);
}

function note(newest, before) {
  const second = between(before, newest);
  const seconds = (part) => quantile(part, second.buckets, newest.bounds)?.seconds ?? null;
  samples.push({
    from: before.at, at: newest.at, lag: newest.loop_lag, p50: seconds(0.5), p99: seconds(0.99),
    rate: second.count / second.seconds, failed: second.failed / second.seconds });
  samples = samples.filter((sample) => newest.at - sample.at < KEPT);
}

function show(newest) {
  const none = Object.keys(newest.routes).length === 0;
  byId("empty").hidden = !none;
  const busy = samples.some((sample) => sample.rate > 0);
  const quiet = none ? "Live, no traffic yet" : "Live, no requests at the moment";
  say("live", busy || messages.length < 2 ? "Live" : quiet);
  const workers = `${newest.workers} ${newest.workers === 1 ? "worker" : "workers"}`;
  write("process", `${newest.instance} · ${workers} · ${grouped(newest.memory / 2 ** 20, 0)} MiB`);
  if (messages.length < 2) return;
  const steady = between(since(STEADY), newest);
  showNumbers(newest, steady);
  showLines(newest.bounds);
  showCache(steady);
  showDatabase(newest, steady);
  showRoutes(newest, between(since(ROUTES), newest));
}

function say(state, text) {
  document.body.dataset.state = state;
  write("state", text);
}

// A browser reconnects by itself when a stream ends, but not when the request was refused.
function listen() {
  const source = new EventSource("board/events");
  source.onmessage = (event) => hear(JSON.parse(event.data));
  source.onerror = async () => {
    lose();
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(listen, RETRY * 1000);
    const answer = await fetch("board/events", { method: "HEAD" }).catch(() => null);
    why = { 404: "The board was switched off", 503: "Too many viewers" }[answer?.status] || "";
    lose();
  };
}

function lose() {
  const reason = why || "Connection lost";
  const rest = heardAt ? "what is shown is no longer live" : "nothing was received";
  say("lost", `${reason}: ${rest}. Trying again…`);
}

for (const code of document.querySelectorAll("[data-command]")) {
  code.textContent = code.dataset.command.replace("{origin}", location.origin);
}
setInterval(() => {
  if (heardAt && performance.now() - heardAt > PATIENCE * 1000) lose();
}, 1000);
listen();
