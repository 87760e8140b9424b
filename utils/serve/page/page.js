"use strict";
// The page: a file goes to /v1/detect or /v1/clip for each chosen model, and what comes back is drawn over it.
// Images are asked for at the lowest confidence once: suppression goes by falling confidence, so leaving out the weaker
// boxes here gives what a request at a higher confidence would.

const TEXTS = {
  en: {
    title: "Detection", local: "Runs on the machine of this page; nothing is sent anywhere else.",
    interface: "Interface for programs", theme: "Theme", settings: "Settings", choose: "Choose an image or a clip",
    "or-drop": "or drop it here, or paste it", model: "Model", other: "Beside it", none: "none",
    confidence: "Least confidence", iou: "Overlap (IoU) of two boxes, at most", imgsz: "Network input in pixels",
    heat: "Heat map", method: "Method", layer: "Layer", opacity: "Strength of the overlay", results: "Results",
    nothing: "Nothing chosen yet.", sending: "Detecting in {name} …", done: "{name}: done.", frames: "{done} of {all} frames",
    objects: "{n} objects", object: "1 object", times: "{ms} ms network, input {w} × {h}", class: "Class", score: "Confidence",
    box: "Box", sides: "left, top, right, bottom in pixels", json: "JSON", csv: "CSV", png: "Image", webm: "Annotated clip",
    perframe: "per frame", mostin: "most in a frame", frameswith: "frames with it", counts: "Objects per class over {n} frames",
    cut: "The clip was cut at {n} frames (--max-frames).", unreachable: "The server does not answer: is it still running?",
    notarget: "no heat map: {why}", default: "{size} (default)", auto: "where the detection comes from",
    heatof: "heat map of {target}, layer {layer}", empty: "Nothing found at this confidence.",
  },
  zh: {
    title: "目标检测", local: "全部在本页所在的机器上运行，不向别处发送任何数据。",
    interface: "编程接口", theme: "明暗", settings: "设置", choose: "选择图片或视频",
    "or-drop": "也可以拖到这里，或直接粘贴", model: "模型", other: "并排对比", none: "无",
    confidence: "最低置信度", iou: "两框最大重叠（IoU）", imgsz: "网络输入尺寸（像素）",
    heat: "热力图", method: "方法", layer: "层", opacity: "叠加强度", results: "结果",
    nothing: "还没有选择文件。", sending: "正在检测 {name} …", done: "{name}：完成。", frames: "第 {done} 帧，共 {all} 帧",
    objects: "{n} 个目标", object: "1 个目标", times: "网络 {ms} 毫秒，输入 {w} × {h}", class: "类别", score: "置信度",
    box: "框", sides: "左、上、右、下（像素）", json: "JSON", csv: "CSV", png: "图片", webm: "标注视频",
    perframe: "每帧平均", mostin: "单帧最多", frameswith: "出现帧数", counts: "{n} 帧中各类目标数",
    cut: "视频只处理了前 {n} 帧（--max-frames）。", unreachable: "服务器没有响应：它还在运行吗？",
    notarget: "没有热力图：{why}", default: "{size}（默认）", auto: "检测结果所在的层",
    heatof: "{target} 的热力图，层 {layer}", empty: "在此置信度下没有找到目标。",
  },
};
const METHODS = [["", "none"], ["layercam", "LayerCAM"], ["gradcam", "Grad-CAM"], ["gradcam++", "Grad-CAM++"], ["eigencam", "EigenCAM"]];
const LEAST = 0.05;
const $ = (id) => document.getElementById(id);
const state = { language: "en", models: [], file: null, panels: [], run: 0, hidden: new Set(), status: ["nothing", {}] };

