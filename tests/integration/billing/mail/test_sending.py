"""Each mail is sent once, and none is forgotten: with two senders, lost answers and dead runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from psycopg.types.json import Jsonb

from billing.accounts import tokens
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.mail import outbox, sending, suppression
from billing.mail.outbox import Outcome
from billing.mail.service import Message, NotTaken, Refused, Unanswered
from billing.mail.texts import WORDS
from tests.integration.billing.conftest import add_user
from tests.integration.billing.racing import Race, passes_by
from tests.integration.billing.reading import rows_read

NOW = datetime(2026, 9, 10, 12, tzinfo=UTC)
LETTERHEAD = sending.Letterhead("Acme", "billing@acme.example", "https://app.example")
SECRET = "the app secret"
TOKEN_ID = tokens.new_id()


@dataclass
class Post:
    """A mail service that keeps what it is given. `errors` are raised by the next calls."""

    errors: list[Exception] = field(default_factory=list)
    taken: list[Message] = field(default_factory=list)
    calls: int = 0

    def send(self, message: Message) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(message)
        return f"message-{len(self.taken)}"


@pytest.fixture
def post() -> Post:
    return Post()


@pytest.fixture(autouse=True)
def ana(db: Database) -> str:
    return add_user(db, "usr_ana")


def queue(
    db: Database,
    user: str = "usr_ana",
    kind: str = "password_changed",
    *,
    to: str = "ana@example.com",
    **fields: str,
) -> int:
    queued = db.value("select queue_mail(%s, %s, %s, %s, %s)", [user, to, kind, Jsonb(fields), NOW])
    assert isinstance(queued, int)
    return queued


def send(
    db: Database,
    post: Post,
    *,
    now: datetime = NOW,
    seconds: float = 30,
) -> sending.Done:
    return sending.send(
        db,
        post,
        letterhead=LETTERHEAD,
        links=sending.Links(
            token_of=lambda token_id: tokens.token_of(SECRET, token_id),
            unsubscribe_of=lambda user_id: f"https://api.example/off/{user_id}",
        ),
        clock=lambda: now,
        deadline=Deadline.after(seconds),
    )


def states(db: Database) -> list[tuple[str, int, str | None]]:
    rows = db.all("select state, attempts, reason from mails order by id")
    return [(row["state"], row["attempts"], row["reason"]) for row in rows]


def let_pauses_end(db: Database) -> None:
    db.execute("update mails set due_at = now() where state = 'pending'")


def let_leases_end(db: Database) -> None:
    db.execute("update mails set leased_until = now() where state = 'sending'")


class TestSend:
    def test_all_that_wait_are_sent_once(self, db: Database, post: Post) -> None:
        for n in range(3):
            queue(db, to=f"{n}@example.com")
        assert send(db, post).sent == 3
        assert send(db, post).sent == 0
        assert [each.recipient for each in post.taken] == [f"{n}@example.com" for n in range(3)]
        assert states(db) == [("sent", 1, None)] * 3

    def test_the_link_has_the_token_and_the_outbox_has_not(
        self, db: Database, ana: str, post: Post
    ) -> None:
        queue(db, ana, "verify_email", token_id=TOKEN_ID)
        token = tokens.token_of(SECRET, TOKEN_ID)
        stored = str(db.all("select to_jsonb(m) as row from mails m"))
        send(db, post)
        stored += str(db.all("select to_jsonb(m) as row from mails m"))
        (message,) = post.taken
        assert f"https://app.example/verify-email?token={token}" in message.text
        assert token not in stored
        assert token.removeprefix(TOKEN_ID) not in stored

    def test_it_keeps_the_name_that_the_service_gives_it(self, db: Database, post: Post) -> None:
        queue(db)
        send(db, post)
        assert db.value("select message_id from mails") == "message-1"

    def test_an_address_that_is_no_single_address_ends(self, db: Database, post: Post) -> None:
        queue(db, to="ana@example.com,eve@example.com")
        assert send(db, post).refused == 1
        assert states(db) == [("dead", 1, "address")]
        assert post.calls == 0

    def test_a_mail_that_cannot_be_made_waits_and_stops_no_other(
        self, db: Database, ana: str, post: Post, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A row of a newer version, while the old one still runs."""
        queue(db)
        queue(db, ana, "verify_email", token_id=TOKEN_ID)
        monkeypatch.setattr("billing.mail.rendering.WORDS", {"verify_email": WORDS["verify_email"]})
        assert send(db, post) == sending.Done(sent=1, postponed=1)
        assert states(db) == [("pending", 1, "not_made"), ("sent", 1, None)]

    def test_no_mail_is_begun_that_might_not_end_in_time(self, db: Database, post: Post) -> None:
        queue(db)
        assert send(db, post, seconds=3).sent == 0
        assert states(db) == [("pending", 0, None)]


