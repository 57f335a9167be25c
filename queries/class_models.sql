-- Shares of the classes in each model.
-- $classifier: the classifier's name
-- $models = *: only models of this name or glob
-- $merge = none: derivatives (the four first derivatives as one), centres (crosses count as centres), or none
SELECT model, class, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY model), 2) AS percent
FROM (SELECT model, coalesce(CASE $merge
             WHEN 'derivatives' THEN regexp_replace(class, '^d[xy]_(plus|minus)$', 'first_derivative')
             WHEN 'centres' THEN regexp_replace(class, '_cross$', '_centre') ELSE class END, '(dead)') AS class
      FROM classes JOIN filters USING (filter_id)
      WHERE classifier = $classifier AND model GLOB $models)
GROUP BY model, class
ORDER BY model, filters DESC, class
