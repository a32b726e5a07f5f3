// The TypeScript client against a server that misbehaves. Runs with `node --test`; CLIENT names its index.js.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

const { Billing, Problem, readEvent, Refused, Unreachable, WrongSignature } = await import(process.env.CLIENT);
const KEY = "svc_app_" + "a".repeat(64);

// Calls `work` with a client of a server that gives these answers, the last again and again.
async function backend(script, work, options = {}) {
  const came = [];
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    came.push({ url: request.url, headers: request.headers, body: body ? JSON.parse(body) : null });
    const [status, answer, headers] = script.length > 1 ? script.shift() : script[0];
    response.writeHead(status, headers).end(typeof answer === "string" ? answer : JSON.stringify(answer));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const url = `http://127.0.0.1:${server.address().port}`;
  try {
    await work(new Billing({ url, key: KEY, deadline: 5000, firstPause: 1, ...options }), came);
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return came;
}

const problem = (status, code) => [status, { status, code, title: "A title", detail: "A detail.", request_id: "r-1" }];
const verdict = (status = "accepted", code = null, key = "k") => ({ index: 0, idempotency_key: key, status, code });
const held = (changes = {}) => [
  200,
  { id: "rsv_1", idempotency_key: "job", quantity: "5", state: "held", booked: null, ...changes },
];
const USAGE = { userId: "ana", feature: "storage" };

for (const first of [
  problem(503, "access_unconfirmed"),
  problem(429, "too_many_requests"),
  [503, { message: "Service Unavailable" }],
  [500, { message: "Internal Server Error" }],
  [502, "<html>"],
]) {
  test(`a later attempt succeeds after ${first[0]}`, async () => {
    const came = await backend([first, first, [202, { results: [verdict()] }]], async (billing) => {
      assert.equal((await billing.report(USAGE)).status, "accepted");
    });
    assert.equal(came.length, 3);
    assert.equal(new Set(came.map((each) => each.body.idempotency_key)).size, 1);
  });
}

for (const [status, code] of [[402, "limit_reached"], [409, "idempotency_conflict"], [500, "internal_error"]]) {
  test(`${status} ${code} is final`, async () => {
    const came = await backend([problem(status, code)], async (billing) => {
      await assert.rejects(billing.report(USAGE), (error) => {
        assert.ok(error instanceof Problem);
        assert.equal(error instanceof Refused, status === 402);
        assert.deepEqual([error.status, error.code, error.requestId], [status, code, "r-1"]);
        return true;
      });
    });
    assert.equal(came.length, 1);
  });
}

test("wrong fields stand in the message", async () => {
  const errors = [
    { field: "quantity", code: "greater_than", message: "Input should be above 0" },
    { field: "feature", code: "missing", message: "Field required" },
  ];
  await backend([[422, { code: "invalid_request", detail: "Not valid.", errors }]], async (billing) => {
    await assert.rejects(billing.report(USAGE), {
      message: "422 invalid_request: Not valid (quantity: Input should be above 0; feature: Field required)",
    });
  });
});

test("it ends at the deadline, and waits for no Retry-After beyond it", async () => {
  await backend([problem(503, "access_unconfirmed")], async (billing) => {
    await assert.rejects(billing.report(USAGE), { code: "access_unconfirmed" });
  }, { deadline: 200 });
  const came = await backend([[429, { code: "too_many_requests" }, { "retry-after": "60" }]], async (billing) => {
    await assert.rejects(billing.plans(), { status: 429, retryAfter: 60 });
  });
  assert.equal(came.length, 1);
});

test("nobody answers", async () => {
  await backend([[200, {}]], async () => {}); // a port that is closed again
  const billing = new Billing({ url: "http://127.0.0.1:9", key: KEY, deadline: 100, firstPause: 1 });
  await assert.rejects(billing.plans(), (error) => error instanceof Unreachable && !error.message.includes(KEY));
  await assert.rejects(billing.plans(), / at http:\/\/127\.0\.0\.1:9\.$/);
});

test("something else answers", async () => {
  const came = await backend([[200, "<html>"]], async (billing) => {
    await assert.rejects(billing.plans(), /not the billing backend/);
  });
  assert.equal(came.length, 1);
});

test("no redirect takes the key elsewhere", async () => {
  const came = await backend([[307, "", { location: "/elsewhere" }]], async (billing) => {
    await assert.rejects(billing.plans(), Problem);
  });
  assert.equal(came.length, 1);
});

test("of a batch, what is unconfirmed is sent again", async () => {
  const first = [verdict("accepted", null, "a"), verdict("refused", "access_unconfirmed", "b"), verdict("refused", "limit_reached", "c")];
  const script = [[202, { results: first }], [202, { results: [verdict("accepted", null, "b")] }]];
  const came = await backend(script, async (billing) => {
    const taken = await billing.reportAll(["a", "b", "c"].map((key) => ({ ...USAGE, key })));
    assert.deepEqual(taken.map((each) => [each.index, each.idempotency_key, each.status]), [
      [0, "a", "accepted"],
      [1, "b", "accepted"],
      [2, "c", "refused"],
    ]);
  });
  assert.deepEqual(came.map((each) => each.body.events.map((event) => event.idempotency_key)), [["a", "b", "c"], ["b"]]);
});

test("batches by the thousand", async () => {
  const sizes = [];
  const answering = async (url, { body }) => {
    const { events } = JSON.parse(body);
    sizes.push(events.length);
    const results = events.map((event) => verdict("accepted", null, event.idempotency_key));
    return new Response(JSON.stringify({ results }), { status: 202 });
  };
  const billing = new Billing({ url: "https://billing.example", key: KEY, fetch: answering });
  const taken = await billing.reportAll(Array.from({ length: 2001 }, (_, n) => ({ ...USAGE, key: String(n) })));
  assert.deepEqual(sizes, [1000, 1000, 1]);
  assert.deepEqual([taken[2000].index, taken[2000].idempotency_key], [2000, "2000"]);
  assert.deepEqual(await billing.reportAll([]), []);
});

test("a reservation is released at the end of the block, unless it was confirmed", async () => {
  let came = await backend([held(), held({ state: "released" })], async (billing) => {
    const reservation = await billing.reserve({ ...USAGE, quantity: 5 });
    await reservation[Symbol.asyncDispose]();
  });
  assert.equal(came[1].url, "/usage/reservations/rsv_1/release");
  came = await backend([held(), held({ state: "confirmed", booked: "2.5" })], async (billing) => {
    const reservation = await billing.reserve({ ...USAGE, quantity: 5 });
    assert.equal((await reservation.confirm("2.5")).booked, "2.5");
    await reservation[Symbol.asyncDispose]();
  });
  assert.equal(came.length, 2);
  // The error of the block is what the caller has to see, so a failing release is silent.
  await backend([held(), problem(409, "reservation_confirmed")], async (billing) => {
    await (await billing.reserve(USAGE))[Symbol.asyncDispose]();
  });
});

test("quantities are exact", async () => {
  for (const [given, sent] of [[1, "1"], ["1.50", "1.50"], [10n ** 15n, "1000000000000000"]]) {
    const came = await backend([[202, { results: [verdict()] }]], (billing) => billing.report({ ...USAGE, quantity: given }));
    assert.equal(came[0].body.quantity, sent);
  }
  for (const given of [1.5, NaN, Infinity, 2 ** 60]) {
    await assert.rejects(new Billing({ url: "https://b.example", key: KEY }).report({ ...USAGE, quantity: given }), TypeError);
  }
});

test("the key does not travel unencrypted, and is not shown", () => {
  for (const url of ["http://billing.example", "ftp://billing.example"]) {
    assert.throws(() => new Billing({ url, key: KEY }), /https/);
  }
  assert.throws(() => new Billing({ key: KEY }), /BILLING_URL/);
  assert.throws(() => new Billing({ url: "https://billing.example" }), /BILLING_KEY/);
  const billing = new Billing({ url: "http://localhost:3000", key: KEY });
  assert.ok(!JSON.stringify(billing).includes(KEY));
});

test("a route of one's own is called and repeated like all others", async () => {
  const asked = { user_id: "ana", text: "First.", idempotency_key: "s-1" };
  const script = [problem(503, "access_unconfirmed"), [200, { result: "First." }]];
  const came = await backend(script, async (billing) => {
    assert.deepEqual(await billing.call("POST", "/summarize", asked, { short: "true" }), { result: "First." });
  });
  assert.deepEqual(came.map((each) => each.body), [asked, asked]);
  assert.equal(came[0].url, "/summarize?short=true");
});

const SECRET = `whsec_${Buffer.alloc(32, "a").toString("base64")}`;
const OTHER = `whsec_${Buffer.alloc(32, "b").toString("base64")}`;
const EVENT = JSON.stringify({
  specversion: "1.0", id: "5f0c2c0e", source: "/", type: "access.granted", subject: "customer-17",
  time: "2026-03-01T12:00:00.250Z", sequence: "7", data: { plan: "Usage Pro – ä" },
});

function signed(secret, { body = EVENT, at = Date.now() / 1000, id = "msg_1" } = {}) {
  const moment = String(Math.floor(at));
  const key = Buffer.from(secret.slice(6), "base64");
  const signature = createHmac("sha256", key).update(`${id}.${moment}.${body}`).digest("base64");
  return { "webhook-id": id, "webhook-timestamp": moment, "webhook-signature": `v1,${signature}` };
}

test("an event that the backend signed is read", async () => {
  const read = {
    id: "5f0c2c0e", type: "access.granted", userId: "customer-17", sequence: 7,
    occurredAt: new Date("2026-03-01T12:00:00.250Z"), data: { plan: "Usage Pro – ä" },
  };
  assert.deepEqual(await readEvent(EVENT, signed(SECRET), SECRET), read);
  assert.deepEqual(await readEvent(Buffer.from(EVENT), new Headers(signed(SECRET)), [OTHER, SECRET]), read);
});

test("what the backend did not send is refused", async () => {
  const now = Date.now() / 1000;
  const wrong = [
    signed(OTHER),
    signed(SECRET, { body: `${EVENT} ` }),
    signed(SECRET, { at: now - 301 }),
    signed(SECRET, { at: now + 400 }),
    { ...signed(SECRET), "webhook-id": "msg_2" },
    { ...signed(SECRET), "webhook-signature": "v1,nonsense v1,!" },
    { ...signed(SECRET), "webhook-timestamp": "soon" },
    {},
  ];
  for (const headers of wrong) await assert.rejects(readEvent(EVENT, headers, SECRET), WrongSignature);
  // Else an empty variable would open the door.
  for (const secret of ["", "whsec_", SECRET.slice(6)]) {
    await assert.rejects(readEvent(EVENT, signed(SECRET), secret), TypeError);
  }
  await assert.rejects(readEvent(JSON.parse(EVENT), signed(SECRET), SECRET), /Give the body as it came/);
});
