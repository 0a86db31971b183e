"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const n = data.count;

// Arrays come as base64 of little-endian numbers: a tenth of what JSON would take, and no object per exit.
function numbers(kind, text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new kind(bytes.buffer);
}
const times = numbers(Float64Array, data.times), took = numbers(Uint32Array, data.took), inside = numbers(Float32Array, data.inside);
const vcpus = numbers(Uint16Array, data.vcpus_of), rowOf = numbers(Uint16Array, data.rows_of), textOf = numbers(Uint32Array, data.text_of);
const numberOf = numbers(Uint32Array, data.numbers);
const spanTimes = numbers(Float64Array, data.span_times), spanTook = numbers(Uint32Array, data.span_took);
const spanLane = numbers(Uint16Array, data.span_lanes), spanQueue = numbers(Uint16Array, data.span_queues);
const sampleTimes = numbers(Float64Array, data.sample_times), sampleVcpu = numbers(Uint16Array, data.sample_vcpus);
const sampleName = numbers(Uint32Array, data.sample_names);

// --- what is shown ----------------------------------------------------------------------------------------------------
let current = 0, chosen = -1;
let from = data.begin, to = data.begin + data.duration;
const LABEL = 150, LANE = 18, GAP = 4, AXIS = 20;
const lanes = [];
for (let v = 0; v < data.vcpus; v++) {
  const which = data.vcpus > 1 ? ` ${v}` : "";
  lanes.push({kind: "guest", vcpu: v, name: "guest" + (which && " vCPU" + which)});
  lanes.push({kind: "user", vcpu: v, name: "user space" + (which && " vCPU" + which)});
}
if (data.kernel.length > 1) lanes.splice(data.vcpus > 1 ? 0 : 1, 0, {kind: "kernel", name: "kernel"});
data.devices.forEach((name, i) => lanes.push({kind: "device", device: i, name: name || "nobody"}));
data.threads.forEach((name, i) => lanes.push({kind: "thread", thread: i, name: name + " thread"}));

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = () => document.documentElement.dataset.theme === "dark";
const hue = i => `hsl(${(i * 67 + 25) % 360} ${dark() ? "55% 60%" : "60% 45%"})`;

function time(ns) {
  const us = ns / 1000;
  if (Math.abs(us) < 1000) return us.toFixed(us < 10 ? 2 : 1) + " µs";
  return us < 1e6 ? (us / 1000).toFixed(us < 1e4 ? 3 : 2) + " ms" : (us / 1e6).toFixed(us < 1e7 ? 4 : 3) + " s";
}
const count = value => value.toLocaleString("en-US");

function lower(array, value) {  // first index whose element is not below the value
  let low = 0, high = array.length;
  while (low < high) { const mid = (low + high) >> 1; if (array[mid] < value) low = mid + 1; else high = mid; }
  return low;
}

// --- the timeline -------------------------------------------------------------------------------------------------------
const canvas = $("lanes"), ink = canvas.getContext("2d");
let width = 0, height = 0;

