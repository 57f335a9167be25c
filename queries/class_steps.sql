-- Shares of the classes at each step of a training run.
-- $run: the run's name, as in the column run of models
-- $classifier: the classifier's name
-- $merge = none: derivatives (the four first derivatives as one), centres (crosses count as centres), or none
SELECT step, class, count(*) AS filters, round(100.0 * count(*) / sum(count(*)) OVER (PARTITION BY step), 2) AS percent,
       round(avg(template_score), 3) AS mean_template_score
FROM (SELECT step, template_score, coalesce(CASE $merge
             WHEN 'derivatives' THEN regexp_replace(class, '^d[xy]_(plus|minus)$', 'first_derivative')
             WHEN 'centres' THEN regexp_replace(class, '_cross$', '_centre') ELSE class END, '(dead)') AS class
      FROM classes JOIN filters USING (filter_id) JOIN models USING (model)
      WHERE classifier = $classifier AND run = $run)
GROUP BY step, class
ORDER BY step, filters DESC, class
