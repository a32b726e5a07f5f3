"""The meaning of every problem code for a caller, and what the caller can do.

docs/problems.md, the page at /docs/problems and the OpenAPI document are made from this module. The
titles are in `billing.errors`. tests/unit/local/test_problem_guide.py compares codes and statuses
with the code that raises them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """A problem code. `retry`: whether the same request may succeed when it is sent again."""

    status: int
    meaning: str
    remedy: str
    retry: bool = False


@dataclass(frozen=True)
class Chapter:
    """Codes that belong together, in the order of the page."""

    title: str
    codes: dict[str, Guide]


_WRITE_TO_SUPPORT = "Send people to your support, and write to Commet's."

CHAPTERS = (
    Chapter(
        "The request",
        {
            "invalid_request": Guide(
                422,
                "A field or a parameter is missing, unknown or has a value that is not allowed.",
                "Read `errors`: it names each wrong field. Mend the request.",
            ),
            "invalid_json": Guide(
                400,
                "The body is not JSON, or an object has the same name twice.",
                "Send JSON. `detail` names the line and the column.",
            ),
            "invalid_encoding": Guide(
                400,
                "The body has bytes that are not UTF-8, or the character U+FFFD, which stands for"
                " such bytes.",
                r"Send UTF-8. Write `\ufffd` where the character itself is meant.",
            ),
            "unsupported_media_type": Guide(
                415,
                "The body is not sent as JSON in UTF-8.",
                "Send the header `Content-Type: application/json`.",
            ),
            "unsupported_encoding": Guide(
                415, "The body is compressed.", "Send the body uncompressed."
            ),
            "payload_too_large": Guide(
                413,
                "The body is larger than the route takes.",
                "Send fewer events at once. The [limits](usage.md#limits) are listed.",
            ),
            "not_found": Guide(
                404,
                "The API has no such route, a name in the path has characters that no name has, or"
                " the route is switched off.",
                "Compare method and path with the list of routes.",
            ),
            "method_not_allowed": Guide(
                405,
                "The webhook function's own URL was called with another method than POST.",
                "Only the billing provider calls this URL.",
            ),
            "unknown_event": Guide(
                400,
                "The function was invoked with something that is no HTTP request.",
                "Call the function through the API. No HTTP request gets this answer.",
            ),
            "too_many_requests": Guide(
                429,
                "The limit of requests for this user, account or address is used up. API Gateway"
                ' has a limit of its own, and answers 429 with `{"message": "Too Many Requests"}`.',
                "Wait as many seconds as `Retry-After` says.",
                retry=True,
            ),
        },
    ),
    Chapter(
        "The caller",
        {
            "unauthenticated": Guide(
                401,
                "The request has no session, token or service key, or one that is not valid here.",
                "Sign in again, or check the service key. Send it as `Authorization: Bearer …`.",
            ),
            "invalid_credentials": Guide(
                401,
                "The email address or the password is wrong. The answer never says which.",
                "Ask the person to type both again, or send a link with `POST /password/forgot`.",
            ),
            "sign_in_link_required": Guide(
                403,
                "Many wrong passwords were tried, and the account never signed in from this"
                " network.",
                "If the password was right, a link is on its way. The link signs in.",
            ),
            "link_expired": Guide(
                409,
                "The link of the mail was used, is too old, or a newer one was sent.",
                "Have a new link sent.",
            ),
            "recent_sign_in_required": Guide(
                403,
                "The identity provider signed the user in longer than ten minutes ago.",
                "Have the user sign in there again, and send the new token within ten minutes.",
            ),
            "own_account_required": Guide(
                403,
                "The identity provider signs this user in, so there is no session or password"
                " here.",
                "Use the identity provider's own pages for this.",
            ),
            "service_key_required": Guide(
                403,
                "Only your backend may call this route, and a person's session was sent.",
                "Send a service key.",
            ),
            "missing_scope": Guide(
                403,
                "The service key is valid and lacks the scope that the route needs.",
                "Give the key the scope that `detail` names, or use another key.",
            ),
            "forbidden": Guide(
                403,
                "A session asked about another user than its own.",
                "Leave `user_id` out, or send a service key.",
            ),
            "origin_not_allowed": Guide(
                403,
                "The page that sent the request has an origin that is not allowed, or a write with"
                " a cookie has no `Origin` header.",
                "Add the page's origin to the parameter `AllowedOrigins`.",
            ),
            "bad_signature": Guide(
                401,
                "A webhook is not signed with a secret of this stack.",
                "Only the billing provider sends webhooks here. Compare the secret at both ends.",
            ),
        },
    ),
    Chapter(
        "Users and accounts",
        {
            "unknown_user": Guide(
                404,
                "There is no user with this id, or the user was erased.",
                "Register the user with `PUT /users/{user_id}`, then send the request again.",
            ),
            "email_taken": Guide(
                409,
                "A confirmed account has this email address.",
                "Have the person sign in, or set a new password with `POST /password/forgot`.",
            ),
            "own_account": Guide(
                409,
                "The user signed up here, and alone changes address and name.",
                "Have the person use `PATCH /account`.",
            ),
            "not_an_own_account": Guide(
                409,
                "The user was registered by a product or comes from an identity provider, and has"
                " no password here.",
                "Change address and password where the user signs in.",
            ),
            "email_missing": Guide(
                409,
                "The user has no email address, to which invoices could be sent.",
                "Set one with `PATCH /account` or `PATCH /users/{user_id}`.",
            ),
            "email_unverified": Guide(
                403,
                "The user signed up here and has not confirmed the email address.",
                "Have the person open the link in the mail. `POST /email/verification` sends it"
                " again.",
            ),
            "session_not_found": Guide(
                404, "The user has no session with this id.", "Read the list again."
            ),
            "being_erased": Guide(
                409,
                "A user with this id is being erased, which can take hours.",
                "Use another id, or try again in some hours.",
                retry=True,
            ),
        },
    ),
    Chapter(
        "Plans and checkout",
        {
            "plan_not_found": Guide(
                404,
                "No plan with this code is sold.",
                "Read `GET /plans` again, and have the user choose.",
            ),
            "already_subscribed": Guide(
                409,
                "The user has a subscription that this request would not change.",
                "Send the user to the portal, or choose another plan or interval.",
            ),
            "checkout_in_progress": Guide(
                409,
                "Another checkout or change of this user is under way.",
                "Send the same request again after `Retry-After`.",
                retry=True,
            ),
            "free_period_used": Guide(
                409,
                "The person had the free plan with an account that was erased, and its period is"
                " not over.",
                "Choose another plan, or wait until the day that `detail` names.",
            ),
            "dispute_open": Guide(
                409,
                "A payment of this user is disputed at the bank.",
                "Wait until the dispute has ended.",
            ),
            "debt_open": Guide(
                402,
                "The user owes for usage of an earlier subscription: `amount` in `currency`.",
                "Send the user to `pay_url`. Then send the request again.",
            ),
            "debt_payment_processing": Guide(
                409,
                "The payment of the user's debt is on its way.",
                "Send the same request again after `Retry-After`.",
                retry=True,
            ),
            "billing_email_taken": Guide(
                409,
                "The billing provider has another customer with this email address.",
                "Change the user's address, or have an operator run `adopt`"
                " ([docs](operations.md)).",
            ),
            "confirmation_expired": Guide(
                409,
                "The confirmation of a plan change is older than ten minutes, or the subscription"
                " has changed since.",
                "Ask for the change again, without `confirmation`, and show the new preview.",
            ),
            "plan_change_not_offered": Guide(
                409,
                "The billing provider does not change this plan into that one.",
                "Have the user choose another plan.",
            ),
            "plan_change_not_possible": Guide(
                409,
                "The subscription is not active, or is to be canceled or paused.",
                "Have the user take that back in the portal first.",
            ),
            "payment_failed": Guide(
                402,
                "The card was declined. The plan stays as it is.",
                "Have the user change the payment method in the portal, and ask for the change"
                " again.",
            ),
            "payment_method_missing": Guide(
                402,
                "There is no payment method to charge.",
                "Have the user add one in the portal, and ask for the change again.",
            ),
            "conflict": Guide(
                409,
                "The state changed while the request ran.",
                "Read the state again, then send the request again.",
                retry=True,
            ),
        },
    ),
    Chapter(
        "Portal, subscription and invoices",
        {
            "no_billing_account": Guide(
                409,
                "The user never chose a plan, or has no subscription to manage.",
                "Start a checkout first.",
            ),
            "cancellation_not_possible": Guide(
                409,
                "The billing provider does not cancel or keep a subscription in this state.",
                "Send the user to the portal.",
            ),
            "usage_pending": Guide(
                503,
                "Usage of the user has to be reported to the billing provider before the"
                " subscription changes.",
                "Send the same request again after `Retry-After`.",
                retry=True,
            ),
            "nothing_to_recover": Guide(
                409, "No payment of the user is overdue.", "There is nothing to do."
            ),
            "invoice_not_found": Guide(
                404, "The user has no invoice with this id.", "Read the list again."
            ),
        },
    ),
    Chapter(
        "Usage",
        {
            "subscription_required": Guide(
                402,
                "The user has no subscription that gives access.",
                "Send the user to a checkout.",
            ),
            "access_unconfirmed": Guide(
                503,
                "The user may have paid just now, and the billing provider has not confirmed it."
                " `as_of` says how old our information is.",
                "Send the same request again after `Retry-After`. Never count this as a refusal.",
                retry=True,
            ),
            "limit_reached": Guide(
                402,
                "Less of the included quantity is left than was asked for, and there is no overage:"
                " the plan sells none, or the user is in a trial.",
                "Wait for the next period or the end of the trial, or have the user choose a larger"
                " plan.",
            ),
            "payment_overdue": Guide(
                402,
                "A payment is overdue, disputed or owed, so only the included quantity may be"
                " used.",
                "Have the user pay: `GET /dashboard` has the page under `payment`.",
            ),
            "spend_limit_reached": Guide(
                402,
                "The cost beyond the included quantities would pass the user's spending limit.",
                "Raise the limit with `PUT /spend-limit` or `PUT /users/{user_id}/spend-limit`, or"
                " wait for the next period.",
            ),
            "price_unknown": Guide(
                402,
                "The billing provider has not named a price for usage beyond the included"
                " quantity.",
                "Complete the plan's prices at the billing provider.",
            ),
            "feature_not_in_plan": Guide(
                402, "The user's plan does not have this feature.", "Offer a plan that has it."
            ),
            "feature_not_metered": Guide(
                422,
                "The feature is on or off, and has no quantities.",
                "Ask with `POST /usage/check`; report nothing.",
            ),
            "total_too_large": Guide(
                422,
                "The total of the period would have more than 15 digits.",
                "Check that the quantity is in the feature's unit.",
            ),
            "too_old": Guide(
                422,
                "The event occurred more than 35 days ago.",
                "Drop the event, or bill it outside of this stack.",
            ),
            "before_subscription": Guide(
                422,
                "The event occurred before the user's access began, or while the user had none.",
                "Drop the event.",
            ),
            "in_future": Guide(
                422,
                "The event lies more than 5 minutes in the future.",
                "Set the sender's clock.",
            ),
            "idempotency_conflict": Guide(
                409,
                "The key was used with different content. The first request stays in effect.",
                "Use one key for one unit of work, and send it again unchanged.",
            ),
        },
    ),
    Chapter(
        "Reservations and corrections",
        {
            "already_counted": Guide(
                409,
                "Usage was counted under this key, so nothing can be reserved under it.",
                "Reserve under a new key. The work is paid already.",
            ),
            "reservation_not_found": Guide(
                404,
                "There is no reservation with this id.",
                "Use the id from the answer that made it.",
            ),
            "reservation_expired": Guide(
                409,
                "The reservation has expired, and its quantity no longer fits the limit.",
                "Nothing was counted. Reserve for longer next time (`expires_in`).",
            ),
            "reservation_released": Guide(
                409,
                "The reservation was released, so it cannot be confirmed or held again.",
                "Reserve under a new key.",
            ),
            "reservation_confirmed": Guide(
                409,
                "The reservation was confirmed, so it cannot be released.",
                "Send a correction to take the quantity off.",
            ),
            "below_zero": Guide(
                409,
                "The user used less in the period than is to be taken off.",
                "Name the wrong entry in `corrects`, or send `occurred_at` for another period.",
            ),
            "no_period": Guide(
                409,
                "No period is running, and none contains `occurred_at`.",
                "Name the wrong entry in `corrects`, or send an `occurred_at` within a period.",
            ),
            "entry_not_found": Guide(
                404,
                "The ledger has no entry of this user and feature with the key in `corrects`.",
                "Find the entry with `GET /usage/events`.",
            ),
        },
    ),
    Chapter(
        "Outgoing events",
        {
            "endpoint_not_found": Guide(
                404,
                "There is no endpoint with this id. It may have been deleted.",
                "Use an id of `GET /events/endpoints`.",
            ),
            "event_not_found": Guide(
                404,
                "There is no event with this id. It may be too old for the log.",
                "Use the `id` of an event. If the event is too old, read the user's state instead.",
            ),
            "range_too_long": Guide(
                422,
                "The range has more events than one request can read in its time. Those that were"
                " read are sent.",
                "Send the range in parts. Repeating a part sends its events again.",
            ),
            "too_many_endpoints": Guide(
                409,
                "The stack has ten endpoints, which are as many as it can have.",
                "Delete one, or have one endpoint hand events on.",
            ),
            "threshold_exists": Guide(
                409,
                "The change would make the threshold equal to another one.",
                "Remove one of the two.",
            ),
            "threshold_not_found": Guide(
                404,
                "The caller has no threshold with this id: a user changes and removes own ones, a"
                " product those it added.",
                "Use an id of `GET /thresholds`, or of `GET /events/thresholds`.",
            ),
            "too_many_thresholds": Guide(
                409,
                "There are 20 thresholds, which are as many as a user can have, a product can add"
                " for a user, or there can be for all users.",
                "Remove one first.",
            ),
        },
    ),
    Chapter(
        "Our side",
        {
            "billing_provider_error": Guide(
                502,
                "The billing provider refused the request, or its answer cannot be read.",
                f"The same request fails again. {_WRITE_TO_SUPPORT}",
            ),
            "billing_provider_unavailable": Guide(
                503,
                "The billing provider does not answer, or no call to it is left this second.",
                "Send the same request again after `Retry-After`.",
                retry=True,
            ),
            "identity_provider_unavailable": Guide(
                503,
                "A token is signed with a key that is not known yet, and the identity provider"
                " does not answer.",
                "Send the same request again after `Retry-After`.",
                retry=True,
            ),
            "database_unavailable": Guide(
                503,
                "The database does not answer, or another transaction held the request up.",
                "Send the same request again after `Retry-After`, with the same key.",
                retry=True,
            ),
            "unavailable": Guide(
                503,
                "A secret or the clock of the stack cannot be read.",
                "Send the same request again after `Retry-After`, with the same key.",
                retry=True,
            ),
            "internal_error": Guide(
                500,
                "Something went wrong that nobody foresaw. The operators are told.",
                "Send the same request again, with the same key. Name `request_id` if it stays.",
                retry=True,
            ),
        },
    ),
    Chapter(
        "Operators' commands",
        {
            "unknown_customer": Guide(
                404,
                "The billing provider has no customer with this id.",
                "Compare the id with the provider's page.",
            ),
            "customer_of_another": Guide(
                409,
                "The customer belongs to another user.",
                "Find out which user is the right one first.",
            ),
            "has_a_customer": Guide(
                409,
                "The user has another customer already, and customers are never merged.",
                "Decide which customer stays, and close the other at the provider.",
            ),
        },
    ),
)

GUIDES = {code: guide for chapter in CHAPTERS for code, guide in chapter.codes.items()}

# No request to the API gets these. A function URL, an invocation or an operator's command gets
# them.
NOT_OF_THE_API = frozenset({"method_not_allowed", "unknown_event", *CHAPTERS[-1].codes})