function size(element, context, tall) {
  const ratio = devicePixelRatio || 1, wide = element.clientWidth;
  if (tall) element.style.height = tall + "px";
  element.width = Math.round(wide * ratio);
  element.height = Math.round((tall || element.clientHeight) * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return wide;
}
const at = ns => LABEL + (ns - from) / (to - from) * (width - LABEL);
const when = x => from + (x - LABEL) / (width - LABEL) * (to - from);
const top_ = i => AXIS + i * (LANE + GAP);

// Coverage per pixel column, so that a hundred thousand exits cost a hundred thousand additions and not as many rectangles.
function cover(columns, start, end) {
  let a = at(start) - LABEL, b = at(end) - LABEL;
  if (b < 0 || a >= columns.length) return;
  a = Math.max(a, 0); b = Math.min(Math.max(b, a + 0.35), columns.length);
  const first = Math.floor(a), last = Math.min(Math.floor(b), columns.length - 1);
  if (first === last) { columns[first] += b - a; return; }
  columns[first] += first + 1 - a;
  for (let i = first + 1; i < last; i++) columns[i] += 1;
  columns[last] += b - last;
}
function paint(columns, y, colour) {
  ink.fillStyle = colour;
  for (let i = 0; i < columns.length; i++) {
    if (!columns[i]) continue;
    ink.globalAlpha = Math.min(0.25 + 0.75 * columns[i], 1);
    ink.fillRect(LABEL + i, y, 1, LANE);
  }
  ink.globalAlpha = 1;
}

function draw() {
  height = AXIS + lanes.length * (LANE + GAP) + 4;
  width = size(canvas, ink, height);
  ink.clearRect(0, 0, width, height);
  ink.font = "12px system-ui, sans-serif";
  ink.textBaseline = "middle";
  axis();
  const columns = {};
  lanes.forEach((lane, i) => {
    columns[i] = new Float32Array(Math.max(width - LABEL, 1));
    lane.y = top_(i);
    ink.fillStyle = style("--ground");
    ink.fillRect(LABEL, lane.y, width - LABEL, LANE);
    ink.fillStyle = style("--dim");
    ink.textAlign = "right";
    ink.fillText(lane.name.length > 22 ? lane.name.slice(0, 21) + "…" : lane.name, LABEL - 8, lane.y + LANE / 2, LABEL - 12);
  });
  const guest = [], user = [], device = [], thread = [];
  lanes.forEach((lane, i) => {
    if (lane.kind === "guest") guest[lane.vcpu] = i;
    if (lane.kind === "user") user[lane.vcpu] = i;
    if (lane.kind === "device") device[lane.device] = i;
    if (lane.kind === "thread") thread[lane.thread] = i;
  });
  const first = Math.max(lower(times, from) - 64, 0), last = Math.min(lower(times, to) + 64, n);
  for (let i = first; i < last; i++) {
    const start = times[i], end = start + took[i], row = data.rows[rowOf[i]];
    cover(columns[guest[vcpus[i]]], start - inside[i], start);
    cover(columns[user[vcpus[i]]], start, end);
    if (row.device >= 0) cover(columns[device[row.device]], start, end);
  }
  for (let i = last; i < n && i < last + 4096; i++)  // a long stay in the guest that began in view
    if (times[i] - inside[i] < to) cover(columns[guest[vcpus[i]]], Math.max(times[i] - inside[i], from), Math.min(times[i], to));
  for (let i = 0; i < spanTimes.length; i++) cover(columns[thread[spanLane[i]]], spanTimes[i], spanTimes[i] + spanTook[i]);
  lanes.forEach((lane, i) => {
    if (lane.kind === "kernel") return kernel(lane);
    const colour = lane.kind === "guest" ? style("--guest") : lane.kind === "user" ? style("--user")
      : lane.kind === "device" ? hue(lane.device) : hue(lane.thread + 3);
    paint(columns[i], lane.y, colour);
  });
  ticks(guest);
  mark();
}
function marks() {  // [ns, label] along the axis; a label has the digits that tell it from its neighbours
  const span = to - from, step = 10 ** Math.floor(Math.log10(span / 4));
  const nice = [1, 2, 5, 10].map(each => each * step).find(each => span / each <= Math.max((width - LABEL) / 110, 2)) || step * 10;
  const [unit, name] = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"]].find(([each]) => to >= each) || [1, "ns"];
  const digits = Math.max(Math.ceil(Math.log10(unit / nice) - 1e-9), 0), found = [];
  for (let mark = Math.ceil(from / nice) * nice; mark <= to; mark += nice) found.push([mark, `${(mark / unit + 0).toFixed(digits)} ${name}`]);
  return found;
}
function axis() {
  ink.textAlign = "left";
  for (const [mark, label] of marks()) {
    const x = at(mark);
    ink.fillStyle = style("--line");
    ink.fillRect(x, AXIS - 4, 1, height);
    ink.fillStyle = style("--dim");
    if (x < width - 60) ink.fillText(label, x + 3, AXIS / 2);
  }
}
function kernel(lane) {  // between two looks at its counters: how many VM exits it dealt with itself, and how long vCPUs slept
  let most = 1;
  for (const each of data.kernel) most = Math.max(most, each[2]);
  for (let i = 0; i < data.kernel.length; i++) {
    const [begin, end, rate, asleep] = data.kernel[i], a = Math.max(at(begin), LABEL), b = Math.min(at(end), width);
    if (b <= LABEL || a >= width) continue;
    ink.fillStyle = style("--kernel");
    const tall = rate ? Math.max(LANE * Math.log1p(rate) / Math.log1p(most), 1) : 0;
    ink.fillRect(a, lane.y + LANE - tall, Math.max(b - a - 0.3, 0.7), tall);
    ink.fillStyle = style("--dim");
    if (asleep > 0.01) ink.fillRect(a, lane.y, Math.max(b - a - 0.3, 0.7), Math.max(3 * asleep, 1));
  }
}
function ticks(guest) {  // samples of where the guest is
  ink.fillStyle = style("--sample");
  const first = lower(sampleTimes, from), last = lower(sampleTimes, to);
  for (let i = first; i < last; i++) ink.fillRect(at(sampleTimes[i]), lanes[guest[sampleVcpu[i]]].y + LANE - 4, 1, 4);
}
function mark() {
  if (!n) return;
  const x = at(times[current]), end = at(times[current] + took[current]);
  if (end < LABEL || x > width) return;
  ink.fillStyle = style("--mark");
  ink.globalAlpha = 0.18;
  ink.fillRect(Math.max(x, LABEL), AXIS, Math.max(end - x, 1), height);
  ink.globalAlpha = 1;
  if (x >= LABEL) ink.fillRect(x, AXIS - 4, 1.5, height);
}

let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

// --- moving -------------------------------------------------------------------------------------------------------------
function show(index, follow = true) {
  if (!n) return;
  current = Math.min(Math.max(index, 0), n - 1);
  $("slider").value = current;
  const row = data.rows[rowOf[current]], title = data.titles[textOf[current]];
  $("where").textContent = `exit ${count(numberOf[current])} of ${count(data.total)} at ${time(times[current])}`;
  $("facts").innerHTML = "";
  const facts = [["user space", time(took[current])], ["in KVM_RUN before", time(inside[current])], ["vCPU", vcpus[current]],
    ...(data.functions[textOf[current]] ? [["in", data.functions[textOf[current]]]] : []),
    ["of this kind", count(row.count)], ["average", time(row.total / row.count)], ["p99", time(row.p99)]];
  for (const [name, value] of facts) {
    const bold = document.createElement("b");
    bold.textContent = value;
    $("facts").append(`${name} `, bold, "  ·  ");
  }
  $("facts").lastChild.remove();
  const body = data.texts[data.bodies[textOf[current]]];
  $("text").textContent = body.startsWith(title.slice(0, 20)) ? body : `${title}\n\nAn earlier exit at the same place:\n\n${body}`;
  const printed = lower(data.console_at, current + 1), end = printed ? data.console_end[printed - 1] : 0;
  const text = data.console.slice(0, end).replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/\r/g, "");
  $("console").textContent = text.slice(-20000);
  $("console").scrollTop = 1e9;
  $("typed").textContent = `${count(end)} characters up to this exit`;
  if (chosen >= 0 && rowOf[current] !== chosen) choose(rowOf[current]);
  if (follow && (times[current] < from || times[current] > to)) view(times[current] - (to - from) / 2, to - from);
  redraw();
}
function view(start, span) {
  const whole = data.duration * 1.02;
  span = Math.min(Math.max(span, 2000), whole);
  from = Math.min(Math.max(start, data.begin - data.duration * 0.01), data.begin + data.duration * 1.01 - span);
  to = from + span;
  redraw();
}
const zoom = (factor, around = (from + to) / 2) => view(around - (around - from) * factor, (to - from) * factor);
const here = () => view(times[current] - 20 * Math.max(took[current], 5000), 45 * Math.max(took[current], 5000));
function kind(step) {
  for (let i = current + step; i >= 0 && i < n; i += step) if (rowOf[i] === rowOf[current]) return show(i);
}

