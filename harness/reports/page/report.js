"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  // Text only: nothing that a model wrote becomes markup.
  const make = (name, text, attributes = {}) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  // Inside a frame a link to "#ranking" may resolve against the frame's owner.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    const target = document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    for (let parent = target; parent; parent = parent.parentElement) if (parent.tagName === "DETAILS") parent.open = true;
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  });

  const specs = read("specs");
  const draw = async (box) => {
    const drawn = document.createElement("div");
    drawn.style.width = "100%";
    const still = [...box.childNodes];
    try {
      box.append(drawn);
      // The interpreter needs no eval, which the page's own policy forbids.
      await vegaEmbed(drawn, specs[box.id.slice("chart-".length)], { actions: false, renderer: "svg", ast: true });
      // Hundreds of marks are no reading: the label says what is shown, and tables have the numbers.
      drawn.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
      still.forEach((node) => node.remove());
      box.setAttribute("role", "group");
    } catch (error) {
      drawn.remove();
      console.warn("the chart stays as it was drawn:", error);
    }
  };
  const boxes = [...document.querySelectorAll(".chart")].filter((box) => box.id.slice("chart-".length) in specs);
  if (!("IntersectionObserver" in window)) boxes.forEach(draw);
  else {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "500px" });
    boxes.forEach((box) => seen.observe(box));
  }

  const data = read("answers");
  const list = document.getElementById("answer-list");
  const PAGE = 10;
  const MAX_NAMES = 6;

  const names = (positions) => {
    const all = positions.map((position) => data.runs[position]);
    if (all.length <= MAX_NAMES) return make("span", all.join(", "));
    const rest = make("details");
    rest.append(make("summary", `${all.length} cells`), make("span", all.join(", ")));
    return rest;
  };
  const answerRow = ([text, score, ended, runs], run) => {
    const row = make("tr", undefined, runs.includes(run) ? { class: "chosen" } : {});
    const said = make("td");
    said.append(make("pre", text, { dir: "auto" }));
    const given = make("td");
    given.append(names(runs));
    row.append(said, make("td", score === null ? "not scored" : String(+score.toPrecision(3))), make("td", ended), given);
    return row;
  };
  const fill = (box, suite, example, run) => {
    if (box.querySelector(".example-body")) return;
    const body = make("div", undefined, { class: "example-body" });
    const block = (title, text) => text && body.append(make("h3", title), make("pre", text, { dir: "auto" }));
    block("Prompt", example.prompt);
    block("Reference", example.reference);
    const scroll = make("div", undefined, { class: "scroll", role: "group", tabindex: "0", "aria-label": `Answers to ${example.id}` });
    const table = make("table", undefined, { class: "answers" });
    const head = make("tr");
    for (const title of ["answer", "score", "ended by", "cells"]) head.append(make("th", title, { scope: "col" }));
    const top = make("thead"), rows = make("tbody");
    top.append(head);
    const chosenFirst = [...example.answers].sort((a, b) => b[3].includes(run) - a[3].includes(run));
    rows.append(...chosenFirst.map((answer) => answerRow(answer, run)));
    table.append(make("caption", `Answers, by ${suite.metric}`), top, rows);
    scroll.append(table);
    body.append(scroll);
    box.append(body);
  };
  const summary = (suite, example) => {
    const total = example.answers.reduce((sum, answer) => sum + answer[3].length, 0);
    const right = example.answers.reduce((sum, answer) => sum + (answer[1] >= 1 && answer[1] !== null ? answer[3].length : 0), 0);
    const line = make("summary");
    line.append(make("span", example.id, { class: "example-id" }));
    const parts = [suite.is_graded ? `${right} of ${total} right` : `${total} answers`, ...example.slices.slice(0, 4)];
    if (example.reference) parts.push(`→ ${example.reference.slice(0, 80)}`);
    line.append(make("span", `  ${parts.join(" · ")}`, { class: "soft" }));
    return line;
  };

  const field = (id) => document.getElementById(`filter-${id}`);
  const matches = (suite, example, run, result, words) => {
    const answers = run < 0 ? example.answers : example.answers.filter((answer) => answer[3].includes(run));
    if (!answers.length) return false;
    const tests = {
      right: () => answers.some((answer) => answer[1] !== null && answer[1] >= 1),
      wrong: () => answers.some((answer) => answer[1] !== null && answer[1] < 1),
      unscored: () => answers.some((answer) => answer[1] === null),
      differ: () => example.spread > 0,
    };
    if (result && !tests[result]()) return false;
    if (!words.length) return true;
    const text = [example.id, example.prompt, example.reference, ...answers.map((answer) => `${answer[0]} ${answer[2]}`)].join("\n").toLowerCase();
    return words.every((word) => text.includes(word));
  };

  let shown = PAGE;
  const show = (isMore) => {
    const suite = data.suites[+field("suite").value];
    const run = +field("run").value;
    for (const option of field("result").options) option.disabled = !suite.is_graded && ["right", "wrong"].includes(option.value);
    if (field("result").selectedOptions[0].disabled) field("result").value = "";
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = suite.examples.filter((example) => matches(suite, example, run, field("result").value, words));
    const start = isMore ? list.children.length : 0;
    if (!isMore) list.replaceChildren();
    found.slice(start, shown).forEach((example, index) => {
      const box = make("details", undefined, { class: "example" });
      box.append(summary(suite, example));
      box.fillNow = () => fill(box, suite, example, run);
      box.addEventListener("toggle", () => box.open && box.fillNow());
      if (start + index === 0) { box.fillNow(); box.open = true; }
      list.append(box);
    });
    field("count").textContent = `${found.length} of ${suite.examples.length} examples match; ${suite.num_examples - suite.examples.length} more of this suite are not in this page.`;
    document.getElementById("more-answers").hidden = found.length <= shown;
  };
  const restart = () => { shown = PAGE; show(false); };
  if (data.suites.length) {
    data.suites.forEach((suite, index) => field("suite").append(make("option", suite.name, { value: index })));
    field("run").append(make("option", "all cells", { value: -1 }));
    data.runs.forEach((name, index) => field("run").append(make("option", name, { value: index })));
    for (const id of ["suite", "run", "result"]) field(id).addEventListener("change", restart);
    let timer = 0;
    field("text").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(restart, 150); });
    document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("more-answers").addEventListener("click", () => { shown += PAGE; show(true); });
    document.getElementById("filters").hidden = false;
    restart();
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    [...list.children].slice(0, 10).forEach((box) => box.fillNow && box.fillNow());
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
})();
