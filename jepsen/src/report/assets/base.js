"use strict";
// What all pages share: elements, the packed data, colours, the time axis and its window.
// Nothing here knows what is shown. Packed data is written by `report/pack.rs`.

const H = {};

// An element: H.el("div.a.b", {title: "x"}, child, "text", ...).
H.el = (spec, attributes, ...children) => {
  const [tag, ...classes] = spec.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "style") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

H.meta = () => JSON.parse(document.getElementById("meta").textContent);

// Inflates the data element: a map from a section's name to its bytes.
H.unpack = async () => {
  const holder = document.getElementById("data");
  const text = atob(holder.textContent.trim());
  holder.textContent = "";
  const packed = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) packed[at] = text.charCodeAt(at);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const sections = new Map();
  const view = new DataView(bytes.buffer);
  const decoder = new TextDecoder();
  for (let at = 0; at < bytes.length; ) {
    const name = decoder.decode(bytes.subarray(at + 1, at + 1 + bytes[at]));
    at += 1 + bytes[at];
    const length = view.getUint32(at, true);
    sections.set(name, bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return sections;
};

// A column of variable-length integers into an array; with `delta`, each is a signed difference.
H.column = (bytes, count, delta, Kind) => {
  const numbers = new (Kind || Float64Array)(count);
  if (!bytes) return numbers;
  for (let index = 0, at = 0, last = 0; index < count; index++) {
    let number = 0, scale = 1, byte;
    do {
      byte = bytes[at++];
      number += (byte & 127) * scale;
      scale *= 128;
    } while (byte > 127);
    if (delta) {
      const negative = number % 2;
      last += negative ? -(number - 1) / 2 : number / 2;
      number = last;
    }
    numbers[index] = number;
  }
  return numbers;
};

H.texts = (bytes) => {
  if (!bytes) return [""];
  const texts = new TextDecoder().decode(bytes).split("\n");
  texts.pop();
  return texts.map((text) => (text.includes("\u2028") ? text.replaceAll("\u2028", "\n") : text));
};

// The first place in an ascending array whose value is not below `value`.
H.lower = (array, value, from = 0, to = array.length) => {
  while (from < to) {
    const middle = (from + to) >> 1;
    if (array[middle] < value) from = middle + 1;
    else to = middle;
  }
  return from;
};

H.clamp = (value, low, high) => Math.max(low, Math.min(high, value));
H.number = (value) => Math.round(value).toLocaleString("en-US");

// ---- colours -----------------------------------------------------------------------------------

H.colors = new Map();
H.color = (name) => {
  if (!H.colors.has(name)) {
    const value = getComputedStyle(document.documentElement).getPropertyValue("--" + name);
    H.colors.set(name, value.trim());
  }
  return H.colors.get(name);
};
H.series = (number) => H.color("c" + (number % 8));
// Kinds of faults have a colour each, far from one another on the wheel.
H.faultKinds = [];
H.faultColor = (kind) => {
  if (!H.faultKinds.includes(kind)) H.faultKinds.push(kind);
  const hue = (H.faultKinds.indexOf(kind) * 137.5 + 265) % 360;
  return `hsl(${hue} 52% ${document.documentElement.dataset.theme === "dark" ? 62 : 45}%)`;
};

H.setTheme = (theme) => {
  document.documentElement.dataset.theme = theme;
  H.colors.clear();
  if (H.stage) H.stage.invalidate();
  document.dispatchEvent(new Event("theme"));
};
H.initTheme = () => {
  let theme = null;
  try { theme = localStorage.getItem("hedgerow-theme"); } catch { /* a file may have no storage */ }
  const asked = new URLSearchParams(location.search).get("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  H.setTheme(asked || theme || (dark ? "dark" : "light"));
};
H.themeButton = () => H.el("button", {
  title: "Light or dark (d)", id: "theme", onclick: () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("hedgerow-theme", next); } catch { /* as above */ }
    H.setTheme(next);
  },
}, "\u25d1");

// ---- time --------------------------------------------------------------------------------------

