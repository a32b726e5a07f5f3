"""Usage that nobody paid for is remembered: at the stand-in, and in Postgres alone."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from billing.accounts.accounts import User
from billing.clock import wall_clock
from billing.commet.answers import Transaction
from billing.commet.call_budget import Budget
from billing.commet.client import Commet
from billing.config import from_env
from billing.database.connection import Database
from billing.deadline import Deadline
from billing.debts import invoices, keeping, links, reading
from billing.debts.refusing import Debtors
from billing.delivery import sending
from billing.errors import CommetUnavailable, Conflict, DebtOpen
from billing.operations import reconcile
from billing.subscriptions import inbox
from billing.subscriptions.access import Access
from standin.testing import standin
from tests.integration.billing.conftest import NOW, add_user, own_database
from tests.integration.billing.racing import Race, passes_by
from tests.integration.billing.signed import body
from tests.integration.billing.subscriptions.test_checkout import _cancel
from tests.integration.billing.subscriptions.test_doubt import (  # noqa: F401 - one is a fixture
    Person,
    person,
    soon,
)

SETTINGS = from_env({"COMMET_MODE": "sandbox", "COMMET_CALLS_PER_SECOND": "1000"})
FIVE = Decimal(5)


@pytest.fixture
def debtor(person: Person) -> Person:  # noqa: F811
    """Somebody who used 4,900 beyond what is included, and left before Commet was told."""
    keeping.keep_floor(person.db, {"usd": FIVE}, soon())
    sub = person.buy()
    assert person.code("5000") is None
    _cancel(person.remote, sub)
    deliver(person)
    run(person)
    deliver(person)
    return person


def deliver(person: Person) -> None:  # noqa: F811
    person.db.execute("update usage_delivery set due_at = now()")
    sending.deliver(
        person.db, person.commet, wall_clock, Deadline.after(30), timedelta(0),
        budget=Budget(person.db, 1000),
    )  # fmt: skip


def run(person: Person, **settings: Any) -> dict[str, Any]:  # noqa: F811
    """A run of reconcile to which everything is due."""
    person.db.execute("update invoice_search set due_at = now()")
    person.db.execute("update debt set due_at = now() where due_at is not null")
    person.db.execute("update debt_link set due_at = now() where due_at is not null")
    return reconcile.run(
        person.db, person.commet, replace(SETTINGS, **settings), clock=wall_clock,
        deadline=Deadline.after(30),
    )  # fmt: skip


def check(person: Person) -> DebtOpen | None:  # noqa: F811
    """Why the person may not check out; None if they may."""
    debtors = Debtors(person.db, person.commet, wall_clock, "https://app.example/")
    try:
        debtors.check(person.user.id, soon())
    except DebtOpen as refusal:
        return refusal
    return None


def payment_id(person: Person) -> str:  # noqa: F811
    return str(person.db.value("select payment_id from debt_link where state = 'offered'"))


def has_debt(db: Database) -> bool:
    return bool(db.value("select bool_or(has_debt) from users"))


class TestLostUsage:
    def test_it_is_refused_until_it_is_paid(self, debtor: Person) -> None:
        """The price of what was lost, with a link; the payment is found by asking."""
        refusal = check(debtor)
        assert refusal is not None
        assert Decimal(refusal.amount) >= Decimal("490.00")
        assert (refusal.code, refusal.status, refusal.currency) == ("debt_open", 402, "usd")
        assert has_debt(debtor.db)
        again = check(debtor)
        assert again is not None
        assert again.pay_url == refusal.pay_url is not None
        debtor.remote.control.pay_link(payment_id(debtor))
        assert check(debtor) is None
        assert not has_debt(debtor.db)
        debtor.checkout("usage_pro", "monthly")

    def test_the_webhook_of_the_payment(self, debtor: Person) -> None:
        """It ends exactly the debts of the link, once, and their deliveries are resolved."""
        check(debtor)
        link = payment_id(debtor)
        paid = body(
            "payment_link.completed", 5, customerId=debtor.user.id, paymentId=link,
            paymentTransactionId="txn_1", status="succeeded",
        )  # fmt: skip
        inbox.receive(debtor.db, paid, mode="sandbox", now=wall_clock())
        inbox.receive(debtor.db, paid, mode="sandbox", now=wall_clock())
        assert check(debtor) is None
        assert debtor.db.all("select kind, ended_by from debt") == [
            {"kind": "lost_usage", "ended_by": "paid"}
        ]
        parked = debtor.db.all("select resolved_at from usage_delivery where state = 'parked'")
        assert parked
        assert all(row["resolved_at"] for row in parked)
        assert keeping.gauges(debtor.db) == keeping.Gauges(0, 0)

    def test_forgiven(self, debtor: Person) -> None:
        """The link is withdrawn; if it is paid all the same, that rings until it is refunded."""
        check(debtor)
        link = payment_id(debtor)
        forgiven = keeping.forgive(
            debtor.db, user_id=debtor.user.id, debt=None, author="ann", note="ours", now=NOW
        )
        assert (forgiven, check(debtor)) == (1, None)
        debtor.remote.control.pay_link(link)
        assert run(debtor)["debts_paid_twice"] == 1
        number = debtor.db.value("select id from debt_link")
        assert keeping.note_refund(debtor.db, "txn_9", number, NOW) == 1
        assert run(debtor)["debts_paid_twice"] == 0

    def test_a_forgiven_debts_link_is_canceled(self, debtor: Person) -> None:
        check(debtor)
        link = payment_id(debtor)
        keeping.forgive(
            debtor.db, user_id=debtor.user.id, debt=None, author="ann", note="ours", now=NOW
        )
        run(debtor)
        assert debtor.commet.payment(link, soon()).status == "canceled"

    def test_nobody_is_refused(self, debtor: Person) -> None:
        """RefuseDebtors=false, or a floor that nobody reaches; and back again."""
        run(debtor, refuse_debtors=False)
        assert (has_debt(debtor.db), check(debtor)) == (False, None)
        run(debtor)
        assert has_debt(debtor.db)
        run(debtor, debt_floor={"usd": Decimal(100_000_000)})
        assert not has_debt(debtor.db)
        run(debtor, debt_floor={"usd": None})
        assert not has_debt(debtor.db)

    def test_commet_cannot_say(self, debtor: Person) -> None:
        """Whoever may have paid is not told to pay."""
        check(debtor)
        debtor.remote.control.fault(
            match={"path": "/payments*"}, action={"status": 500}, times=None
        )
        with pytest.raises(CommetUnavailable):
            check(debtor)

    def test_two_requests_make_one_link(
        self, debtor: Person, connect: Callable[[], Database], client: Callable[[], Commet]
    ) -> None:
        """Only one of them asks Commet; the other is told to try again, or gets the same link."""

        def ask(_: int) -> str | None:
            one = replace(debtor, db=connect(), commet=client())
            with suppress(Conflict):
                refusal = check(one)
                assert refusal is not None
                return refusal.pay_url
            return None

        with ThreadPoolExecutor(6) as pool:
            urls = set(pool.map(ask, range(6))) - {None}
        assert len(urls) == 1
        made = debtor.remote.control.requests(method="POST", path="/payments")
        links_made = [each["body"] for each in made if each["path"] == "/payments"]
        assert len({each["amount"] for each in links_made}) == 1
        assert debtor.db.value("select count(*) from debt_link") == 1

    def test_redriven(self, debtor: Person) -> None:
        """Usage that is sent again is no debt."""
        from billing.delivery import outbox

        assert outbox.redrive(debtor.db, reason="lost_to_cancellation") == 1
        assert debtor.db.value("select ended_by from debt") == "withdrawn"
        assert not has_debt(debtor.db)


class TestInvoices:
    @pytest.fixture
    def apart(self, db: Database) -> Iterator[Person]:
        """Somebody at a stand-in of this test's own, whose clock it may move."""
        with standin() as remote:
            commet = Commet(
                remote.base_url,
                lambda *, fresh=False: remote.api_key,  # noqa: ARG005
                live=False,
                sleep=lambda _: None,
            )
            user = add_user(db)
            access = Access(db, SETTINGS, lambda: commet, wall_clock)
            yield Person(db, commet, remote, access, User(user, f"{user}@example.com", None))
            commet._http.close()

    def test_overage_that_went_void(self, apart: Person) -> None:
        """Canceled while past due: the overage on the invoice is a debt, the base price is none."""
        keeping.keep_floor(apart.db, {"usd": FIVE}, soon())
        sub = apart.buy()
        assert apart.code("200") is None
        deliver(apart)
        apart.remote.control.set_card(apart.user.id, charge_failure="card_declined")
        apart.remote.control.advance(days=31)
        state = apart.commet.subscription(sub, soon())
        assert state.status == "past_due"
        _cancel(apart.remote, sub)
        apart.db.execute("update subscriptions set refresh_due = now()")
        apart.time_passes()
        run(apart)
        run(apart)
        refusal = check(apart)
        assert refusal is not None
        net = "select amount - tax from debt where kind = 'voided_invoice' and ended_at is null"
        assert apart.db.value(net) == 10

    @pytest.mark.parametrize(
        ("total", "tax", "lines", "expected"),
        [
            (4629, 729, [("plan_base", 2900), ("feature_overage", 1000)], ("11.87", "1.87")),
            (2900, 0, [("plan_base", 2900)], ("0", "0")),
            (500, 0, [("plan_base", 2900), ("feature_overage", 1000)], ("5.00", "0")),
        ],
    )
    def test_what_is_owed(
        self, total: int, tax: int, lines: list[tuple[str, int]], expected: tuple[str, str]
    ) -> None:
        """Overage with its part of the tax, and never more than the invoice asked for."""
        from billing.commet.answers import Invoice

        invoice = Invoice.model_validate({
            "id": "inv_1", "status": "void", "currency": "usd", "total": total,
            "taxAmount": tax, "lineItems": [{"lineType": t, "amount": a} for t, a in lines],
        })  # fmt: skip
        owed = invoices.owed(invoice)
        assert (owed.amount, owed.tax) == (Decimal(expected[0]), Decimal(expected[1]))