function nearest(x, y) {
  const ns = when(x), lane = lanes.find(each => y >= each.y && y < each.y + LANE + GAP);
  const fits = i => !lane || lane.kind === "thread" || lane.kind === "kernel" || (lane.kind === "device" ? data.rows[rowOf[i]].device === lane.device
    : vcpus[i] === lane.vcpu);
  const middle = lower(times, ns);
  let best = -1, gap = Infinity;
  for (const step of [-1, 1])
    for (let i = step < 0 ? middle - 1 : middle, tries = 0; i >= 0 && i < n && tries < 20000; i += step, tries++) {
      if (!fits(i)) continue;
      const away = ns < times[i] ? times[i] - ns : Math.max(ns - times[i] - took[i], 0);
      if (away < gap) { best = i; gap = away; }
      break;
    }
  return {lane, best, ns};
}

let drag = null;
canvas.addEventListener("mousedown", event => { drag = {x: event.offsetX, from, moved: false}; });
addEventListener("mouseup", () => { if (drag && !drag.moved && drag.over) click(drag.over); drag = null; });
canvas.addEventListener("mouseup", event => { if (drag) drag.over = event; });
function click(event) {
  const {best} = nearest(event.offsetX, event.offsetY);
  if (event.offsetX > LABEL && best >= 0) show(best, false);
}
canvas.addEventListener("mousemove", event => {
  if (drag && Math.abs(event.offsetX - drag.x) > 3) drag.moved = true;
  if (drag && drag.moved) return view(drag.from - (event.offsetX - drag.x) / (width - LABEL) * (to - from), to - from);
  hover(event);
});
canvas.addEventListener("mouseleave", () => { $("tip").hidden = true; });
canvas.addEventListener("wheel", event => {
  event.preventDefault();
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) view(from + (event.deltaX || event.deltaY) / 800 * (to - from), to - from);
  else zoom(event.deltaY > 0 ? 1.25 : 0.8, when(Math.max(event.offsetX, LABEL)));
}, {passive: false});
function hover(event) {
  const tip = $("tip"), {lane, best, ns} = nearest(event.offsetX, event.offsetY);
  if (event.offsetX < LABEL || !lane) { tip.hidden = true; return; }
  let text = time(ns);
  if (lane.kind === "kernel") {
    const found = data.kernel.find(each => each[0] <= ns && ns < each[1]);
    if (found) text = `${count(Math.round(found[2]))} VM exits/s, asleep ${(100 * found[3]).toFixed(0)} %, ${count(Math.round(found[4]))} interrupts/s`;
  } else if (lane.kind === "thread") {
    for (let i = 0; i < spanTimes.length; i++)
      if (spanLane[i] === lane.thread && spanTimes[i] <= ns && ns <= spanTimes[i] + spanTook[i] + (to - from) / width)
        text = `${lane.name}: queue ${spanQueue[i]}, ${time(spanTook[i])}`;
  } else if (best >= 0) {
    text = `exit ${count(numberOf[best])}: ${data.titles[textOf[best]]}, ${time(took[best])}`;
    if (lane.kind === "guest") {
      const sample = lower(sampleTimes, ns), pixel = (to - from) / width * 3;
      for (const i of [sample - 1, sample])
        if (Math.abs(sampleTimes[i] - ns) < pixel && sampleVcpu[i] === lane.vcpu) text = `${data.names[sampleName[i]]} (a sample at ${time(sampleTimes[i])})`;
    }
  }
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = Math.min(event.offsetX + 12, Math.max(width - tip.offsetWidth - 4, 0)) + "px";
  tip.style.top = event.offsetY + 16 + "px";
}

