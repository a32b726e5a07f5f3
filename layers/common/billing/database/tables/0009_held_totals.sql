-- Totals that are being replaced: few, and asked for by every claim.
create index usage_total_held on usage_total (feature, period) where held_until = 'infinity';