class TestFailures:
    def test_what_was_not_taken_is_sent_later(self, db: Database, post: Post) -> None:
        queue(db)
        post.errors = [NotTaken("TooManyRequestsException", concerns_all=True)]
        assert send(db, post).postponed == 1
        assert send(db, post).sent == 0  # not before its pause is over
        let_pauses_end(db)
        assert send(db, post).sent == 1
        assert states(db) == [("sent", 2, None)]

    def test_pauses_grow(self, db: Database, post: Post) -> None:
        queue(db)
        pauses = []
        for _ in range(6):
            post.errors = [NotTaken("MessageRejected", concerns_all=False)]
            send(db, post)
            pauses.append(db.value("select extract(epoch from due_at - now())::float8 from mails"))
            let_pauses_end(db)
        assert [b for a, b in pairwise(pauses) if b < 1.1 * a] == []
        assert pauses[0] < 7

    def test_a_service_that_takes_none_is_not_asked_about_each(
        self, db: Database, post: Post
    ) -> None:
        for n in range(3):
            queue(db, to=f"{n}@example.com")
        post.errors = [NotTaken("EndpointConnectionError", concerns_all=True)]
        send(db, post)
        assert post.calls == 1

    def test_a_mail_that_is_not_taken_stops_no_other(self, db: Database, post: Post) -> None:
        queue(db)
        queue(db, to="bea@example.com")
        post.errors = [NotTaken("MessageRejected", concerns_all=False)]
        assert send(db, post) == sending.Done(sent=1, postponed=1)

    def test_a_refused_mail_is_not_tried_again(self, db: Database, post: Post) -> None:
        queue(db)
        post.errors = [Refused("BadRequestException")]
        assert send(db, post).refused == 1
        let_pauses_end(db)
        assert send(db, post).sent == 0
        assert states(db) == [("dead", 1, "BadRequestException")]

    def test_a_lost_answer_is_not_sent_twice(self, db: Database, post: Post) -> None:
        queue(db)
        post.errors = [Unanswered("ReadTimeoutError")]
        assert send(db, post).in_doubt == 1
        sending.tidy(db, NOW)
        assert send(db, post).sent == 0
        assert states(db) == [("in_doubt", 1, "ReadTimeoutError")]

    def test_a_run_that_died_leaves_its_mail_in_doubt(self, db: Database, post: Post) -> None:
        queue(db)
        assert outbox.lease_next(db, NOW) is not None
        assert sending.tidy(db, NOW) == 0  # it may still be at work
        let_leases_end(db)
        assert send(db, post).sent == 0
        assert sending.tidy(db, NOW) == 1
        assert states(db) == [("in_doubt", 1, "the run that sent it has died")]

    def test_a_run_that_was_slow_says_what_became_of_its_mail(self, db: Database) -> None:
        queue(db)
        mail = outbox.lease_next(db, NOW)
        assert mail is not None
        let_leases_end(db)
        sending.tidy(db, NOW)
        outbox.record(db, mail, Outcome.SENT, message_id="late")
        assert states(db) == [("sent", 1, None)]

    def test_an_old_attempt_does_not_undo_what_a_newer_one_came_to(
        self, db: Database, post: Post
    ) -> None:
        queue(db)
        slow = outbox.lease_next(db, NOW)
        assert slow is not None
        let_leases_end(db)
        sending.tidy(db, NOW)
        outbox.redrive(db, now=NOW)
        assert send(db, post).sent == 1
        outbox.record(db, slow, Outcome.POSTPONED, reason="late")
        outbox.record(db, slow, Outcome.REFUSED, reason="late")
        assert states(db) == [("sent", 2, None)]

    def test_an_old_attempt_does_not_end_a_newer_one_that_is_under_way(self, db: Database) -> None:
        """A third run would send the mail beside the second."""
        queue(db)
        slow = outbox.lease_next(db, NOW)
        assert slow is not None
        let_leases_end(db)
        sending.tidy(db, NOW)
        outbox.redrive(db, now=NOW)
        newer = outbox.lease_next(db, NOW)
        assert newer is not None
        for outcome in (Outcome.POSTPONED, Outcome.REFUSED):
            outbox.record(db, slow, outcome, reason="late")
            assert states(db)[0][:2] == ("sending", 2)
            assert outbox.lease_next(db, NOW) is None
        outbox.record(db, newer, Outcome.SENT, message_id="in time")
        assert states(db)[0][:2] == ("sent", 2)

    def test_what_was_sent_after_all_is_not_sent_again_by_redriving(
        self, db: Database, post: Post
    ) -> None:
        queue(db)
        slow = outbox.lease_next(db, NOW)
        assert slow is not None
        let_leases_end(db)
        sending.tidy(db, NOW)
        outbox.redrive(db, now=NOW)
        outbox.record(db, slow, Outcome.SENT, message_id="late")
        assert send(db, post).sent == 0


