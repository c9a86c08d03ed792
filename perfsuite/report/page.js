// Draws the charts in the colours of the page, sorts and filters the long tables.
(() => {
  "use strict";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const chosen = {};

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  // "--hue-1" is that property of the page; "--hue-1/40" is 40 % of it on the card's background, opaque, so that a
  // readable text colour can be chosen for it.
  function colour(name, style) {
    const [property, percent] = name.split("/");
    const value = style.getPropertyValue(property).trim();
    if (!percent) return value;
    const below = rgb(style.getPropertyValue("--card").trim());
    const mixed = rgb(value).map((c, i) => Math.round(below[i] + ((c - below[i]) * percent) / 100));
    return "#" + mixed.map((c) => c.toString(16).padStart(2, "0")).join("");
  }

  // Black or white, whichever stands out more (relative luminance of WCAG 2).
  function readable(background) {
    const [r, g, b] = rgb(background).map((c) => (c / 255 <= 0.04045 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000000" : "#ffffff";
  }

  function coloured(value, style, isColour) {
    if (typeof value === "string") return isColour && value.startsWith("--") ? colour(value, style) : value;
    if (Array.isArray(value)) return value.map((v) => coloured(v, style, isColour));
    if (value === null || typeof value !== "object") return value;
    const copy = {};
    for (const key in value) copy[key] = coloured(value[key], style, /colors?$/.test(key));
    return copy;
  }

  function drawChart(place) {
    const chart = charts[place.dataset.chart];
    const view = chart.views[chosen[place.dataset.chart] || Object.keys(chart.views)[0]];
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = coloured(view, style, false);
    const narrow = place.clientWidth < 560;
    const property = (name) => style.getPropertyValue(name).trim();
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: property("--fg") };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.margin = { l: narrow ? 44 : 56, r: 12, t: 12, b: 44, ...layout.margin };
    layout.hoverlabel = { bgcolor: property("--card"), bordercolor: property("--muted"), align: "left",
                          font: { color: property("--fg"), size: 12 } };
    layout.height = chart.height;
    const axes = { gridcolor: property("--grid"), linecolor: property("--rule"), zeroline: false };
    for (const key in layout) if (/^[xy]axis\d*$/.test(key)) layout[key] = { ...axes, ...layout[key] };
    if (data[0].type === "icicle") {
      const [trace] = data;
      layout.uniformtext = { minsize: 10, mode: "hide" };
      trace.insidetextfont = { color: trace.marker.colors.map(readable) };
      if (narrow) Object.assign(trace, { maxdepth: 3, texttemplate: "%{label}" });
    }
    const config = { displayModeBar: false, responsive: true };
    return Plotly.react(place, data, layout, config).then(() => { place.dataset.drawn = "yes"; });
  }

  const places = [...document.querySelectorAll("[data-chart]")];
  const drawAll = () => Promise.all(places.map(drawChart));
  drawAll().then(() => { document.documentElement.dataset.ready = "yes"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

  for (const button of document.querySelectorAll(".switch button")) {
    button.addEventListener("click", () => {
      const group = button.closest(".switch");
      for (const other of group.children) other.setAttribute("aria-pressed", String(other === button));
      chosen[group.dataset.for] = button.dataset.view;
      drawChart(document.getElementById("chart-" + group.dataset.for));
    });
  }

  for (const filter of document.querySelectorAll(".filter")) {
    const table = document.querySelector(filter.dataset.for);
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const isNumber = (head) => head.classList.contains("n");

    // What is not known stays last in both directions.
    const sortBy = (column, down) => {
      const key = (row) => row.cells[column].dataset.v;
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return (down ? -1 : 1) * (isNumber(heads[column]) ? x - y : x.localeCompare(y));
      });
      body.append(...rows);
      heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sortBy(column, now === "descending" ? false : now === "ascending" ? true : isNumber(head));
      });
    });
    sortBy(heads.findIndex(isNumber), true);  // the first figure is the time

    const field = filter.querySelector("input");
    const words = new Map(rows.map((row) => {
      const whole = [...row.querySelectorAll("code[title]")].map((name) => name.title);  // shown shortened
      return [row, [row.textContent, ...whole].join(" ").toLowerCase()];
    }));
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !wanted.every((word) => words.get(row).includes(word));
        shown += !row.hidden;
      }
      filter.querySelector("output").textContent =
        shown === rows.length ? `${shown} lines` : `${shown} of ${rows.length} lines`;
    });
  }
})();