function text(key, values = {}) {
  return (TEXTS[state.language][key] ?? TEXTS.en[key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function draw(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// ---- settings ----

function say(key, values = {}, failed = false) {
  state.status = [key, values];
  $("status").textContent = key === "raw" ? values.text : text(key, values);
  $("status").classList.toggle("failed", failed);
}

function progress(done, all) {
  const bar = $("progress");
  bar.hidden = done === null;
  if (all) { bar.max = all; bar.value = done; } else { bar.removeAttribute("value"); }
}

function setLanguage(language) {
  state.language = language;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) if (node.id !== "status") node.textContent = text(node.dataset.text);
  document.title = text("title");
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  say(...state.status, $("status").classList.contains("failed"));
  fillChoices();
  state.panels.forEach(showPanel);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* private windows keep nothing */ }
}

function remembered(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

function fillSelect(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, label]) => make("option", { value }, label)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

function chosen(id) {
  return state.models.find((model) => model.name === $(id).value);
}

function fillChoices() {
  const names = state.models.map((model) => [model.name, model.name]);
  fillSelect($("model"), names);
  fillSelect($("other"), [["", text("none")], ...names]);
  fillSizes();
  fillSelect($("method"), METHODS.map(([value, label]) => [value, value ? label : text("none")]));
  fillLayers();
}

function fillSizes() {
  const model = chosen("model");
  if (!model) return;
  const own = Math.max(model.input_height, model.input_width);
  const sizes = model.fixed_size ? [] : [320, 416, 512, 640, 960, 1280].filter((size) => size !== own);
  fillSelect($("imgsz"), [["", text("default", { size: own })], ...sizes.map((size) => [String(size), String(size)])]);
}

function fillLayers() {
  const model = chosen("model");
  $("heat").hidden = !state.models.some((each) => each.heat_maps);
  if (!model) return;
  fillSelect($("layer"), [["", text("auto")], ...model.layers.map((name, index) => [String(index), `${index}: ${name}`])]);
  $("layer").disabled = !$("method").value;
}

// ---- requests ----

async function ask(address, parameters, body) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
  let answer;
  try {
    answer = await fetch(`${address}?${query}`, { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
  } catch {
    throw new Error(text("unreachable"));
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.error || `HTTP ${answer.status}`);
  }
  return answer;
}

function isClip(file) {
  return file.type.startsWith("video/") || /\.(mp4|mov|m4v|webm|mkv|avi)$/i.test(file.name);
}

async function start() {
  if (!state.file || !state.models.length) return;
  const run = ++state.run;
  const names = [$("model").value, $("other").value].filter((name, index, all) => name && all.indexOf(name) === index);
  say("sending", { name: state.file.name });
  progress(0, 0);
  try {
    const panels = [];
    for (const name of names) {
      const model = state.models.find((each) => each.name === name);
      const panel = isClip(state.file) ? await clipPanel(model, run) : await imagePanel(model);
      if (run !== state.run) return;
      panels.push(panel);
    }
    const old = state.panels;
    state.panels = panels;
    $("panels").replaceChildren(...panels.map((panel) => panel.node));
    panels.forEach(showPanel);
    old.forEach((panel) => panel.image && URL.revokeObjectURL(panel.image));
    say("done", { name: state.file.name });
    const top = $("status").getBoundingClientRect().top;
    if (top > innerHeight * 0.6) $("status").scrollIntoView();
    if (!isClip(state.file)) await heatMaps(run);
  } catch (error) {
    if (run === state.run) say("raw", { text: error.message }, true);
  } finally {
    if (run === state.run) progress(null);
  }
}

async function imagePanel(model) {
  const answer = await ask("/v1/detect", { model: model.name, conf: LEAST, iou: $("iou").value, imgsz: $("imgsz").value }, state.file);
  return { kind: "image", model, result: await answer.json(), image: URL.createObjectURL(state.file), node: make("article", { class: "panel" }) };
}

async function clipPanel(model, run) {
  const answer = await ask("/v1/clip", { model: model.name, conf: $("conf").value, iou: $("iou").value, imgsz: $("imgsz").value }, state.file);
  const frames = [];
  let end = null, rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    if (run !== state.run) { await reader.cancel(); return null; }
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((each) => JSON.parse(each))) {
      if (line.error) throw new Error(line.error);
      if (line.clip) end = line; else frames.push(line);
    }
    const last = frames[frames.length - 1];
    if (last) {
      progress(last.frame, last.frames);
      say("raw", { text: `${model.name}: ${text("frames", { done: last.frame, all: last.frames || "?" })}` });
    }
  }
  if (!end) throw new Error(text("unreachable"));
  return { kind: "clip", model, frames, end, node: make("article", { class: "panel" }) };
}

