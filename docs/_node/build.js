/* node build.js GIVEN.json OUT.js: index what the site says, and bundle it with the search.

   GIVEN has the `words` of words.toml, the `documents`, and `phrases` with their right pages: a page that
   no phrase finds is an error. */
import { readFileSync, writeFileSync } from "node:fs";
import { deflateRawSync } from "node:zlib";
import esbuild from "esbuild";
import MiniSearch from "minisearch";
import { stemmer } from "stemmer";
import { toColumns } from "./columns.js";
import { load } from "./search.js";
import { options, spellings, termsOf } from "./terms.js";

const AMONG = 3; // the first results, which a reader sees at once
const [, , from, to] = process.argv;
const { words, documents, phrases } = JSON.parse(readFileSync(from, "utf8"));
const terms = termsOf(words);

const index = new MiniSearch(options(terms));
index.addAll(documents.map((each, id) => ({ id, ...each, body: beyond(each) })));
const written = spellings([...documents.map(told), ...Object.values(words.concepts).flat()].join(" "));
const known = [...new Set(written)].filter((word) => word.length > 3 && stemmer(word) !== word).sort();
const plain = JSON.parse(JSON.stringify(index));
const built = { words, index: { ...plain, index: toColumns(plain.index) }, known };
refuseWhatNobodyFinds(load(built));
writeFileSync(to, await bundled(deflateRawSync(JSON.stringify(built), { level: 9 })));

/** All that a place says. */
function told({ url, kind, sentences, ...fields }) {
  return Object.values(fields).join(" ");
}

/** The words of a body that no field above it has: those count there already, and for more. */
function beyond({ body = "", ...above }) {
  const said = new Set(terms(told(above)).map((each) => each.term));
  const others = terms(body).filter((each) => !said.has(each.term));
  return others.map((each) => each.word).join(" ");
}

/** Each page that answers something has a phrase that finds it. */
function refuseWhatNobodyFinds(find) {
  const found = new Set();
  for (const { text, pages } of phrases) {
    for (const { url } of find(text, AMONG)) if (pages.includes(url.replace(".html", ""))) found.add(url);
  }
  const answers = documents.filter(({ kind }) => kind === "page" || kind === "report");
  const lost = answers.filter(({ url }) => !found.has(url)).map(({ url }) => url);
  if (lost.length) {
    console.error(`no phrase of tests/search_phrases.toml finds ${lost.join(", ")}`);
    process.exit(1);
  }
}

/** One script that needs nothing else, from a file as well as from a server. */
async function bundled(packed) {
  const entry = `
    import { load } from "./search.js";
    const packed = Uint8Array.from(atob("${packed.toString("base64")}"), (each) => each.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    globalThis.bnrefSearch = new Response(stream).json().then(load);
  `;
  const { outputFiles } = await esbuild.build({
    stdin: { contents: entry, resolveDir: import.meta.dirname },
    bundle: true,
    minify: true,
    write: false,
    format: "iife",
    target: "es2022",
  });
  return outputFiles[0].text;
}