const keys = {
  ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1), PageUp: () => show(current - 100), PageDown: () => show(current + 100),
  Home: () => show(0), End: () => show(n - 1), n: () => kind(1), p: () => kind(-1), "+": () => zoom(0.5, times[current]),
  "=": () => zoom(0.5, times[current]), "-": () => zoom(2, times[current]), 0: () => view(data.begin, Infinity), z: here,
};
addEventListener("keydown", event => {
  const act = keys[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("tip").hidden = true;
  act();
});
$("slider").max = Math.max(n - 1, 0);
$("slider").addEventListener("input", event => show(+event.target.value));
const buttons = {first: "Home", back: "ArrowLeft", on: "ArrowRight", last: "End", in: "+", out: "-", fit: "0", around: "z"};
for (const [id, key] of Object.entries(buttons)) $(id).addEventListener("click", () => keys[key]());

// --- tables -------------------------------------------------------------------------------------------------------------
function cells(parts, tag) {
  const line = document.createElement("tr");
  for (const [text, kind] of parts) {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (kind) cell.className = kind;
    line.append(cell);
  }
  return line;
}
function table() {
  const rows = $("rows");
  rows.append(cells([["exit", "left"], ["who, register", "left"], ["where", "left"], ["count"], ["total"], ["min"], ["avg"], ["p99"], ["max"]], "th"));
  const order = data.rows.map((row, i) => i).filter(i => data.rows[i].count).sort((a, b) => data.rows[b].total - data.rows[a].total);
  for (const i of order) {
    const row = data.rows[i];
    const line = cells([[row.what, "left"], [row.who, "left"], [row.place, "left place"], [count(row.count)], [time(row.total)], [time(row.least)],
      [time(row.total / row.count)], [time(row.p99)], [time(row.most)]], "td");
    if (row.device >= 0) {
      const swatch = document.createElement("i");
      swatch.className = "swatch";
      swatch.dataset.device = row.device;
      line.children[1].prepend(swatch);
    }
    line.addEventListener("click", () => {
      choose(chosen === i ? -1 : i);
      if (chosen === i && rowOf[current] !== i) {
        let next = rowOf.indexOf(i, current);
        if (next < 0) next = rowOf.indexOf(i);
        if (next >= 0) show(next);
      }
    });
    row.line = line;
    rows.append(line);
  }
  swatches();
}
const swatches = () => document.querySelectorAll(".swatch").forEach(each => { each.style.background = hue(+each.dataset.device); });
function choose(row) {
  chosen = row;
  data.rows.forEach((each, i) => each.line && each.line.classList.toggle("chosen", i === row));
  histogram();
}

function histogram() {
  const board = $("histogram"), pen = board.getContext("2d"), wide = size(board, pen), tall = board.clientHeight;
  const bins = new Float64Array(4 * 34), all = new Float64Array(bins.length);
  for (let i = 0; i < n; i++) {
    const bin = Math.min(Math.floor(4 * Math.log2(Math.max(took[i], 1))), bins.length - 1);
    all[bin]++;
    if (chosen < 0 || rowOf[i] === chosen) bins[bin]++;
  }
  const first = Math.max(all.findIndex(each => each) - 2, 0);
  let last = all.length - 1;
  while (last > first + 8 && !all[last]) last--;
  last += 2;
  let most = 1;
  for (const each of all) most = Math.max(most, each);
  const step = (wide - 10) / (last - first + 1), scale = (tall - 34) / Math.log1p(most);
  pen.clearRect(0, 0, wide, tall);
  for (let i = first; i <= last; i++) {
    const x = 5 + (i - first) * step;
    pen.fillStyle = style("--line");
    pen.fillRect(x, tall - 20 - Math.log1p(all[i] || 0) * scale, step - 1, Math.log1p(all[i] || 0) * scale);
    pen.fillStyle = style("--user");
    pen.fillRect(x, tall - 20 - Math.log1p(bins[i] || 0) * scale, step - 1, Math.log1p(bins[i] || 0) * scale);
  }
  pen.fillStyle = style("--dim");
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "center";
  for (const [ns, label] of [[100, "100 ns"], [1e3, "1 µs"], [1e4, "10 µs"], [1e5, "100 µs"], [1e6, "1 ms"], [1e7, "10 ms"], [1e8, "100 ms"], [1e9, "1 s"]]) {
    const bin = 4 * Math.log2(ns);
    if (bin >= first && bin <= last) pen.fillText(label, Math.min(Math.max(5 + (bin - first) * step, 20), wide - 24), tall - 6);
  }
  const what = chosen < 0 ? "all exits" : `${data.rows[chosen].what} ${data.rows[chosen].who || data.rows[chosen].place}`;
  $("costs").textContent = `${what}: time in user space, both scales logarithmic; the tallest bar is ${count(most)}`;
}
function hot() {
  if (!data.hot.length) return;
  const list = document.createElement("table"), heading = document.createElement("h2");
  heading.textContent = `where the guest was: ${count(sampleTimes.length)} samples`;
  for (const [name, share, samples] of data.hot) {
    const line = cells([[(100 * share).toFixed(1) + " %"], [count(samples)], ["", "left bars"], [name, "left"]], "td");
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = 100 * share / data.hot[0][1] + "px";
    line.children[2].append(bar);
    list.append(line);
  }
  $("hot").append(heading, list);
}

// --- start --------------------------------------------------------------------------------------------------------------
const root = document.documentElement, prefers = matchMedia("(prefers-color-scheme: dark)");
function theme(name) { root.dataset.theme = name; swatches(); histogram(); redraw(); }
$("theme").addEventListener("click", () => theme(dark() ? "light" : "dark"));
prefers.addEventListener("change", event => theme(event.matches ? "dark" : "light"));
$("name").textContent = data.name;
$("about").textContent = data.about;
table();
hot();
theme(prefers.matches ? "dark" : "light");
addEventListener("resize", () => { histogram(); redraw(); });
view(data.begin, Infinity);
show(0);
