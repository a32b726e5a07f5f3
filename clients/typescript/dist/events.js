/** A request to an endpoint of yours was not sent by the backend. Answer it with 400. */
export class WrongSignature extends Error {
    name = "WrongSignature";
}
const TOLERANCE = 300; // seconds by which the sender's clock may differ from ours
/**
 * The event of a request to your endpoint, signed after Standard Webhooks. Throws WrongSignature
 * unless the backend sent it. `body` is the request's body as it came, before any JSON is read.
 * `secret` begins with `whsec_`; while you change it, give both.
 */
export async function readEvent(body, headers, secret) {
    const sent = headers instanceof Headers ? headers : new Headers(single(headers));
    const id = sent.get("webhook-id");
    const moment = sent.get("webhook-timestamp") ?? "";
    if (!id || !/^\d+$/.test(moment)) {
        throw new WrongSignature("The request has no webhook-id, or no webhook-timestamp.");
    }
    if (Math.abs(Date.now() / 1000 - Number(moment)) > TOLERANCE) {
        throw new WrongSignature("The request is too old, or this machine's clock is wrong.");
    }
    const content = typeof body === "string" ? new TextEncoder().encode(body) : body;
    if (!ArrayBuffer.isView(content))
        throw new TypeError("Give the body as it came, text or bytes, not parsed.");
    const signed = new Uint8Array([...new TextEncoder().encode(`${id}.${moment}.`), ...content]);
    const found = (sent.get("webhook-signature") ?? "").split(" ").filter((each) => each.startsWith("v1,"));
    for (const each of [secret].flat()) {
        const key = await crypto.subtle.importKey("raw", keyOf(each), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
        for (const signature of found) {
            const bytes = decoded(signature.slice(3));
            // Compares in constant time.
            if (bytes && (await crypto.subtle.verify("HMAC", key, bytes, signed)))
                return event(content);
        }
    }
    throw new WrongSignature("The request was not signed with this secret.");
}
function single(headers) {
    return Object.fromEntries(Object.entries(headers).flatMap(([name, value]) => value === undefined ? [] : [[name, Array.isArray(value) ? value.join(" ") : value]]));
}
function keyOf(secret) {
    const key = secret.startsWith("whsec_") ? decoded(secret.slice(6)) : null;
    if (!key?.length)
        throw new TypeError("The secret is not the one that the backend showed: it begins with whsec_.");
    return key;
}
function decoded(base64) {
    try {
        return Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
    }
    catch {
        return null;
    }
}
function event(content) {
    const document = JSON.parse(new TextDecoder().decode(content));
    return {
        id: String(document.id),
        type: String(document.type),
        userId: String(document.subject),
        sequence: Number(document.sequence),
        occurredAt: new Date(String(document.time)),
        data: document.data,
    };
}
