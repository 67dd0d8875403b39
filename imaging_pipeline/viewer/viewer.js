"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const FALLBACK = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
  const nv = new niivue.Niivue({
    backColor: [0.06, 0.07, 0.09, 1], isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: 1,
    multiplanarLayout: 2, crosshairColor: [0.55, 0.77, 1, 0.6], crosshairWidth: 0.2, fontColor: [1, 1, 1, 1], isColorbar: false, dragAndDropEnabled: false,
    showAllOrientationMarkers: true, loadingText: "", logLevel: "error",
  });
  await nv.attachTo("canvas");
  let data = { rows: [], labels: {} }, shown = [], current = null, hidden = new Set(), turn = 0;

  function element(name, text = "", ...children) {
    const made = document.createElement(name);
    if (text !== "") made.textContent = text;
    made.append(...children);
    return made;
  }

  const address = (row, kind) => ["/files", row.key, row.model, kind].map((part, i) => (i ? encodeURIComponent(part) : part)).join("/");
  const same = (one, other) => one && other && one.key === other.key && one.model === other.model;
  const labelsOf = (row) => data.labels[row.model] || Object.keys(row.volumes).map((name, i) => ({ index: i + 1, name, colour: FALLBACK[i % FALLBACK.length] }));

  /** What NiiVue needs to colour label numbers. */
  function colours(row) {
    const labels = [{ index: 0, name: "", colour: "#000000" }, ...labelsOf(row)];
    const channel = (at) => labels.map((label) => parseInt(label.colour.slice(at, at + 2), 16));
    return { R: channel(1), G: channel(3), B: channel(5), I: labels.map((label) => label.index), labels: labels.map((label) => label.name),
      A: labels.map((label) => (label.index && !hidden.has(label.index) ? 255 : 0)) };
  }

  function paint() {
    const mask = nv.volumes[nv.volumes.length - 1];
    mask.setColormapLabel(colours(current));
    nv.setOpacity(nv.volumes.length - 1, current.image ? Number($("opacity").value) : 1);
    nv.updateGLVolume();
  }

  async function fetched(row, kind) {
    const answer = await fetch(address(row, kind));
    if (!answer.ok) throw new Error(`${kind} cannot be read: ${(await answer.json()).error}`);
    return answer.arrayBuffer();
  }

  async function draw(row, mine) {
    const parts = [];
    if (row.image) parts.push({ url: await fetched(row, "image"), name: "image.nii.gz", ...(row.window ? { cal_min: row.window[0], cal_max: row.window[1] } : {}) });
    if (row.mask) parts.push({ url: await fetched(row, "mask"), name: "mask.nii.gz" });
    if (mine !== turn) return;
    for (const volume of [...nv.volumes]) nv.removeVolume(volume);
    for (const part of parts) nv.addVolume(await niivue.NVImage.loadFromUrl({ ...part, url: part.url }));
    if (row.mask && parts.length) paint();
    const place = row.mask && centre(nv.volumes[nv.volumes.length - 1]);
    if (place) { nv.scene.crosshairPos = nv.vox2frac(place); nv.drawScene(); }
    $("canvas").dataset.drawn = `${row.key} ${parts.length}`;
  }

  /** A labelled voxel in the midst of the mask. */
  function centre(mask) {
    const values = mask.img, [, nx, ny] = mask.hdr.dims, slab = nx * ny;
    let labelled = 0;
    for (const value of values) labelled += value !== 0;
    let at = -1;
    for (let left = labelled / 2; left > 0; ) left -= values[++at] !== 0;
    return labelled ? [at % nx, Math.floor((at % slab) / nx), Math.floor(at / slab)] : null;
  }

  function tell(text) {
    $("message").textContent = text;
    $("message").hidden = !text;
  }

  function describe(row) {
    $("title").textContent = `${row.modality || "?"} ${row.key} ${row.description}`;
    $("labels").replaceChildren(...labelsOf(row).map((label) => {
      const box = element("input"), patch = element("span");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => { if (box.checked) hidden.delete(label.index); else hidden.add(label.index); paint(); });
      patch.className = "swatch";
      patch.style.background = label.colour;
      const ml = row.volumes[label.name];
      return element("li", "", element("label", "", box, patch, label.name), ml === undefined ? "" : `${ml.toFixed(2)} ml`);
    }));
    $("flags").replaceChildren(...(row.flags.length ? row.flags.map((flag) => element("li", `${flag.code}: ${flag.message}${flag.check ? ` – ${flag.check}` : ""}`)) : [element("li", "nothing")]));
    const facts = [["Model", row.model], ["Voxels", row.shape.join(" × ")], ["Spacing, mm", row.spacing.join(" × ")], ["Geometry", [row.verdict, ...row.findings.map((finding) => finding.message)].join("; ")], ["Status", [row.status, row.code, row.message, row.hint].filter(Boolean).join(": ")]];
    $("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
    $("review").textContent = row.review ? `${row.review.verdict}ed by ${row.review.reviewer}${row.review.comment ? `: ${row.review.comment}` : ""}` : "none yet";
    $("comment").value = "";
    $("saved").textContent = "";
    for (const id of ["accept", "reject"]) $(id).disabled = row.status !== "done";
  }

  async function select(row) {
    const mine = ++turn;
    current = row;
    hidden = new Set();
    list();
    describe(row);
    $("preview").hidden = Boolean(row.image) || !row.preview;
    if (!$("preview").hidden) $("preview").src = address(row, "preview");
    tell(row.image ? "" : row.mask ? "The image was not written: run with --save-image to see it under the mask. Shown here: the mask, and its picture." : `No volume: ${row.message}`);
    try { await draw(row, mine); } catch (error) { tell(String(error.message)); }
  }

  function list() {
    const words = $("search").value.toLowerCase(), filter = $("filter").value;
    const fits = { "": () => true, flagged: (row) => row.flags.length, none: (row) => row.status === "done" && !row.review };
    const keep = fits[filter] || ((row) => row.status === filter || (row.review && row.review.verdict === filter) || row.flags.some((flag) => flag.code === filter));
    shown = data.rows.filter((row) => keep(row) && [row.key, row.modality, row.description, row.code, row.model].join(" ").toLowerCase().includes(words));
    const at = Math.max(shown.findIndex((row) => same(row, current)), 0), first = Math.max(Math.min(at - 100, shown.length - 200), 0);
    $("list").replaceChildren(...shown.slice(first, first + 200).map((row) => {
      const button = element("button", `${row.modality || "?"} ${row.key}`, element("small", [row.status, row.code, row.review && `${row.review.verdict}ed`, row.flags.length ? `${row.flags.length} to look at` : ""].filter(Boolean).join(", ")));
      button.type = "button";
      button.setAttribute("aria-current", String(Boolean(same(row, current))));
      button.addEventListener("click", () => select(row));
      return element("li", "", button);
    }));
    $("count").textContent = current && same(shown[at], current) ? `${at + 1} of ${shown.length}` : `${shown.length} series`;
  }

  function step(by) {
    const at = shown.findIndex((row) => same(row, current));
    const next = shown[at < 0 ? 0 : at + by];
    if (next) select(next);
  }

  async function judge(verdict) {
    const { key, model } = current;
    const answer = await fetch("/api/reviews", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ key, model, verdict, comment: $("comment").value }) });
    if (!answer.ok) { $("saved").textContent = `not saved: ${(await answer.json()).error}`; return; }
    await load();
    current = data.rows.find((row) => same(row, { key, model }));
    describe(current);
    $("saved").textContent = `saved: ${verdict}`;
    list();
  }

  async function load() {
    data = await (await fetch("/api/series")).json();
  }

  await load();
  const codes = new Set(data.rows.flatMap((row) => row.flags.map((flag) => flag.code)));
  for (const [value, words] of [["done", "done"], ["flagged", "to look at"], ["failed", "failed"], ["skipped", "skipped"], ["none", "not reviewed"], ["accept", "accepted"], ["reject", "rejected"], ...[...codes].map((code) => [code, `flag ${code}`])]) {
    const option = element("option", words);
    option.value = value;
    $("filter").append(option);
  }
  $("filter").value = data.rows.some((row) => row.status === "done") ? "done" : "";
  $("search").addEventListener("input", list);
  $("filter").addEventListener("input", () => { list(); if (shown.length && !shown.some((row) => same(row, current))) select(shown[0]); });
  $("opacity").addEventListener("input", paint);
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  for (const verdict of ["accept", "reject"]) $(verdict).addEventListener("click", () => judge(verdict));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("textarea, input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { n: () => step(1), p: () => step(-1), a: () => $("accept").click(), r: () => $("reject").click() };
    if (keys[event.key]) keys[event.key]();
  });
  list();
  if (shown.length) await select(shown[0]);
})();
