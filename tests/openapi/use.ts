// Reports a batch and checks a quantity with the client that @hey-api/openapi-ts generates.
import { createClient } from "./client/client/index.js";
import { checkUsage, reportUsage } from "./client/sdk.gen.js";
import type { UsageEvent } from "./client/types.gen.js";

declare const process: { env: Record<string, string>; exit(code: number): never };

const client = createClient({ baseUrl: process.env.BILLING_URL, auth: process.env.BILLING_KEY });

function event(quantity: string, idempotency_key: string): UsageEvent {
  return { user_id: process.env.BILLING_USER, feature: "storage", quantity, idempotency_key };
}

const batch = await reportUsage({
  client,
  body: { events: [event("3", "ts-1"), event("3", "ts-1"), event("0", "ts-2")] },
});
const checked = await checkUsage({
  client,
  body: { user_id: process.env.BILLING_USER, feature: "storage", quantity: "1" },
});
const refused = await checkUsage({ client, body: { feature: "storage" } });
console.log(
  JSON.stringify({
    verdicts: batch.data?.results.map((each) => [each.status, each.code]),
    wrong: batch.data?.results[2]?.errors?.[0]?.field,
    allowed: checked.data?.allowed,
    remaining: checked.data?.remaining,
    problem: refused.error && "code" in refused.error ? refused.error.code : null,
  }),
);