// How moments and lengths are written; `unit_ns` 0 counts events instead.
H.time = { unit_ns: 1 };
H.moment = (time, step) => {
  const unit = H.time.unit_ns;
  if (!unit) return "#" + H.number(time);
  const seconds = (time * unit) / 1e9;
  const exact = step === undefined ? 6 : -Math.floor(Math.log10(Math.max(step * unit / 1e9, 1e-9)) + 1e-9);
  return seconds.toFixed(H.clamp(exact, 0, 9)) + " s";
};
H.length = (length) => {
  const unit = H.time.unit_ns;
  if (!unit) return H.number(length) + " events";
  const ns = length * unit;
  if (ns < 1e3) return ns.toFixed(0) + " ns";
  if (ns < 1e6) return +(ns / 1e3).toPrecision(3) + " \u00b5s";
  if (ns < 1e9) return +(ns / 1e6).toPrecision(3) + " ms";
  return +(ns / 1e9).toPrecision(4) + " s";
};

// The window of time that is shown.
H.View = class {
  constructor(end) {
    const margin = Math.max(1, end * 0.01);
    this.min = -margin;
    this.max = end + margin;
    this.t0 = this.min;
    this.t1 = this.max;
    this.smallest = 20;
    this.watchers = [];
  }
  set(t0, t1) {
    const span = H.clamp(t1 - t0, this.smallest, this.max - this.min);
    this.t0 = H.clamp(t0, this.min, this.max - span);
    this.t1 = this.t0 + span;
    for (const watcher of this.watchers) watcher();
  }
  zoom(factor, at = (this.t0 + this.t1) / 2) {
    const span = H.clamp((this.t1 - this.t0) * factor, this.smallest, this.max - this.min);
    const share = (at - this.t0) / (this.t1 - this.t0);
    this.set(at - share * span, at + (1 - share) * span);
  }
  pan(share) {
    const distance = (this.t1 - this.t0) * share;
    this.set(this.t0 + distance, this.t1 + distance);
  }
  all() { this.set(this.min, this.max); }
  // Moves the window so that [from, to] is well inside, magnified if it is a small part.
  show(from, to) {
    const length = Math.max(to - from, this.smallest / 4);
    let span = this.t1 - this.t0;
    if (span > length * 40 || span < length * 1.2) span = length * 4;
    const middle = (from + to) / 2;
    this.set(middle - span / 2, middle + span / 2);
  }
};

// Round steps for about `wanted` marks.
H.step = (span, wanted) => {
  const rough = span / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((factor) => factor * power >= rough);
  return Math.max(factor * power, H.time.unit_ns ? 1e-9 : 1);
};

H.copy = async (text, button) => {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = H.el("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = button.textContent;
  button.textContent = "copied";
  setTimeout(() => { button.textContent = before; }, 900);
};

H.command = (text) => {
  const button = H.el("button", { onclick: () => H.copy(text, button) }, "copy");
  return H.el("div.command", {}, H.el("code", {}, text), button);
};

// A run's beginning: milliseconds since 1970, or text.
H.date = (started) => {
  const text = typeof started === "number" ? new Date(started).toISOString() : started || "";
  return text.replace(/\.\d+Z$/, "Z").replace("T", " ");
};

// Nested facts as a table.
H.facts = (value) => {
  const rows = [];
  const walk = (prefix, inner) => {
    if (inner !== null && typeof inner === "object" && !Array.isArray(inner)) {
      for (const [name, next] of Object.entries(inner)) walk(prefix ? `${prefix}.${name}` : name, next);
    } else if (inner !== null && inner !== undefined && inner !== "") {
      const flat = Array.isArray(inner) && inner.every((item) => typeof item !== "object");
      const text = flat ? inner.join(", ") : typeof inner === "object" ? JSON.stringify(inner) : String(inner);
      rows.push(H.el("tr", {}, H.el("td", {}, prefix), H.el("td.mono", {}, text)));
    }
  };
  walk("", value);
  return H.el("table.facts", {}, rows);
};
