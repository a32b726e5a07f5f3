-- name: owing
select amount, currency from debtor
where user_id = %(user_id)s and is_debtor
order by currency
limit 1