class TestEnds:
    def test_a_link_that_has_ended_is_not_sent(self, db: Database, ana: str, post: Post) -> None:
        ends = NOW + timedelta(minutes=30)
        queue(db, ana, "verify_email", token_id=TOKEN_ID, expires_at=ends.isoformat())
        assert send(db, post, now=ends).sent == 0
        assert sending.tidy(db, ends) == 1
        assert states(db) == [("dead", 0, "expired")]

    def test_its_end_is_said(self, db: Database, ana: str, post: Post) -> None:
        ends = NOW + timedelta(minutes=30)
        queue(db, ana, "verify_email", token_id=TOKEN_ID, expires_at=ends.isoformat())
        send(db, post)
        assert "until 12:30 UTC on 10" in post.taken[0].text

    def test_what_failed_all_the_time_keeps_its_reason(self, db: Database, post: Post) -> None:
        queue(db)
        post.errors = [NotTaken("AccountSuspendedException", concerns_all=True)]
        send(db, post)
        sending.tidy(db, NOW + timedelta(days=4))
        assert states(db) == [("dead", 1, "AccountSuspendedException")]

    def test_a_suppressed_address_gets_nothing_that_already_waits(
        self, db: Database, post: Post
    ) -> None:
        queue(db)
        suppress(db, "Ana@Example.com")
        sending.tidy(db, NOW)
        assert send(db, post).sent == 0
        assert states(db) == [("dead", 0, "suppressed")]

    def test_old_mails_are_deleted(self, db: Database, post: Post) -> None:
        queue(db)
        queue(db, to="bea@example.com")
        send(db, post)
        db.execute("update mails set ended_at = now() - interval '31 days' where id = 1")
        queue(db, to="cid@example.com")
        outbox.delete_old(db)
        addresses = [row["address"] for row in db.all("select address from mails order by id")]
        assert addresses == ["bea@example.com", "cid@example.com"]


class TestRedrive:
    def test_dead_mails_and_those_in_doubt_are_sent_again(self, db: Database, post: Post) -> None:
        for n in range(2):
            queue(db, to=f"{n}@example.com")
        post.errors = [Refused("BadRequestException"), Unanswered("ReadTimeoutError")]
        send(db, post)
        assert outbox.redrive(db, now=NOW) == 2
        assert send(db, post).sent == 2

    def test_only_those_that_are_named(self, db: Database, post: Post) -> None:
        bea = add_user(db, "usr_bea")
        one, two = queue(db), queue(db, bea, to="bea@example.com")
        post.errors = [Refused("BadRequestException")] * 2
        send(db, post)
        assert outbox.redrive(db, now=NOW, mail_id=one) == 1
        assert outbox.redrive(db, now=NOW, user_id=bea) == 1
        assert outbox.redrive(db, now=NOW, mail_id=two) == 0

    def test_no_link_that_has_ended(self, db: Database, post: Post) -> None:
        queue(db)
        post.errors = [Refused("BadRequestException")]
        send(db, post)
        assert outbox.redrive(db, now=NOW + timedelta(days=4)) == 0


