"""Alarms that are raised once for each subject: a day, a currency or a plan.

The statement that finds the reason stores the alarm (`database/routines/spending.sql`,
`subscriptions/plans.sql`), and the next run of deliver_usage raises it.
"""

from collections import Counter

from aws_lambda_powertools import Logger

from billing.database.connection import Database
from billing.database.statements import Statements

_sql = Statements(__file__)

logger = Logger(child=True)


def ring(db: Database) -> Counter[str]:
    """Logs each alarm that was stored since the last run. Returns the number of alarms of each
    kind.

    Kinds: `near_ceiling` (a user passed four fifths of the default ceiling, the first one that
    day), `currency_without_ceiling`, `plan_not_sold` (a public plan is not supported), and
    `currency_not_offered` (Commet charges in a currency that the plans do not name).
    """
    noted = db.all(_sql["ring"])
    for row in noted:
        logger.warning(f"alarm.{row['alarm']}", subject=row["subject"], user_id=row["about"])
    return Counter(str(row["alarm"]) for row in noted)
