// Follows the example of clients/typescript/README.md, whose `billing` and `userId` it uses.
const taken = await billing.reportAll([
  { userId, feature: "storage", quantity: "0.25", key: "batch-1" },
  { userId, feature: "no_such_feature", key: "batch-2" },
]);
await billing.correct({ userId, feature: "storage", quantity: "-0.5", reason: "twice", corrects: "upload-9214" });
const again = await billing.report({ userId, feature: "storage", quantity: "1.5", key: "upload-9214" });
const conflict = await billing.report({ userId, feature: "storage", quantity: "2", key: "upload-9214" })
  .catch((error) => error.code);
const entries = [];
for await (const entry of billing.ledger({ userId, pageSize: 1 })) entries.push([entry.kind, entry.quantity]);
const invoices = [];
for await (const invoice of billing.invoices(userId)) invoices.push(invoice.status);
const limited = await billing.limitSpending(userId, "25");
const canceled = await billing.cancel(userId);
const kept = await billing.keep(userId);
const change = await billing.checkOut(userId, "usage_max");
console.log(JSON.stringify({
  codes: taken.map((each) => each.code), again: again.status, conflict, entries, invoices: invoices.length,
  limit: limited.limit, portal: (await billing.portal(userId)).startsWith("http"),
  booked: [canceled.cancel_at_period_end, kept.cancel_at_period_end], change: change.change.state,
  access: (await billing.dashboard(userId)).access, plans: (await billing.plans()).length > 1,
}));