class TestGauges:
    def test_the_oldest_unsent_mail(self, db: Database, post: Post) -> None:
        assert outbox.gauges(db, NOW) == outbox.Gauges(0, 0, 0)
        queue(db)
        db.execute("update mails set waits_since = now() - interval '10 minutes'")
        assert 600 <= outbox.gauges(db, NOW).age_seconds < 660
        send(db, post)
        assert outbox.gauges(db, NOW).age_seconds == 0

    def test_what_waits_for_a_person(self, db: Database, post: Post) -> None:
        queue(db)
        queue(db, to="bea@example.com")
        post.errors = [Refused("BadRequestException"), Unanswered("ReadTimeoutError")]
        send(db, post)
        assert outbox.gauges(db, NOW) == outbox.Gauges(0, 1, 1)
        assert outbox.gauges(db, NOW + timedelta(days=4)) == outbox.Gauges(0, 0, 0)

    def test_a_run_reads_no_mail_that_was_sent(self, frozen: Database) -> None:
        """Mails are kept for 30 days, and a run comes with each new one."""
        frozen.execute(
            "insert into mails (user_id, address, kind, fields, queued_at, expires_at, state,"
            " ended_at) select 'usr_ana', 'ana@example.com', 'password_changed', '{}', now(),"
            " now() + interval '1 day', 'sent', now() from generate_series(1, 5000)"
        )
        frozen.execute("analyze mails")

        def run() -> None:
            outbox.gauges(frozen, NOW)
            outbox.end_hopeless(frozen, NOW)
            outbox.lease_next(frozen, NOW)

        assert rows_read(frozen, run)["mails"] < 100


class TestConcurrency:
    def test_two_senders_send_each_mail_once(
        self, db: Database, post: Post, connect: Callable[[], Database]
    ) -> None:
        queue_many(db, 40)
        databases = [connect() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda each: send(each, post), databases))
        assert sum(each.sent for each in done) == 40
        assert len({each.recipient for each in post.taken}) == len(post.taken) == 40

    def test_a_mail_that_is_being_leased_is_passed_over(self, db: Database, race: Race) -> None:
        queue(db)
        passes_by(
            race,
            db,
            "select id from mails for update",
            lambda each: outbox.lease_next(each, NOW) is not None,
            nothing=False,
            all_of_it=True,
        )

    def test_a_mail_that_is_being_recorded_is_not_ended_as_well(
        self, db: Database, race: Race
    ) -> None:
        queue(db)
        outbox.lease_next(db, NOW)
        let_leases_end(db)
        passes_by(
            race,
            db,
            "select id from mails for update",
            lambda each: sending.tidy(each, NOW),
            nothing=0,
            all_of_it=1,
        )

    def test_the_lease_of_one_run_is_seen_by_the_next(self, db: Database, race: Race) -> None:
        queue(db)
        first = race.first(lambda mine: outbox.lease_next(mine, NOW))
        other = race.second(lambda each: outbox.lease_next(each, NOW))
        race.commit()
        assert (first is not None, other.answer) == (True, None)
        assert states(db) == [("sending", 1, None)]


class TestSuppression:
    def test_a_bounce_suppresses_the_address_as_it_is_stored(
        self, db: Database, post: Post
    ) -> None:
        """SES names an address in punycode."""
        queue(db, to="ana@b\u00fccher.example")
        send(db, post)
        unwelcome = suppression.read(bounce("message-1", "ana@xn--bcher-kva.example"))
        assert unwelcome is not None
        suppression.suppress(db, unwelcome)
        suppression.suppress(db, unwelcome)  # an event may come twice
        for address in ("ana@b\u00fccher.example", "ana@xn--bcher-kva.example"):
            assert db.value("select is_suppressed(%s)", [address])
        assert not db.value("select is_suppressed('bea@example.com')")

    def test_an_operator_may_lift_it(self, db: Database) -> None:
        suppress(db, "ana@example.com")
        assert suppression.allow(db, "Ana@example.com")
        assert not suppression.allow(db, "Ana@example.com")
        assert not db.value("select is_suppressed('ana@example.com')")


def suppress(db: Database, address: str) -> None:
    suppression.suppress(db, suppression.Unwelcome("complaint", "unknown", (address,)))


def bounce(message_id: str, address: str) -> dict[str, object]:
    return {
        "source": "aws.ses",
        "detail-type": "Email Bounced",
        "detail": {
            "eventType": "Bounce",
            "bounce": {
                "bounceType": "Permanent",
                "bouncedRecipients": [{"emailAddress": address}],
            },
            "mail": {"messageId": message_id},
        },
    }


def queue_many(db: Database, count: int) -> None:
    """More than the limits of one account allow."""
    db.execute(
        "insert into mails (user_id, address, kind, fields, queued_at, expires_at)"
        " select 'usr_ana', n || '@example.com', 'password_changed', '{}', now(),"
        " now() + interval '1 year' from generate_series(1, %s) as n",
        [count],
    )
