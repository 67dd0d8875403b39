
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows.map((row, index) => ({ ...row, index, text: searchable(row) }));
  const PAGE = { table: 50, gallery: 48 };
  const state = { search: "", status: "", flag: "", review: "", model: "", volume: "", sort: "", up: true, page: 0, view: "table" };
  const open = new Set();
  const $ = (id) => document.getElementById(id);
  const order = { failed: 0, done: 1, skipped: 2 };

  /** Everything of a row that a search may find, in small letters. */
  function searchable(row) {
    const flags = row.flags.map((flag) => `${flag.code} ${flag.message}`);
    const findings = row.findings.map((finding) => `${finding.code} ${finding.message}`);
    const parts = [row.key, row.modality, row.description, row.model, row.status, row.code, row.message, row.run, row.device];
    return [...parts, ...flags, ...findings, row.review ? row.review.comment : ""].join(" ").toLowerCase();
  }

  /** An element with text and attributes; text is never read as HTML. */
  function element(name, text = "", attributes = {}, ...children) {
    const made = document.createElement(name);
    if (text !== "") made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function volumeOf(row) {
    if (!row.volumes || row.status !== "done") return undefined;
    if (state.volume !== "") return row.volumes[state.volume];
    const all = Object.values(row.volumes);
    return all.length ? all.reduce((sum, ml) => sum + ml, 0) : undefined;
  }

  const sorters = {
    key: (row) => `${row.modality} ${row.key}`,
    description: (row) => row.description.toLowerCase(),
    slices: (row) => row.slices,
    status: (row) => order[row.status],
    flags: (row) => row.flags.length,
    volume: volumeOf,
    seconds: (row) => (row.status === "done" ? row.seconds : undefined),
    review: (row) => (row.review ? row.review.verdict : undefined),
  };

  function compare(one, other) {
    const [a, b] = [sorters[state.sort](one), sorters[state.sort](other)];
    if (a === b) return one.index - other.index;
    if (a === undefined || b === undefined) return a === undefined ? 1 : -1; // what has no value stays at the end
    return (a < b ? -1 : 1) * (state.up ? 1 : -1);
  }

  function selected() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) =>
      (!state.status || row.status === state.status) &&
      (!state.model || row.model === state.model) &&
      (!state.flag || (state.flag === "any" ? row.flags.length > 0 : row.flags.some((flag) => flag.code === state.flag))) &&
      (!state.review || (row.review ? row.review.verdict : row.status === "done" ? "none" : "") === state.review) &&
      words.every((word) => row.text.includes(word)));
    return state.sort ? found.sort(compare) : found;
  }

  const number = (value, digits) => (value === undefined ? "" : value.toFixed(digits));
  const status = (row) => element("span", row.status, { class: `status ${row.status}` });
  const flags = (row) => row.flags.map((flag) => element("span", flag.code, { class: "flag", title: flag.message }));
  const title = (row) => `${row.modality || "?"} ${row.key}${row.stack ? `, stack ${row.stack}` : ""}`;

  function picture(row) {
    const words = `Axial, coronal and sagittal plane of ${title(row)}`;
    return element("img", "", { src: data.pictures[row.preview] || encodeURI(row.preview), alt: words, loading: "lazy", decoding: "async" });
  }

  function toggle(row, button) {
    if (open.has(row.index)) open.delete(row.index); else open.add(row.index);
    const line = button.closest("tr");
    if (open.has(row.index)) line.after(detail(row)); else line.nextElementSibling.remove();
    button.setAttribute("aria-expanded", String(open.has(row.index)));
  }

  function line(row) {
    const button = element("button", `${row.modality || "?"} ${row.key}`, { type: "button", class: "key", "aria-expanded": String(open.has(row.index)), "aria-controls": `detail-${row.index}` });
    button.addEventListener("click", () => toggle(row, button));
    const tr = element("tr", "", { class: "row" },
      element("td", "", { class: "pic" }, ...(row.preview ? [picture(row)] : [])),
      element("th", "", { scope: "row" }, button),
      element("td", [row.description, row.stack ? `stack ${row.stack}` : ""].filter(Boolean).join(", ")),
      element("td", String(row.slices), { class: "num" }),
      element("td", "", {}, status(row), ...(row.code ? [" ", element("code", row.code)] : [])),
      element("td", "", {}, ...flags(row)),
      element("td", number(volumeOf(row), 2), { class: "num" }),
      element("td", row.status === "done" ? number(row.seconds, 2) : "", { class: "num" }),
      element("td", row.review ? `${row.review.verdict}ed` : ""));
    tr.querySelector(".pic").addEventListener("click", () => toggle(row, button));
    return tr;
  }

  function facts(pairs) {
    const table = element("table");
    for (const [name, value] of pairs) {
      if (value !== "" && value !== undefined) table.append(element("tr", "", {}, element("th", name, { scope: "row" }), element("td", value)));
    }
    return table;
  }

  function list(heading, items) {
    return items.length ? [element("h3", heading), element("ul", "", {}, ...items.map((item) => element("li", item)))] : [];
  }

  function swatch(colour) {
    const made = element("span", "", { class: "swatch", "aria-hidden": "true" });
    made.style.background = colour;
    return made;
  }

  function volumes(row) {
    const names = Object.keys(row.volumes);
    if (!names.length) return [];
    const colours = data.colours[row.model] || {};
    const agreed = Object.keys(row.agreement).length > 0;
    const table = element("table", "", {}, ...names.map((name) => element("tr", "", {},
      element("th", "", { scope: "row" }, swatch(colours[name] || "#ffffff"), name),
      element("td", `${number(row.volumes[name], 3)} ml`, { class: "num" }),
      ...(agreed ? [element("td", name in row.agreement ? `members agree ${number(row.agreement[name], 2)}` : "", { class: "num" })] : []))));
    const note = "Mean Dice between the networks and mirror images that the mask is the mean of: 1 where all drew the same.";
    return [element("h3", "Volumes"), table, ...(agreed ? [element("p", note, { class: "soft" })] : [])];
  }

  function detail(row) {
    const figure = element("figure");
    if (row.preview) {
      figure.append(picture(row), element("figcaption", "Axial, coronal, sagittal, as radiologists look: R, L, A, P, S, I are the patient's sides. Below: scale, window, and the voxel that the planes meet in."));
    } else {
      figure.append(element("p", row.status === "done" ? "No picture was written for it." : row.message));
    }
    const files = [row.mask, row.image].filter(Boolean).map((path) => element("a", path.split("_").pop(), { href: encodeURI(path), download: "" }));
    const told = element("div", "", {},
      ...list("To look at", row.flags.map((flag) => `${flag.code}: ${flag.message}${flag.check ? ` – ${flag.check}` : ""}`)),
      ...(row.code ? [element("h3", `${row.status}: ${row.code}`), element("p", row.message), element("p", row.hint ? `What to do: ${row.hint}` : "")] : []),
      ...volumes(row),
      element("h3", "Series"),
      facts([
        ["Key", row.key], ["Model", row.model], ["Geometry", row.verdict],
        ["Voxels", row.shape.join(" × ")], ["Spacing", row.spacing.length ? `${row.spacing.map((mm) => mm.toFixed(3).replace(/\.?0+$/, "")).join(" × ")} mm` : ""],
        ["Seconds", Object.entries(row.stages).map(([name, taken]) => `${name.replace("_", " ")} ${taken}`).join(", ")],
        ["Device", [row.device, row.backend].filter(Boolean).join(", ")],
        ["Memory", row.memory_mb ? `${row.memory_mb} MB` : ""],
        ["Finished", row.finished.slice(0, 19).replace("T", " ")], ["Run", row.run], ["Attempt", row.attempt > 1 ? String(row.attempt) : ""],
        ["Again because", row.again],
      ]),
      element("p", "", {}, ...files.flatMap((link) => [link, " "])),
      ...list("Findings of the geometry", row.findings.map((finding) => `${finding.code}: ${finding.message}`)),
      ...(row.review ? list("Review", [`${row.review.verdict}ed by ${row.review.reviewer}, ${row.review.at.slice(0, 16).replace("T", " ")} UTC${row.review.comment ? `: ${row.review.comment}` : ""}`]) : []));
    const cell = element("td", "", { colspan: "9" }, element("div", "", { class: "detail-grid" }, figure, told));
    return element("tr", "", { class: "detail", id: `detail-${row.index}` }, cell);
  }

  function card(row) {
    const shown = row.preview ? picture(row) : element("div", row.message || "no picture", { class: "none" });
    const button = element("button", `${row.modality || "?"} ${row.key}`, { type: "button", class: "key" });
    button.addEventListener("click", () => { open.add(row.index); state.search = $("search").value = row.key; show("table"); });
    const words = Object.entries(row.volumes).slice(0, 3).map(([name, ml]) => `${name} ${number(ml, 2)} ml`).join(", ");
    return element("li", "", {}, shown, element("div", "", { class: "what" }, button, status(row), ...flags(row), element("span", words, { class: "soft" })));
  }

  function draw() {
    const found = selected(), size = PAGE[state.view], last = Math.max(Math.ceil(found.length / size) - 1, 0);
    state.page = Math.min(state.page, last);
    const part = found.slice(state.page * size, (state.page + 1) * size);
    $("table-view").hidden = state.view !== "table";
    $("gallery").hidden = state.view !== "gallery";
    $("table").tBodies[0].replaceChildren(...(state.view === "table" ? part.flatMap((row) => (open.has(row.index) ? [line(row), detail(row)] : [line(row)])) : []));
    $("gallery").replaceChildren(...(state.view === "gallery" ? part.map(card) : []));
    $("count").textContent = `${found.length} of ${rows.length} series`;
    $("page").textContent = `page ${state.page + 1} of ${last + 1}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === last;
    $("pager").hidden = last === 0;
    for (const th of document.querySelectorAll("th[data-sort]")) {
      th.setAttribute("aria-sort", th.dataset.sort !== state.sort ? "none" : state.up ? "ascending" : "descending");
    }
  }

  function show(view) {
    state.view = view;
    state.page = 0;
    for (const name of ["table", "gallery"]) $(`as-${name}`).setAttribute("aria-pressed", String(name === view));
    draw();
  }

  function fill(id, values) {
    for (const [value, words] of values) $(id).append(element("option", words, { value }));
  }

  const counted = (values) => {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
    return [...counts].sort().map(([value, count]) => [value, `${value} (${count})`]);
  };

  function turn(by) {
    state.page += by;
    draw();
    $("series").scrollIntoView();
  }

  fill("status", counted(rows.map((row) => row.status)));
  fill("flag", [["any", "any"], ...counted(rows.flatMap((row) => [...new Set(row.flags.map((flag) => flag.code))]))]);
  fill("model", counted(rows.map((row) => row.model)));
  fill("volume", [["", "all labels"], ...[...new Set(rows.flatMap((row) => Object.keys(row.volumes)))].map((name) => [name, name])]);
  $("model-label").hidden = $("model").options.length < 3;
  $("volume-label").hidden = $("volume").options.length < 3;
  for (const id of ["search", "status", "flag", "review", "model", "volume"]) {
    $(id).addEventListener("input", () => { state[id] = $(id).value; state.page = 0; draw(); });
  }
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      state[button.dataset.filter] = $(button.dataset.filter).value = button.dataset.value;
      state.page = 0;
      draw();
      $("series").focus();
      $("series").scrollIntoView();
    });
  }
  for (const th of document.querySelectorAll("th[data-sort]")) {
    th.firstElementChild.addEventListener("click", () => {
      state.up = state.sort === th.dataset.sort ? !state.up : !["flags", "volume", "seconds", "slices"].includes(th.dataset.sort);
      state.sort = th.dataset.sort;
      draw();
    });
  }
  $("as-table").addEventListener("click", () => show("table"));
  $("as-gallery").addEventListener("click", () => show("gallery"));
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  draw();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
})();