async function heatMaps(run) {
  for (const panel of state.panels) {
    panel.heat = null;
    if (panel.kind !== "image") continue;
    if ($("method").value && panel.model.heat_maps) {
      progress(0, 0);
      try {
        const answer = await ask("/v1/heatmap", {
          model: panel.model.name, method: $("method").value, layer: $("layer").value, conf: $("conf").value,
          iou: $("iou").value, box: panel.box ?? 1, imgsz: $("imgsz").value,
        }, state.file);
        panel.heat = await answer.json();
      } catch (error) {
        panel.heat = { problem: error.message };
      }
      if (run !== state.run) return;
      progress(null);
    }
    showPanel(panel);
  }
}

// A row of the table makes its detection the one that heat maps explain.
function explain(found) {
  for (const panel of state.panels) {
    if (panel.kind !== "image") continue;
    const at = visible(panel).indexOf(found);
    if (at >= 0) panel.box = at + 1;
  }
  if ($("method").value) heatMaps(state.run);
}

// ---- results ----

function color(classId) {
  return `hsl(${(classId * 137.508 + 210) % 360} 80% 38%)`;
}

function number(value, digits) {
  return value.toFixed(digits);
}

function visible(panel) {
  const least = Number($("conf").value);
  return panel.result.detections.filter((found) => found.confidence >= least);
}

function showPanel(panel) {
  if (panel.kind === "clip") showClip(panel); else showImage(panel);
}

