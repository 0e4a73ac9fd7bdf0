/* node purge.js SITE SHEET…: print of each style sheet what the pages and scripts of a site use, with a
   zero byte between them. */
import esbuild from "esbuild";
import { PurgeCSS } from "purgecss";

const [, , site, ...sheets] = process.argv;
const purged = await new PurgeCSS().purge({
  content: [`${site}/**/*.html`, `${site}/_static/**/!(search).js`], // search.js is an index, in numbers
  css: sheets,
  variables: true,
  keyframes: true,
  dynamicAttributes: ["aria-expanded", "aria-selected", "data-mode", "data-theme", "open"], // set by scripts
});
const smaller = new Map();
for (const { css, file } of purged) {
  const { code } = await esbuild.transform(css, { loader: "css", minify: true });
  smaller.set(file, code);
}
process.stdout.write(sheets.map((sheet) => smaller.get(sheet)).join("\0"));
