// Makes a component that exports `wasi:http/incoming-handler`: componentize.mjs SOURCE WIT COMPONENT

import { readFile, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';

import { componentize } from '@bytecodealliance/componentize-js';

const [source, witPath, output] = process.argv.slice(2);
const { component } = await componentize(await readFile(source, 'utf8'), {
  witPath,
  worldName: 'web',
  sourceName: basename(source),
  enableFeatures: ['http', 'fetch-event'],
});
await writeFile(output, component);
