-- Shares of the classes in each layer of a model, from input to output.
-- $model: the model's name
-- $classifier: the classifier's name
-- $merge = none: derivatives (the four first derivatives as one), centres (crosses count as centres), or none
SELECT depth, layer, class, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY layer), 2) AS percent
FROM (SELECT depth, layer, coalesce(CASE $merge
             WHEN 'derivatives' THEN regexp_replace(class, '^d[xy]_(plus|minus)$', 'first_derivative')
             WHEN 'centres' THEN regexp_replace(class, '_cross$', '_centre') ELSE class END, '(dead)') AS class
      FROM classes JOIN filters USING (filter_id)
      WHERE classifier = $classifier AND model = $model)
GROUP BY depth, layer, class
ORDER BY depth, filters DESC, class