class Books:
    """Debts of one user, without Commet."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.user = add_user(db, "usr_ana")
        db.execute("insert into debt_floor (currency, amount) values ('usd', 5)")

    def open(
        self,
        source: str,
        amount: str | None,
        kind: str = "lost_dispute",
        currency: str = "usd",
    ) -> int:
        return int(self.db.value(
            "select open_debt(%s, %s, %s, %s, %s, %s)",
            [self.user, kind, source, amount, currency, NOW],
        ))  # fmt: skip

    def news(self, outcome: str | None, at: timedelta) -> None:
        """What a webhook says about a dispute."""
        known = {"transaction_id": "txn_1", "amount": "29.00", "currency": "usd"}
        change = {"payment": {
            "kind": "dispute", "about": "txn_1", "dated": True,
            "known": known | {"outcome": outcome},
        }}  # fmt: skip
        self.db.execute(
            "select record_change(%s, %s, %s, %s)", [self.user, NOW + at, Jsonb(change), NOW]
        )


@pytest.fixture
def books(db: Database) -> Books:
    return Books(db)


class TestBooks:
    def test_the_floor_is_for_the_sum(self, books: Books) -> None:
        """Below it nothing is blocked, nor while an amount is not known."""
        books.open("a", "2.50")
        books.open("b", None, "voided_invoice")
        assert not has_debt(books.db)
        books.open("a", "9.00")  # the same source again changes nothing
        assert not has_debt(books.db)
        books.open("c", "2.50")
        assert has_debt(books.db)

    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (1, 0, 2)])
    def test_a_lost_dispute(self, books: Books, order: tuple[int, ...]) -> None:
        """It is a debt, in whichever order the webhooks come."""
        told = [(None, timedelta(0)), ("lost", timedelta(minutes=1)), (None, timedelta(0))]
        for number in order:
            books.news(*told[number])
        assert books.db.all("select kind, source, amount, ended_at from debt") == [
            {"kind": "lost_dispute", "source": "txn_1", "amount": None, "ended_at": None}
        ]
        assert not has_debt(books.db)  # until the transaction says how much of it is tax
        books.db.execute("select record_debt_amount(1, 29, 4, 'usd', now())")
        assert has_debt(books.db)

    @pytest.mark.parametrize(
        ("net", "tax", "expected"),
        [(2900, 551, "5.51"), (1450, 0, "0.00"), (None, 551, None), (0, 0, None)],
    )
    def test_the_tax_in_a_dispute(self, net: int | None, tax: int, expected: str | None) -> None:
        """The disputed amount has the share of tax that its transaction has."""
        paid = Transaction(id="txn_1", status="disputed", subtotal=net, tax_amount=tax)
        found = reading.share_of_tax(Decimal("34.51"), paid, "usd")
        assert found == (None if expected is None else Decimal(expected))

    def test_won_after_all(self, books: Books) -> None:
        books.news("lost", timedelta(0))
        books.news("won", timedelta(minutes=1))
        assert books.db.value("select ended_by from debt") == "withdrawn"
        assert not has_debt(books.db)

    def test_another_debt_supersedes_the_link(self, books: Books) -> None:
        """A link asks for exactly the debts that were open when it was made."""
        books.open("a", "7.00")
        books.db.execute("select offer_debts(%s, %s)", [books.user, NOW])
        books.db.execute("update debt_link set payment_id = 'pay_1', url = 'https://p'")
        books.open("b", "1.00")
        assert books.db.value("select state from debt_link") == "superseded"
        assert books.db.value("select complete_link('pay_1', 'txn', %s)", [NOW])
        assert books.db.all("select source, ended_by from debt order by id") == [
            {"source": "a", "ended_by": "paid"}, {"source": "b", "ended_by": None},
        ]  # fmt: skip
        assert not has_debt(books.db)


class TestCurrencies:
    def test_each_has_a_floor_and_a_link_of_its_own(self, books: Books) -> None:
        """Sums of two currencies are never added, and one link asks for one of them."""
        books.db.execute("insert into debt_floor (currency, amount) values ('eur', 5)")
        books.open("a", "4.90")
        books.open("b", "4.90", currency="eur")
        assert not has_debt(books.db)
        books.open("c", "1.00", currency="eur")
        assert has_debt(books.db)
        offer = "select currency, net from offer_debts(%s, %s)"
        assert books.db.all(offer, [books.user, NOW]) == [
            {"currency": "eur", "net": Decimal("5.90")}
        ]
        books.db.execute("update debt_link set payment_id = 'pay_1', url = 'https://p'")
        books.open("d", "1.00")  # dollars leave the link in euros as it is
        assert books.db.value("select state from debt_link") == "offered"
        assert [row["currency"] for row in books.db.all(offer, [books.user, NOW])] == ["eur"]
        assert books.db.value("select complete_link('pay_1', 'txn', %s)", [NOW])
        assert has_debt(books.db)
        assert books.db.all(offer, [books.user, NOW]) == [
            {"currency": "usd", "net": Decimal("5.90")}
        ]

    def test_the_floor_is_kept_as_the_parameter_says(self, debtor: Person) -> None:
        floor = {"usd": FIVE, "eur": Decimal(7), "gbp": None}
        keeping.keep_floor(debtor.db, floor, soon())
        kept = debtor.db.all("select currency, amount from debt_floor order by currency")
        assert {row["currency"]: row["amount"] for row in kept} == {"eur": 7, "usd": 5}
        keeping.keep_floor(debtor.db, {}, soon())
        assert debtor.db.value("select count(*) from debt_floor") == 0

    def test_a_floor_that_was_raised(self, books: Books) -> None:
        """A link in a currency for which nobody is refused any more is offered no more."""
        books.db.execute("insert into debt_floor (currency, amount) values ('eur', 5)")
        books.open("a", "6.00", currency="eur")
        offer = "select currency from offer_debts(%s, %s)"
        assert books.db.value(offer, [books.user, NOW]) == "eur"
        books.open("b", "6.00")
        books.db.execute("update debt_floor set amount = 10 where currency = 'eur'")
        assert books.db.value(offer, [books.user, NOW]) == "usd"


class TestAnotherUser:
    """Debts follow a person who erased the account and came back (`move_debts`)."""

    @pytest.fixture(autouse=True)
    def _back(self, books: Books) -> None:
        add_user(books.db, "usr_ben")
        books.db.execute(
            "insert into erasure (user_id, pseudonym, heir)"
            " values ('usr_ana', 'usr_ana', 'usr_ben')"
        )

    def move(self, db: Database) -> None:
        db.execute("select move_debts('usr_ana', 'usr_ben')")

    def owners(self, db: Database) -> list[tuple[str, str | None]]:
        rows = db.all("select user_id, ended_by from debt order by id")
        return [(row["user_id"], row["ended_by"]) for row in rows]

    def test_a_dispute_that_was_won_after_all(self, books: Books) -> None:
        books.news("lost", timedelta(0))
        self.move(books.db)
        unread = books.db.one(reading._sql["unread_of"], {"user_id": "usr_ben", "limit": 5})
        assert unread is not None
        assert (unread["disputed"], unread["currency"]) == (Decimal(29), "usd")
        books.db.execute("select record_debt_amount(1, 29, 4, 'usd', now())")
        assert has_debt(books.db)
        books.news("lost", timedelta(0))  # once more: no second debt
        assert self.owners(books.db) == [("usr_ben", None)]
        books.news("won", timedelta(minutes=1))
        assert self.owners(books.db) == [("usr_ben", "withdrawn")]
        assert not has_debt(books.db)

    def test_an_invoice_that_was_collected_after_all(self, books: Books) -> None:
        books.open("inv_1", "9.00", "voided_invoice")
        self.move(books.db)
        books.open("inv_1", "9.00", "voided_invoice")
        change = {"debt": {"collected": "inv_1"}}
        books.db.execute("select record_change('usr_ana', %s, %s, %s)", [NOW, Jsonb(change), NOW])
        assert self.owners(books.db) == [("usr_ben", "collected")]
        assert not has_debt(books.db)

    def lose(self, db: Database, seq: int) -> None:
        """A delivery of the erased account, worth 9 dollars, is lost to the cancellation."""
        db.execute(
            "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
            " state, reason, amount, currency) values (7, 'storage', %s, 'usr_ana', 90, %s, '{}',"
            " 'parked', 'lost_to_cancellation', 9, 'usd')",
            [seq, f"e{seq}"],
        )
        db.execute("select open_lost_usage('usr_ana', array[7]::bigint[], now())")

    def test_usage_that_is_lost_later(self, books: Books) -> None:
        """It comes along like what was lost before."""
        self.lose(books.db, 1)
        self.move(books.db)
        self.lose(books.db, 2)
        self.move(books.db)
        assert self.owners(books.db) == [("usr_ben", None)] * 2
        assert books.db.value("select sum(amount) from debt") == 18

    def test_lost_usage_that_is_resolved(self, books: Books, race: Race) -> None:
        """The debt goes, though the delivery is the erased account's; the new account is locked."""
        self.lose(books.db, 1)
        self.move(books.db)
        race.first(lambda mine: mine.execute("select from users where id = 'usr_ben' for update"))
        resolve = "select resolve_delivery('usr_ana', 'e1', 'ours', false)"
        resolved = race.second(lambda mine: mine.value(resolve))
        assert resolved.waits
        race.first(lambda mine: mine.execute("select from debt for update nowait"))
        race.commit()
        assert resolved.answer == 1
        assert self.owners(books.db) == [("usr_ben", "withdrawn")]
        assert not has_debt(books.db)

    def test_a_link_that_the_erased_account_was_offered(self, books: Books) -> None:
        """Commet is asked about it before the new account is refused; its payment ends the debt."""
        books.open("a", "9.00")
        books.db.execute("select offer_debts(%s, %s)", [books.user, NOW])
        books.db.execute("update debt_link set payment_id = 'pay_1', url = 'https://p'")
        self.move(books.db)
        asked = books.db.one(links._sql["unfinished_of"], {"user_id": "usr_ben", "limit": 5})
        assert asked is not None
        assert (asked["payment_id"], asked["state"]) == ("pay_1", "superseded")
        assert books.db.value("select complete_link('pay_1', 'txn', %s)", [NOW])
        assert self.owners(books.db) == [("usr_ben", "paid")]
        assert not has_debt(books.db)
        assert books.db.value("select overpaid from debt_link") == 0

    def test_an_amount_while_the_debt_changes_hands(self, books: Books, race: Race) -> None:
        """Whoever has the debt then is judged."""
        books.open("a", None)
        race.first(self.move)
        record = "select record_debt_amount(1, 9, 0, 'usd', now())"
        recorded = race.second(lambda mine: mine.execute(record))
        assert recorded.waits
        race.commit()
        recorded.answer  # noqa: B018 - raises where the work failed
        assert self.owners(books.db) == [("usr_ben", None)]
        assert books.db.value("select has_debt from users where id = 'usr_ben'") is True


