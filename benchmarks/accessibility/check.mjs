// Usage: node check.mjs REPORT.html... (CHROMIUM=/path/to/chromium where it isn't /usr/bin/chromium)
// Exit code 1 where axe-core finds anything serious or critical, or where the page is wider than the window.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const views = [[1280, 900, "light"], [1280, 900, "dark"], [390, 844, "light"], [390, 844, "dark"]];
const browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu"] });

async function checked(file, [width, height, scheme]) {
  const page = await browser.newPage();
  // axe is put into the page, which the page's own policy would forbid.
  await page.setBypassCSP(true);
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.goto(pathToFileURL(file).href, { waitUntil: "load" });
  await page.evaluate(async () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
    for (let y = 0; y < document.body.scrollHeight; y += 700) {
      scrollTo(0, y);
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
    scrollTo(0, 0);
    await new Promise((resolve) => setTimeout(resolve, 500));
  });
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await page.close();
  return { violations, overflow };
}

let failed = false;
for (const file of process.argv.slice(2)) {
  for (const view of views) {
    const { violations, overflow } = await checked(file, view);
    const bad = violations.filter((violation) => ["serious", "critical"].includes(violation.impact));
    failed ||= bad.length > 0 || overflow > 0;
    console.log(`${file} ${view.join(" ")}: ${bad.length} serious or critical, ${violations.length - bad.length} lesser, overflow ${overflow} px`);
    for (const violation of violations) {
      console.log(`  ${violation.impact} ${violation.id} (${violation.nodes.length}): ${violation.help}`);
      console.log(`    ${violation.nodes[0].html.slice(0, 200)}`);
    }
  }
}
await browser.close();
process.exit(failed ? 1 : 0);