function showImage(panel) {
  const { result, node } = panel;
  const all = visible(panel);
  const shown = all.filter((found) => !state.hidden.has(found.name));
  const title = make("h3", {}, panel.model.name);
  const counted = shown.length === 1 ? text("object") : text("objects", { n: shown.length });
  const facts = make("p", { class: "facts" }, `${counted} · ${text("times", {
    ms: number(result.milliseconds.inference, 1), w: result.input_width, h: result.input_height })}`);
  if (panel.heat) {
    const why = panel.heat.problem ? text("notarget", { why: panel.heat.problem }) : text("heatof", { target: panel.heat.target, layer: panel.heat.layer });
    facts.append(make("br"), why);
  }
  const overlay = draw("svg", { viewBox: `0 0 ${result.width} ${result.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const image = make("img", { class: "image", src: panel.image, alt: `${state.file.name}: ${counted}`, onload: () => panel.fit() });
  const stack = make("div", { class: "stack" }, image);
  panel.fit = () => drawBoxes(overlay, result, shown, stack.clientWidth);
  if (panel.heat?.png) {
    const heat = make("img", { class: "heat", src: `data:image/png;base64,${panel.heat.png}`, alt: "" });
    heat.style.opacity = $("opacity").value;
    stack.append(heat);
  }
  stack.append(overlay);
  node.replaceChildren(title, facts, make("div", { class: "view" }, stack), chipsOf(all), tableOf(shown, overlay), make("div", { class: "downloads" },
    downloadButton("json", () => jsonOf(panel)), downloadButton("csv", () => csvOf(panel)), make("button", { type: "button", onclick: () => saveImage(panel) }, text("png"))));
}

const ruler = document.createElement("canvas").getContext("2d");

function widthOf(label, size) {
  ruler.font = `600 ${size}px system-ui, sans-serif`;
  return ruler.measureText(label).width;
}

function drawBoxes(svg, { width, height }, shown, displayed) {
  if (!displayed) return;
  const size = 12.5 * width / displayed; // pixels of the image that are so many on the screen
  svg.replaceChildren();
  const taken = [];
  [...shown].forEach((found, index) => {
    const tint = color(found.class_id);
    const label = `${found.name} ${number(found.confidence, 2)}`;
    const wide = widthOf(label, size) + size * 0.5;
    const x = Math.max(Math.min(found.x1, width - wide), 0);
    const spots = [found.y1 - size * 1.3, found.y1, found.y2 - size * 1.3, found.y2].map((y) => Math.max(Math.min(y, height - size * 1.3), 0));
    const free = spots.find((y) => !taken.some((t) => x < t.x + t.w && t.x < x + wide && y < t.y + size * 1.3 && t.y < y + size * 1.3));
    const group = draw("g", { "data-index": index });
    group.append(draw("rect", { class: "box", x: found.x1, y: found.y1, width: found.x2 - found.x1, height: found.y2 - found.y1, stroke: tint }));
    if (free !== undefined) {
      taken.push({ x, y: free, w: wide });
      const words = draw("text", { x: x + size * 0.25, y: free + size, fill: "#fff", "font-size": size });
      words.style.fontSize = `${size}px`;
      words.textContent = label;
      group.append(draw("rect", { x, y: free, width: wide, height: size * 1.3, fill: tint }), words);
    }
    svg.prepend(group);
  });
}

function light(overlay, index) {
  for (const group of overlay.children) {
    group.classList.toggle("dim", index !== null && group.dataset.index !== String(index));
    group.classList.toggle("lit", group.dataset.index === String(index));
  }
}

function chipsOf(found) {
  const counts = new Map();
  for (const each of found) counts.set(each.name, { id: each.class_id, n: (counts.get(each.name)?.n ?? 0) + 1 });
  return make("div", { class: "chips" }, ...[...counts].sort((a, b) => b[1].n - a[1].n).map(([name, { id, n }]) => {
    const chip = make("button", { type: "button", "aria-pressed": String(!state.hidden.has(name)), "data-name": name, onclick: () => {
      state.hidden.has(name) ? state.hidden.delete(name) : state.hidden.add(name);
      state.panels.forEach(showPanel);
      document.querySelector(`.chips button[data-name="${CSS.escape(name)}"]`)?.focus();
    } }, dotOf(id), `${name} ${n}`);
    return chip;
  }));
}

function dotOf(classId) {
  const dot = make("span", { class: "dot" });
  dot.style.background = color(classId);
  return dot;
}

function tableOf(shown, overlay) {
  if (!shown.length) return make("p", { class: "facts" }, text("empty"));
  const rows = shown.map((found, index) => make("tr", {
    tabindex: "0", onmouseenter: () => light(overlay, index), onmouseleave: () => light(overlay, null),
    onfocus: () => light(overlay, index), onblur: () => light(overlay, null),
    onclick: () => explain(found), onkeydown: (event) => event.key === "Enter" && explain(found),
  }, make("td", {}, dotOf(found.class_id), found.name), make("td", { class: "number" }, number(found.confidence, 3)),
  make("td", { class: "number" }, [found.x1, found.y1, found.x2, found.y2].map((value) => number(value, 0)).join(", "))));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, text("class")),
    make("th", { scope: "col", class: "number" }, text("score")), make("th", { scope: "col", class: "number", title: text("sides") }, text("box")))), make("tbody", {}, ...rows)));
}

function showClip(panel) {
  const { frames, end, node, model } = panel;
  const video = panel.video ?? make("video", { controls: true, src: end.clip, "aria-label": text("webm") });
  panel.video = video;
  const perClass = new Map();
  for (const frame of frames) {
    const inFrame = new Map();
    for (const found of frame.detections) inFrame.set(found.name, (inFrame.get(found.name) ?? 0) + 1);
    for (const [name, n] of inFrame) {
      const sum = perClass.get(name) ?? { id: frame.detections.find((found) => found.name === name).class_id, n: 0, most: 0, frames: 0 };
      perClass.set(name, { id: sum.id, n: sum.n + n, most: Math.max(sum.most, n), frames: sum.frames + 1 });
    }
  }
  const rows = [...perClass].sort((a, b) => b[1].n - a[1].n).map(([name, sum]) => make("tr", {}, make("td", {}, dotOf(sum.id), name),
    make("td", { class: "number" }, number(sum.n / frames.length, 2)), make("td", { class: "number" }, String(sum.most)), make("td", { class: "number" }, String(sum.frames))));
  const table = rows.length ? make("div", { class: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, text("class")),
    ...["perframe", "mostin", "frameswith"].map((key) => make("th", { scope: "col", class: "number" }, text(key))))), make("tbody", {}, ...rows))) : make("p", { class: "facts" }, text("empty"));
  const facts = make("p", { class: "facts" }, text("counts", { n: frames.length }));
  if (end.cut) facts.append(make("br"), text("cut", { n: end.frames }));
  node.replaceChildren(make("h3", {}, model.name), facts, make("div", { class: "view" }, video), table, make("div", { class: "downloads" },
    downloadButton("json", () => jsonOf(panel)), downloadButton("csv", () => csvOf(panel)), make("a", { class: "download", href: end.clip, download: "annotated.webm" }, text("webm"))));
}

// ---- downloads ----

function rowsOf(panel) {
  if (panel.kind === "image") return visible(panel).filter((found) => !state.hidden.has(found.name)).map((found) => ({ file: state.file.name, frame: 0, time: 0, ...found }));
  return panel.frames.flatMap((frame) => frame.detections.map((found) => ({ file: state.file.name, frame: frame.frame, time: frame.seconds, ...found })));
}

function jsonOf(panel) {
  return ["application/json", JSON.stringify(rowsOf(panel), null, 1)];
}

function csvOf(panel) {
  const names = ["file", "frame", "time", "class_id", "name", "confidence", "x1", "y1", "x2", "y2"];
  const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return ["text/csv", [names, ...rowsOf(panel).map((row) => names.map((name) => cell(row[name])))].map((row) => row.join(",")).join("\n") + "\n"];
}

function downloadButton(kind, contentOf) {
  return make("button", { type: "button", onclick: () => {
    const [type, content] = contentOf();
    save(new Blob([content], { type }), `detections.${kind}`);
  } }, text(kind));
}

function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function saveImage(panel) {
  const shownImage = panel.node.querySelector("img.image");
  const { width, height } = panel.result;
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(shownImage, 0, 0, width, height);
  const heat = panel.node.querySelector("img.heat");
  if (heat) { context.globalAlpha = Number($("opacity").value); context.drawImage(heat, 0, 0, width, height); context.globalAlpha = 1; }
  context.lineWidth = Math.max(Math.sqrt(width * height) / 300, 2);
  for (const group of panel.node.querySelector("svg").children) {
    const [box, label, words] = group.children;
    const at = (node) => ["x", "y", "width", "height"].map((name) => Number(node.getAttribute(name)));
    context.strokeStyle = box.getAttribute("stroke");
    context.strokeRect(...at(box));
    if (!label) continue;
    context.fillStyle = label.getAttribute("fill");
    context.fillRect(...at(label));
    context.fillStyle = "#fff";
    context.font = `600 ${words.getAttribute("font-size")}px system-ui, sans-serif`;
    context.fillText(words.textContent, Number(words.getAttribute("x")), Number(words.getAttribute("y")));
  }
  canvas.toBlob((blob) => save(blob, "detections.png"), "image/png");
}

// ---- events ----

function choose(file) {
  if (!file) return;
  state.file = file;
  state.hidden.clear();
  start();
}

function connect() {
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("file").addEventListener("change", () => choose($("file").files[0]));
  for (const name of ["dragenter", "dragover"]) document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  for (const name of ["dragleave", "drop"]) document.addEventListener(name, () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); choose(event.dataTransfer.files[0]); });
  document.addEventListener("paste", (event) => choose([...(event.clipboardData?.files ?? [])][0]));
  for (const id of ["conf", "iou", "opacity"]) $(id).addEventListener("input", () => {
    document.querySelector(`output[for=${id}]`).textContent = $(id).value;
    if (id !== "iou") state.panels.filter((panel) => panel.kind === "image").forEach(showPanel);
  });
  $("model").addEventListener("change", () => { fillSizes(); fillLayers(); start(); });
  for (const id of ["other", "iou", "imgsz"]) $(id).addEventListener("change", start);
  $("conf").addEventListener("change", () => {
    if (state.file && isClip(state.file)) start(); else heatMaps(state.run);
  });
  $("method").addEventListener("change", () => { fillLayers(); heatMaps(state.run); });
  $("layer").addEventListener("change", () => heatMaps(state.run));
  $("language").addEventListener("click", () => { setLanguage(state.language === "zh" ? "en" : "zh"); remember("language", state.language); });
  $("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    setTheme(now === "dark" ? "light" : "dark");
    remember("theme", document.documentElement.dataset.theme);
  });
}

async function open() {
  window.addEventListener("resize", () => state.panels.forEach((panel) => panel.fit?.()));
  connect();
  setTheme(remembered("theme"));
  state.language = remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  try {
    state.models = await (await fetch("/v1/models")).json();
  } catch {
    say("unreachable", {}, true);
  }
  setLanguage(state.language);
}

open();