JUDGE = "select judge_debts('usr_ana')"
OPEN = "select open_debt('usr_ana', 'lost_dispute', 'x', 1, 'usd', now())"
END = "select end_debts(array[1]::bigint[], 'forgiven', 'a', 'n', now())"
RECORD = "select record_debt_amount(1, 1, 0, 'usd', now())"
COMPLETE = "select complete_link('pay_1', 'txn', now())"
OFFER = "select count(*) from offer_debts('usr_ana', now())"
RESOLVE = "select resolve_delivery('usr_ana', 'e', 'n', false)"
LOST = "select mark_lost(10)"
CREDIT = "select credit_closed_periods(10)"


class TestOneAfterTheOther:
    """Whoever changes a user's debts locks the user first, so nothing is counted by two at once."""

    @pytest.fixture(autouse=True)
    def _given(self, books: Books) -> None:
        books.open("inv", None, "voided_invoice")
        books.db.execute(
            "insert into debt_link (user_id, debts, net, currency, created_at, payment_id)"
            " values ('usr_ana', array[1], 7, 'usd', now(), 'pay_1')"
        )
        books.db.execute(
            "insert into subscriptions (id, user_id, status, created_at, changed_at)"
            " values ('sub_1', 'usr_ana', 'canceled', now(), now())"
        )
        books.db.execute(
            "insert into usage_period (user_id, subscription_id, starts_at, ends_at, closed_at)"
            " values ('usr_ana', 'sub_1', now() - interval '9 days', now() - interval '1 day',"
            " now() - interval '1 day')"
        )
        books.db.execute(
            "insert into usage_total (period, feature, total, claimed, seq)"
            " values (1, 'storage', 4, 10, 1)"
        )
        books.db.execute(
            "insert into usage_delivery (period, feature, seq, user_id, quantity, event_id, body,"
            " state, reason) values (1, 'storage', 1, 'usr_ana', 10, 'e', '{\"value\": 10}',"
            " 'parked', 'no_active_subscription')"
        )

    @pytest.mark.parametrize(
        "work",
        [JUDGE, OPEN, END, RECORD, COMPLETE, OFFER, RESOLVE, LOST, CREDIT],
        ids=["judge", "open", "end", "record", "complete", "offer", "resolve", "lost", "credit"],
    )
    def test_it_waits_for_the_user(self, race: Race, work: str) -> None:
        race.first(lambda mine: mine.execute("select from users for no key update"))
        other = race.second(lambda mine: mine.value(work))
        assert other.waits
        # Nothing was locked or read before: the user's lock comes first.
        for table in ("debt", "debt_link", "usage_total", "usage_delivery"):
            race.first(
                partial(Database.execute, statement=f"select from {table} for update nowait")
            )
        race.commit()
        other.answer  # noqa: B018 - raises where the work failed

    @pytest.mark.parametrize(
        ("busy", "lease"),
        [
            ("select from invoice_search for update", invoices._sql["lease_searches"]),
            ("select from debt for update", reading._sql["lease_unread"]),
            ("select from debt_link for update", links._sql["lease_unfinished"]),
        ],
        ids=["searches", "unread", "links"],
    )
    def test_nobody_waits_to_lease(self, race: Race, db: Database, busy: str, lease: str) -> None:
        """A run leaves out what another run is busy with."""
        db.execute(
            "insert into invoice_search (subscription_id, user_id, due_at)"
            " values ('sub_1', 'usr_ana', now())"
        )
        db.execute("update debt_link set due_at = now()")
        work = lambda mine: len(mine.all(lease, {"limit": 5}))  # noqa: E731
        passes_by(race, db, busy, work, nothing=0, all_of_it=1)


def test_many_debts_at_once(books: Books, database_url: str) -> None:
    """Debts that open at the same time, the same ones twice: each is there once."""

    def work(number: int) -> None:
        with own_database(database_url) as own:
            own.execute(
                "select open_debt('usr_ana', 'lost_dispute', %s, 1, 'usd', now())",
                [f"txn_{number % 6}"],
            )

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(24)))
    assert books.db.value("select count(*) from debt") == 6
    assert has_debt(books.db)
