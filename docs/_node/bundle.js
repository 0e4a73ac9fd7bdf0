/* node bundle.js SCRIPT.js: print the script with what it imports, as small as it can be. */
import esbuild from "esbuild";

const [, , entry] = process.argv;
const { outputFiles } = await esbuild.build({
  entryPoints: [entry],
  bundle: true,
  minify: true,
  write: false,
  format: "iife",
  target: "es2022",
});
process.stdout.write(outputFiles[0].text);
