/* node find.js SEARCH.js < phrases.json: what the built search finds for each phrase, as JSON. */
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

runInThisContext(readFileSync(process.argv[2], "utf8"));
const find = await globalThis.bnrefSearch;
const phrases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(phrases.map((typed) => find(typed))));
