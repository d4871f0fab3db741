// What a client developer writes with @hey-api/openapi-ts: one function for each operation.
import assert from "node:assert/strict";
import { client } from "./hey/client.gen.js";
import * as ferry from "./hey/sdk.gen.js";

client.setConfig({ baseUrl: process.env.FERRY_URL!, throwOnError: false });
const path = { path: "linus" };

const created = await ferry.createPeople({ body: { slug: "linus", name: "Linus" } });
assert.equal(created.data?.record.name, "Linus");
assert.ok(created.data?.commit?.hash);
const patched = await ferry.patchPeople({ path, body: { joined_year: 1991, email: null } });
assert.equal(patched.data?.record.joined_year, 1991);
const replaced = await ferry.putPeople({ path, body: { slug: "linus", name: "Linus T.", joined_year: 1991 } });
assert.equal(replaced.data?.path, "linus");
assert.equal((await ferry.getPeople({ path })).data?.record.name, "Linus T.");
const listed = await ferry.listPeople({ query: { "joined_year[gte]": "1991", "joined_year[lt]": "1992" } });
assert.deepEqual(listed.data?.records.map((each) => each.path), ["linus"]);
await ferry.putAttachmentPeople({ path: { ...path, name: "a.bin" }, body: new Blob(["hello"]) });
const content = await ferry.getAttachmentPeople({ path: { ...path, name: "a.bin" }, parseAs: "blob" });
assert.equal(await (content.data as Blob).text(), "hello");
const attached = await ferry.attachmentsPeople({ path });
assert.equal(attached.data?.attachments[0]?.bytes, 5);
await ferry.deleteAttachmentPeople({ path: { ...path, name: "a.bin" } });
const history = await ferry.historyPeople({ path });
assert.equal(history.data?.history.length, 3);
const transacted = await ferry.transact({
  body: { operations: [{ op: "upsert", sheet: "places", record: { district: "hill", slug: "barn", name: "Barn" } }] },
});
assert.equal(transacted.data?.results[0]?.path, "hill/barn");
const lines = new Blob(['{"slug": "ida", "name": "Ida"}\n']);
const imported = await ferry.importPeople({ query: { format: "ndjson", dry_run: true }, body: lines });
assert.equal(imported.data?.created, 1);
const commits = await ferry.indexCommits({ query: { limit: 1 } });
const commit = await ferry.showCommit({ path: { hash: commits.data!.commits[0]!.hash } });
assert.equal(commit.data?.author.name.length! > 0, true);
assert.ok((await ferry.indexSheets()).data?.sheets.length);
assert.equal((await ferry.showSheet({ path: { sheet: "people" } })).data?.name, "people");
assert.equal((await ferry.alive()).data?.status, "alive");
assert.ok((await ferry.ready()).data?.commit);
const refused = await ferry.getPeople({ path: { path: "nobody" } });
assert.equal(refused.error?.code, "record-not-found");
// @ts-expect-error - a year is a number
await ferry.patchPeople({ path, body: { joined_year: "1991" } });
const events = await ferry.streamEvents();
for await (const event of events.stream) {
  assert.ok(event);
  break;
}
assert.equal((await ferry.deletePeople({ path })).data?.record, null);
console.log("done");
process.exit(0);
