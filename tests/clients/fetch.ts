// What a client developer writes with openapi-typescript and openapi-fetch. The types come from the document.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./types.js";

const api = createClient<paths>({ baseUrl: process.env.FERRY_URL! });
const records = "/api/sheets/people/records" as const;
const record = "/api/sheets/people/records/{path}" as const;
const attachment = "/api/sheets/people/records/{path}/attachments/{name}" as const;
const at = { path: { path: "grace" } };

const created = await api.POST(records, { body: { slug: "grace", name: "Grace" } });
assert.equal(created.response.status, 201);
const made: string | undefined = created.data?.commit?.hash;
assert.ok(made);

const read = await api.GET(record, { params: at });
const name: string | undefined = read.data?.record.name;
assert.equal(name, "Grace");

const patched = await api.PATCH(record, { params: at, body: { email: "grace@example.org", skills: null } });
assert.equal(patched.data?.record.email, "grace@example.org");

const replaced = await api.PUT(record, { params: at, body: { slug: "grace", name: "Grace H." } });
assert.equal(replaced.data?.record.email, undefined);

const listed = await api.GET(records, { params: { query: { limit: 1, "name[ne]": "Joe", slug: "grace" } } });
const first = listed.data?.records[0];
const year: number | undefined = first?.record.joined_year;
assert.equal(first?.path, "grace");
assert.equal(year, undefined);
const joined = await api.GET(records, {
  params: { query: { "name[startswith]": "Gr", combined: { "or[0][joined_year][lt]": "1", "or[1][slug]": "grace" } } },
  querySerializer: { object: { style: "form", explode: true } },
});
const named = await api.GET(records, {
  params: { query: { q: "GRACE", path: ["grace", "nobody"] }, header: { Prefer: "count=exact" } },
});
const total: number | undefined = named.data?.total;
assert.equal(total, 1);
assert.deepEqual(joined.data?.records.map((each) => each.path), ["grace"]);

const stored = await api.PUT(attachment, {
  params: { path: { path: "grace", name: "note.txt" } },
  body: "hello",
  bodySerializer: (text) => text,
  headers: { "Content-Type": "application/octet-stream" },
});
assert.equal(stored.data?.attachment?.bytes, 5);
const content = await api.GET(attachment, {
  params: { path: { path: "grace", name: "note.txt" } },
  parseAs: "blob",
});
assert.equal(await (content.data as unknown as Blob).text(), "hello");
const attached = await api.GET("/api/sheets/people/records/{path}/attachments", { params: at });
assert.deepEqual(attached.data?.attachments.map((each) => each.name), ["note.txt"]);
await api.DELETE(attachment, { params: { path: { path: "grace", name: "note.txt" } } });

const history = await api.GET("/api/sheets/people/records/{path}/history", { params: at });
const steps = history.data?.history.flatMap((change) => change.patch.map((step) => step.op));
assert.ok(steps?.includes("add"));

const transacted = await api.POST("/api/transactions", {
  body: {
    message: "Two at once",
    operations: [
      { op: "create", sheet: "people", record: { slug: "alan", name: "Alan" } },
      { op: "patch", sheet: "people", path: "grace", record: { joined_year: 2026 } },
    ],
  },
});
const results: components["schemas"]["Transacted"]["results"] | undefined = transacted.data?.results;
assert.deepEqual(results?.map((each) => each.path), ["alan", "grace"]);

const imported = await api.POST("/api/sheets/people/import", {
  params: { query: { format: "csv", mode: "upsert" } },
  body: "slug,name\nalan,Alan T.\nedith,Edith\n",
  bodySerializer: (text) => text,
  headers: { "Content-Type": "application/octet-stream" },
});
assert.equal(imported.data?.created, 1);
assert.equal(imported.data?.updated, 1);

const commits = await api.GET("/api/commits", { params: { query: { limit: 2 } } });
const hash = commits.data!.commits[1]!.hash;
const commit = await api.GET("/api/commits/{hash}", { params: { path: { hash } } });
assert.ok(commit.data?.message.includes("Two at once"));
const push: "pushed" | "pending" | undefined = commit.data?.push["origin"];
assert.ok(push);

const sheets = await api.GET("/api/sheets");
assert.ok(sheets.data?.sheets.some((sheet) => sheet.name === "people"));
const sheet = await api.GET("/api/sheets/{sheet}", { params: { path: { sheet: "people" } } });
assert.ok(sheet.data?.schema);
assert.equal((await api.GET("/api/health")).data?.status, "alive");

const refused = await api.POST(records, { body: { slug: "grace", name: "Again" } });
const code: components["schemas"]["Problem"]["code"] | undefined = refused.error?.code;
assert.equal(code, "record-exists");
// @ts-expect-error - no such code
const wrong: typeof code = "no-such-code";
assert.notEqual(code, wrong);
// @ts-expect-error - a person has a name
await api.POST(records, { body: { slug: "nameless" } });
// @ts-expect-error - no such parameter
await api.GET(records, { params: { query: { page: 2 } } });

const gone = await api.DELETE(record, { params: at });
assert.equal(gone.data?.path, "grace");
console.log("done");
